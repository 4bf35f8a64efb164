"""utils/stages.sh: a run.sh in small."""

import os
import signal
import subprocess

import pytest

RUN = """#!/usr/bin/env bash
# A recipe in small.
set -euo pipefail
cd "$(dirname "$0")"
stage=0
stop_stage=11
dry_run=false
force=false
exp=exp
rate=1     # goes into stage 2
. utils/parse_options.sh
. utils/stages.sh
if stage 1 "first"; then
  once --in corpus --out "$exp/one" -- cp corpus "$exp/one"
fi
if stage 2 "second"; then
  once --in "$exp/one" --out "$exp/two" -- bash -c 'cat "$1" > "$2"; echo "$4" >> "$2"' x \\
    "$exp/one" "$exp/two" --rate "$rate"
fi
if stage 3 "third"; then
  once --in "$exp/two" --out "$exp/three" -- bash -c "$(cat third)" x "$exp/two" "$exp/three"
fi
stages_done
"""


@pytest.fixture
def recipe(shell):
    shell.write("run.sh", RUN)
    shell.write("corpus", "speech\n")
    shell.write("third", 'cp "$1" "$2"')
    (shell.folder / "utils").symlink_to(shell.root / "utils")
    return lambda *args, **kw: shell("bash", "run.sh", *args, **kw)


def files(shell):
    return sorted(p.name for p in shell.folder.rglob("*") if p.name != "__pycache__")


def test_runs_once_and_redoes_what_follows(recipe, shell):
    assert "3 made, 0 up to date" in recipe()[0]
    assert "0 made, 3 up to date" in recipe()[0]
    out, _ = recipe("--rate", "2")
    assert "2 made, 1 up to date" in out and "--rate: '1' -> '2'" in out
    assert shell.read("exp/three") == "speech\n2\n"
    shell.write("corpus", "other\n")
    assert "3 made" in recipe("--rate", "2")[0]


