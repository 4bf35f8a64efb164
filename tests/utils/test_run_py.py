"""utils/run.py: jobs, their logs, and what becomes of them."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from utils import guard


def output(shell, name):
    """The lines of a log between its header and its end."""
    lines = shell.read(name).split("\n")
    return lines[lines.index("#") + 1:-3]


@pytest.fixture
def run(shell):
    return lambda *args, **kw: shell("run.py", *args, **kw)


def test_job_number_in_log_and_arguments(run, shell):
    run("JOB=2:4", "log folder/x.JOB.log", "bash", "-c", 'echo "$1" > "$2"', "x", "a JOB b", "out JOB")
    for i in (2, 3, 4):
        assert shell.read("out %d" % i) == "a %d b\n" % i
        assert (shell.folder / ("log folder/x.%d.log" % i)).exists()


def test_log(run, shell):
    shell.write("x.log", "an old log, longer than the new one\n" * 100)
    run("x.log", "bash", "-c", "echo out; echo err >&2; printf open", "it's", "$HOME")
    lines = shell.read("x.log").split("\n")
    assert lines[0] == """# bash -c 'echo out; echo err >&2; printf open' 'it'"'"'s' '$HOME'"""
    assert lines[1].startswith("# Host: ") and lines[2].startswith("# Started: ") and lines[3] == "#"
    assert lines[4:7] == ["out", "err", "open"]
    assert re.fullmatch(r"# Time: [\d.]+ s, peak memory: \d+ MB", lines[7])
    assert lines[8].startswith("# Ended (code 0)") and lines[9:] == [""]


def test_peak_memory_is_the_jobs(run, shell):
    run("x.log", "python3", "-c", "x = b'x' * 300_000_000")
    peak = int(re.search(r"peak memory: (\d+) MB", shell.read("x.log"))[1])
    assert 290 <= peak <= 400


def test_arguments_are_not_for_a_shell(run, shell):
    run("x.log", "printf", "%s\n", "$HOME", "a|b", "<unk>", "*", "$(touch harm)", "a  b", "")
    assert output(shell, "x.log") == ["$HOME", "a|b", "<unk>", "*", "$(touch harm)", "a  b", ""]
    assert not (shell.folder / "harm").exists()


def test_shell_operators(run, shell):
    run("JOB=1:2", "x.JOB.log", "echo", "a JOB $HOME", "|", "tr", "a", "b", ">", "out file JOB")
    assert shell.read("out file 2") == "b 2 $HOME\n"
    run("x.log", "echo one && echo two > 'file two'")
    assert shell.read("file two") == "two\n"
    run("x.log", "false", "|", "cat", code=1)


def test_program_with_a_space_in_its_name(run, shell):
    shell.write("my program", "#!/bin/sh\necho ran\n", executable=True)
    run("x.log", "./my program")
    assert "ran" in shell.read("x.log")


def test_failed_job_is_named(run, shell):
    _, err = run("--max-jobs-run", "4", "JOB=1:4", "log/x.JOB.log", "bash", "-c",
                 'echo "message of $1"; exit $(($1 == 3 ? 7 : 0))', "x", "JOB", code=1)
    assert "job 3 of 4 failed (code 7); log: log/x.3.log" in err
    assert "message of 3" in err and "message of 2" not in err and "1 of 4 jobs failed" in err
    assert "# Ended (code 7)" in shell.read("log/x.3.log")


def test_command_that_does_not_exist(run):
    _, err = run("x.log", "no-such-command", code=1)
    assert "code 127" in err and "cannot run no-such-command" in err


def test_killed_job(run, shell):
    _, err = run("x.log", "bash", "-c", "kill -9 $$", code=1)
    assert "code 137, killed by SIGKILL" in err and "# Ended (code 137)" in shell.read("x.log")


