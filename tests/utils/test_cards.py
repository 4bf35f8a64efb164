"""utils/cards.py by way of run.py: jobs of different calls get different GPUs, and a dead run holds none."""

import os
import signal

import pytest

WAIT = "until [[ -e go ]]; do sleep 0.02; done"


@pytest.fixture
def machine(shell):
    """`machine(8)`: nvidia-smi lists so many cards."""
    def make(cards, first=0):
        lines = "".join("echo 'GPU %d: NVIDIA H100 80GB HBM3 (UUID: GPU-%08x-aaaa-bbbb-cccc-000000000000)'\n"
                        % (i, 0x11111111 * (first + i + 1)) for i in range(cards))
        shell.write("fake bin/nvidia-smi", "#!/bin/sh\n" + lines, executable=True)
        shell.env.pop("CUDA_VISIBLE_DEVICES", None)
        return shell
    return make


def start(shell, name, *options, script=WAIT, **env):
    """A run.py whose job writes its cards to the file `name`, and waits for the file `go`."""
    return shell.start("run.py", *(options or ("--gpu", "1")), name + ".log", "bash", "-c",
                       'echo "$CUDA_VISIBLE_DEVICES" > part.$0; mv part.$0 $0; ' + script, name, **env)


def cards_of(shell, name):
    shell.until((shell.folder / name).exists, "%s runs" % name)
    return shell.read(name).strip().split(",")


def finish(shell, *processes):
    shell.write("go", "")
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err


def test_three_jobs_of_three_calls_get_three_cards_of_eight(machine):
    shell = machine(8)
    runs = [start(shell, name) for name in "abc"]
    used = [card for name in "abc" for card in cards_of(shell, name)]
    assert len(set(used)) == 3 and set(used) <= set("01234567")
    finish(shell, *runs)


def test_of_the_cards_that_the_user_names(machine):
    shell = machine(8)
    runs = [start(shell, name, CUDA_VISIBLE_DEVICES="5, 2,7") for name in "abc"]
    assert sorted(card for name in "abc" for card in cards_of(shell, name)) == ["2", "5", "7"]
    finish(shell, *runs)


def test_more_jobs_than_cards_wait_and_say_so(machine):
    shell = machine(2)
    runs = [start(shell, name) for name in "ab"]
    assert sorted(card for name in "ab" for card in cards_of(shell, name)) == ["0", "1"]
    third = start(shell, "c", script="true")
    assert third.stderr.readline() == "run.py: c.log waits for a GPU of 0,1: others have the rest\n"
    assert not (shell.folder / "c").exists()
    finish(shell, *runs, third)
    assert cards_of(shell, "c")[0] in "01"


def test_a_card_is_given_back_while_other_jobs_of_the_call_go_on(machine):
    """Job 1 ends; job 2, whose guard began while card 0 was locked, does not keep that card."""
    shell = machine(2)
    both = shell.start("run.py", "--gpu", "1", "JOB=1:2", "x.JOB.log", "bash", "-c",
                       "touch up.$0; until [[ -e end.$0 ]]; do sleep 0.02; done", "JOB")
    for i in (1, 2):
        shell.until((shell.folder / ("up.%d" % i)).exists, "job %d runs" % i)
    shell.write("end.1", "")
    other = start(shell, "b")
    assert cards_of(shell, "b") == ["0"]
    shell.write("end.2", "")
    finish(shell, both, other)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_run_holds_no_card(machine, number):
    shell = machine(1)
    first = start(shell, "a")
    cards_of(shell, "a")
    os.kill(first.pid, number)
    first.communicate(timeout=60)
    second = start(shell, "b", script="true")
    assert cards_of(shell, "b") == ["0"]
    finish(shell, second)


def test_two_cards_or_none(machine):
    """While one of three is taken a job of two gets the others; a second one waits with none in hand."""
    shell = machine(3)
    one, two = start(shell, "a"), None
    assert cards_of(shell, "a") == ["0"]
    two = start(shell, "b", "--gpu", "2")
    assert cards_of(shell, "b") == ["1", "2"]
    more = [start(shell, name, "--gpu", "2", script="true") for name in "cd"]
    finish(shell, one, two, *more)
    assert all(len(set(cards_of(shell, name))) == 2 for name in "cd")


def test_jobs_of_a_cluster_that_each_see_card_0_do_not_wait_for_each_other(machine):
    """Each job sees its own cards alone, numbered from 0; they are known by UUID."""
    shell = machine(1)
    first = start(shell, "a", CUDA_VISIBLE_DEVICES="0")
    assert cards_of(shell, "a") == ["0"]
    machine(1, first=1)
    second = start(shell, "b", CUDA_VISIBLE_DEVICES="0")
    assert cards_of(shell, "b") == ["0"]
    finish(shell, first, second)


def test_a_card_by_number_and_by_uuid_is_one_card(machine):
    shell = machine(2)
    first = start(shell, "a", CUDA_VISIBLE_DEVICES="GPU-1111")
    assert cards_of(shell, "a") == ["GPU-1111"]
    second = start(shell, "b")
    assert cards_of(shell, "b") == ["1"]
    finish(shell, first, second)


def test_a_job_that_calls_run_py_has_its_own_cards(machine):
    """And shares them out: the two calls within it, at the same time, get one each."""
    shell = machine(3)
    inner = "; ".join('run.py --gpu 1 %s.log bash -c "echo \\$CUDA_VISIBLE_DEVICES > %s; until [[ -e c && -e d ]]; '
                      'do sleep 0.02; done" &' % (name, name) for name in "cd").replace("&;", "&")
    outer = start(shell, "a", "--gpu", "2", script=inner + " wait")
    assert cards_of(shell, "a") == ["0", "1"]
    finish(shell, outer)
    assert sorted(cards_of(shell, "c") + cards_of(shell, "d")) == ["0", "1"]


def test_a_lock_that_is_a_link_is_refused(machine):
    shell = machine(1)
    (shell.folder / ".svq-gpus.lock").symlink_to("elsewhere")
    _, err = shell("run.py", "--gpu", "1", "x.log", "true", code=1)
    assert err.count("\n") == 1 and ".svq-gpus.lock" in err and not (shell.folder / "elsewhere").exists()