def test_what_a_dead_run_left_at_work_is_waited_for(recipe, shell):
    """As long as SVQ_GRACE; a living run is not."""
    shell.write("exp/.lock", "pid 999999999 on %s since ever\n" % os.uname().nodename)
    call = ["python3", "-c", "import fcntl, sys; fcntl.flock(f := open('exp/.lock', 'r+'), 2); print(1, flush=True); sys.stdin.read()"]
    holder = subprocess.Popen(call, cwd=shell.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    assert "exp is in use by another run (pid 999999999" in recipe(code=1, SVQ_GRACE="0.1")[1]
    run = shell.start("bash", "run.sh")
    assert run.stdout.readline() == "waiting for what an earlier run left at work in exp to end\n"
    holder.communicate()
    assert "3 made" in run.communicate(timeout=100)[0] and run.returncode == 0


def test_two_experiments_share_what_they_make_alike(recipe, shell):
    """... and neither overwrites what the other made with other settings."""
    first = 'once --in corpus --out "$exp/one" -- cp corpus "$exp/one"'
    shared = 'once --out data/one -- bash -c \'mkdir -p data; echo "$2" > data/one\' x --rate "$rate"'
    assert first in RUN
    shell.write("run.sh", RUN.replace(first, shared).replace("$exp/one", "data/one"))
    assert "3 made" in recipe("--exp", "a")[0]
    assert "2 made, 1 up to date" in recipe("--exp", "b/")[0]
    _, err = recipe("--exp", "b", "--rate", "2", code=1)
    assert f"data/one was made for {shell.folder}/a with other settings (--rate: '1' -> '2')" in err
    assert shell.read("data/one") == "1\n"
    assert "0 made, 3 up to date" in recipe("--exp", "a")[0]


def test_stage_range(recipe):
    assert recipe("--stop-stage", "1")[0].count("stage") == 1
    out, _ = recipe("--stage", "2")
    assert "stage 1" not in out and "2 made" in out
    assert "1 made, 0" in recipe("--stage", "3", "--force")[0]


def test_missing_input(recipe):
    _, err = recipe("--stage", "2", code=1)
    assert err.splitlines() == ["bash: exp/one is missing", "run.sh: stage 1 makes it (cp): go on with --stage 1"]


def test_dry_run_touches_nothing(recipe, shell):
    before = files(shell)
    out, _ = recipe("--dry-run")
    assert "3 to make" in out and files(shell) == before
    recipe("--dry-run", "--stage", "2", code=1)
    recipe()
    assert "2 to make, 1 up to date" in recipe("--dry-run", "--rate", "5")[0]
    assert "0 to make, 3 up to date" in recipe("--dry-run")[0]


@pytest.mark.parametrize("args", [["--stage"], ["--stage", "five"], ["--no-such-option", "1"],
                                  ["--stage", "-1"], ["--stage", "5", "--stop-stage", "4"], ["5"],
                                  ["--stage", "$(touch harm)"]])
def test_wrong_command_line(recipe, shell, args):
    before = files(shell)
    _, err = recipe(*args, code=2)
    assert err.startswith("run.sh: ") and err.count("\n") == 1
    assert files(shell) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_lock(recipe, shell, marked, number):
    """A second run is refused; a killed one leaves nothing that runs and no lock."""
    shell.write("third", "touch started; sleep 600; true")
    first = shell.start("bash", "run.sh")
    shell.until((shell.folder / "started").exists, "stage 3 runs")
    _, err = recipe(code=1)
    assert "exp is in use by another run (pid %d on " % first.pid in err and err.count("\n") == 1
    assert "0 to make, 3" not in recipe("--dry-run")[0]      # reads only: not refused
    recipe("--exp", "other", "--stop-stage", "2")
    shell.write("third", 'cp "$1" "$2"')
    first.send_signal(number)
    first.communicate(timeout=60)
    assert "1 made, 2 up to date" in recipe()[0]
    assert not marked()


TOGETHER = RUN[: RUN.index("if stage 1")] + """
if stage 1 "side by side"; then
  at_a_time 2
  for name in a b c d; do
    once --in corpus --out "$exp/$name" -- bash -c "$(cat third)" x "$exp/$name" "$name"
  done
  all_done
fi
if stage 2 "after it"; then
  once --in "$exp/d" --out "$exp/end" -- cp "$exp/d" "$exp/end"
fi
stages_done
"""
# Waits until a second command is running, so it would hang for ever if they ran one after another.
MEET = 'touch "$1.here"; while [[ $(ls exp/*.here | wc -l) -lt 2 ]]; do sleep 0.01; done; touch "$1"'


def test_at_a_time_runs_commands_side_by_side(recipe, shell):
    shell.write("run.sh", TOGETHER)
    shell.write("third", MEET)
    assert "4 to make" in recipe("--dry-run", "--stop-stage", "1")[0]
    assert "5 made, 0 up to date" in recipe()[0]
    assert "0 made, 5 up to date" in recipe()[0]


def test_at_a_time_with_a_failure_starts_no_more_and_says_the_stage(recipe, shell):
    shell.write("run.sh", TOGETHER)
    shell.write("third", 'sleep 0.3; [[ $2 != a ]] && touch "$1"')
    _, err = recipe(code=1)
    assert "stage 1 failed" in err
    assert (shell.folder / "exp/b").exists() and not (shell.folder / "exp/d").exists()
    shell.write("third", 'touch "$1"')
    recipe()


def test_at_a_time_leaves_nothing_running_when_killed(recipe, shell, marked):
    shell.write("run.sh", TOGETHER)
    shell.write("third", 'touch "$1.here"; sleep 600; true')
    run = shell.start("bash", "run.sh")
    shell.until(lambda: len(list(shell.folder.glob("exp/*.here"))) == 2, "two are running")
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    shell.until(lambda: not marked(), "all have ended")