def test_no_more_jobs_after_a_failure(run, shell):
    _, err = run("--max-jobs-run", "1", "JOB=1:5", "x.JOB.log", "bash", "-c", "exit $((JOB == 2))",
                 code=1)
    assert "3 were not started" in err
    assert sorted(p.name for p in shell.folder.glob("x.*.log")) == ["x.1.log", "x.2.log"]


@pytest.mark.parametrize("most, jobs", [(1, 3), (2, 5), (8, 3)])
def test_jobs_at_once(run, shell, most, jobs):
    """Every job notes the others that it sees; together they reach the limit and never pass it."""
    (shell.folder / "now").mkdir()
    want = min(most, jobs - 1 if most == 2 else jobs)
    run("--max-jobs-run", most, "JOB=1:%d" % jobs, "x.JOB.log", "bash", "-c", """
        touch now/$1
        for i in {1..200}; do
          n=$(ls now | wc -l); echo $n >> seen
          if ((n >= $2 || $1 > $2)); then break; fi
          sleep 0.05
        done
        sleep 0.1
        rm now/$1""", "x", "JOB", want)
    assert max(map(int, shell.read("seen").split())) == want


def test_threads(run, shell):
    def threads(*args, **env):
        run(*args, "x.JOB.log", "bash", "-c", 'echo "omp=${OMP_NUM_THREADS-unset}"', **env)
        return output(shell, "x.1.log")[0][4:]
    assert threads("--num-threads", "3", "JOB=1:1") == "3"
    assert threads("JOB=1:1") == "unset"
    assert threads("--max-jobs-run", "2", "JOB=1:2") == "1"
    assert threads("--max-jobs-run", "2", "JOB=1:2", OMP_NUM_THREADS="5") == "5"


def test_gpus_are_shared_out(run, shell):
    (shell.folder / "held").mkdir()
    run("--gpu", "2", "JOB=1:6", "x.JOB.log", "bash", "-ec", """
        for g in ${CUDA_VISIBLE_DEVICES/,/ }; do mkdir held/$g; done
        echo gpus $CUDA_VISIBLE_DEVICES; sleep 0.1
        for g in ${CUDA_VISIBLE_DEVICES/,/ }; do rmdir held/$g; done""",
        CUDA_VISIBLE_DEVICES="0,3,5,6,7")
    used = [output(shell, "x.%d.log" % i)[0][5:] for i in range(1, 7)]
    assert all(len(set(u.split(",")) & set("03567")) == 2 for u in used)


def test_gpus_from_the_driver(run, shell):
    shell.write("fake bin/nvidia-smi", "#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: B'\n", executable=True)
    shell.env.pop("CUDA_VISIBLE_DEVICES", None)
    run("--gpu", "2", "x.log", "bash", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert "\n0,1\n" in shell.read("x.log")
    _, err = run("--gpu", "3", "x.log", "true", code=2)
    assert "this machine has 2" in err


def test_a_full_disk_is_named(run):
    _, err = run("/dev/full", "true", code=1)
    assert err == "run.py: /dev/full: No space left on device; free some space or write elsewhere, then run it again\n"


@pytest.mark.parametrize("args", [
    [], ["x.log"], ["JOB=1:2", "x.JOB.log"], ["JOB=2:1", "x.JOB.log", "true"],
    ["JOB=1:2", "x.log", "true"], ["--no-such", "1", "x.log", "true"], ["--mem"],
    ["--max-jobs-run", "0", "x.log", "true"], ["--num-threads", "two", "x.log", "true"],
    ["--gpu", "-1", "x.log", "true"], ["--mem", "--gpu", "1", "x.log", "true"]])
def test_wrong_command_line(run, args):
    _, err = run(*args, code=2)
    assert err.startswith("run.py: ") and err.count("\n") == 1


def test_options_for_a_cluster_are_taken(run):
    run("--mem", "4G", "--time=1:00", "--partition", "gpu", "x.log", "true")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_killed_takes_its_jobs_along(shell, marked, number):
    process = shell.start("run.py", "--max-jobs-run", "2", "JOB=1:2", "x.JOB.log", "bash", "-c",
                          "touch up.JOB; setsid sleep 600 & (sleep 600; true); true")
    shell.until(lambda: len(list(shell.folder.glob("up.*"))) == 2, "both jobs run")
    process.send_signal(number)
    process.communicate(timeout=60)
    shell.until(lambda: not marked(), "all are gone")
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "# Ended (code %d)" % (128 + number) in shell.read("x.1.log")


def test_nested_and_killed_at_the_top(shell, marked):
    """run.sh -> once.py -> step -> run.py -> job, killed as hard as can be."""
    shell.write("top.sh", 'python3 "$SVQ_ROOT/utils/once.py" --out y -- bash step.sh; true\n')
    shell.write("step.sh", "run.py x.log bash -c 'touch up; sleep 600; true'; true\n")
    process = shell.start("bash", "top.sh")
    shell.until((shell.folder / "up").exists, "the job runs")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    shell.until(lambda: not marked(), "all are gone")


def test_suspended_job_goes_on(shell):
    """As after Ctrl-Z and fg: run.py, its guard and the job are stopped for longer than any wait lasts."""
    process = shell.start("run.py", "x.log", "bash", "-c", "touch up; until [[ -e go ]]; do sleep 0.05; done")
    shell.until(lambda: (shell.folder / "up").exists(), "the job runs")
    pids = [process.pid, *guard.descendants(process.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    shell.write("go", "")
    process.communicate(timeout=60)
    assert process.returncode == 0 and "# Ended (code 0)" in shell.read("x.log")


def guards(process):
    """The guards below a process: forks, whose command line is that of the program that forked."""
    found = [process.pid, *guard.descendants(process.pid)]
    lines = {pid: (Path("/proc") / str(pid) / "cmdline").read_bytes() for pid in found}
    parents = {pid: int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1]) for pid in found}
    return [pid for pid in found if lines.get(parents[pid]) == lines[pid] and b"/utils/" in lines[pid]]


@pytest.mark.parametrize("which", [0, 1, "alone"])
def test_killed_guard_leaves_nothing(shell, marked, which):
    """kill -9 of a guard, once.py's, run.py's, run.py's without once.py: grandchildren are gone, and so is the lock."""
    lock = 'exec {lock}<>lock; flock -n "$lock" || exit 9; '
    shell.write("top.sh", lock + 'python3 "$SVQ_ROOT/utils/once.py" --out y -- bash step.sh')
    job = "run.py x.log bash -c '(setsid sleep 600 & (sleep 600; true) & touch up; wait); true'; true\n"
    shell.write("step.sh", "bash -c 'sleep 600; true' & " + job)
    if which == "alone":
        shell.write("top.sh", lock + job)
    process = shell.start("bash", "top.sh")
    shell.until((shell.folder / "up").exists, "the job runs")
    found = guards(process)
    assert len(found) == (1 if which == "alone" else 2)
    os.kill(found[0 if which == "alone" else which], signal.SIGKILL)
    process.communicate(timeout=60)
    shell("flock", "-n", "lock", "true")
    assert not marked()


def test_grace_is_given_and_ends_with_the_job(shell):
    """A job has SVQ_GRACE seconds to end well; one that will not is killed after them."""
    text = "trap 'sleep 0.5; touch saved; exit 3' TERM; touch up; while true; do sleep 0.05; done"
    stubborn = text.replace("sleep 0.5; touch saved; exit 3", "")
    for name, grace, trap in [("saves", "60", text), ("hangs", "0.2", stubborn)]:
        process = shell.start("run.py", name + ".log", "bash", "-c", trap, SVQ_GRACE=grace)
        shell.until((shell.folder / "up").exists, "the job runs")
        process.terminate()
        process.communicate(timeout=30)
        (shell.folder / "up").unlink()
    assert (shell.folder / "saved").exists()
