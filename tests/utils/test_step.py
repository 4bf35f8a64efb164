"""utils/step.sh: a script that says itself what it reads and makes."""

import os

import pytest

STEP = """#!/usr/bin/env bash
# Counts.
set -euo pipefail
cmd=run.py
rate=1
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "$SVQ_ROOT/utils/step.sh"
(($# == 2)) || { echo "count.sh: needs two" >&2; exit 2; }
step --in "$1" --out "$2"
echo "${SVQ_IN_STEP-}${SVQ_PIECES-}${SVQ_TELL-}$rate" >> ran
bash steps/other.sh
wc -l < "$1" > "$2"
"""
OTHER = """#!/usr/bin/env bash
set -euo pipefail
which=a
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "$SVQ_ROOT/utils/step.sh"
parts=()
for name in $which; do parts+=(--piece "$name" --out "$name.made"); done
step --neutral which "${parts[@]}"
for name in "${pieces[@]}"; do echo "$name" >> pieces; touch "$name.made"; done
"""


@pytest.fixture
def count(shell):
    shell.write("steps/count.sh", STEP)
    shell.write("steps/other.sh", OTHER)
    (shell.folder / "utils").symlink_to(shell.root / "utils")
    shell.write("in put", "1\n")
    return lambda *options, **kw: shell("bash", "steps/count.sh", *options, "in put", "out put", **kw)


def test_a_step_by_hand_is_skipped_where_it_is_up_to_date(count, shell):
    assert "make out put" in count()[0] and shell.read("out put") == "1\n"
    assert count("--cmd", "slurm.py")[0] == "  skip out put (up to date)\n"
    assert "--rate: '1' -> '3'" in count("--rate", "3")[0]
    assert "forced" in count("--rate", "3", SVQ_FORCE="1")[0]
    before = shell.read("ran")
    shell.write("in put", "1\n2\n")
    assert "would make out put (in put changed): steps/count.sh --rate 3 in put out put" in count(
        "--rate", "3", SVQ_DRY_RUN="1")[0]
    assert shell.read("ran") == before == "1\n3\n3\n" and shell.read("out put") == "1\n"


def test_a_changed_default_redoes_the_step(count, shell):
    count()
    shell.write("steps/count.sh", STEP.replace("rate=1", "rate=2"))
    assert "--rate: '1' -> '2'" in count()[0]


def test_a_step_within_a_step_is_one_of_its_own(count, shell):
    """What run.sh asks of the outer one (to tell, to force) is not asked of the inner one."""
    count(code=10, SVQ_TELL="1", SVQ_FORCE="1")
    assert shell.read("pieces") == "a\n"
    count("--rate", "2")
    assert shell.read("pieces") == "a\n"
    shell("bash", "steps/other.sh", "--which", "a b c")
    assert shell.read("pieces") == "a\nb\nc\n"


def test_a_step_runs_from_any_folder(count, shell):
    out, _ = shell("bash", "-c", "cd steps && bash other.sh && cd / && bash \"$1\"/steps/other.sh --help", "x", shell.folder)
    assert "make a.made" in out and (shell.folder / "steps" / "a.made").exists()


def test_what_a_killed_run_left_is_taken_up_where_all_that_went_in_is_the_same(shell):
    text = STEP.replace('echo "', 'fresh "left over"; mkdir -p "left over"; ls "left over" > seen; touch "left over/x"; echo "')
    shell.write("steps/count.sh", text.replace("bash steps/other.sh", "[[ ! -e stop ]]").replace(
        'step --in', 'step --recordings list --in'))
    (shell.folder / "utils").symlink_to(shell.root / "utils")
    for name in ("in put", "list", "a.wav"):
        shell.write(name, "a a.wav\n")

    def call(code=1, **kw):
        shell("bash", "steps/count.sh", "in put", "out put", code=code, **kw)
        return shell.read("seen")

    shell.write("stop", "")
    assert call() == "" and call() == "x\n"
    os.utime(shell.folder / "a.wav", (1, 1))
    assert call() == "" and call() == "x\n"
    assert call(SVQ_FORCE="1") == ""
    (shell.folder / "stop").unlink()
    assert call(0) == "x\n"
    os.utime(shell.folder / "a.wav", (2, 2))
    assert call(0) == ""


@pytest.mark.parametrize("args", [["one"], ["--no-such", "1"], ["--rate", "many"]])
def test_wrong_command_line(count, shell, args):
    _, err = shell("bash", "steps/count.sh", *args, code=2)
    assert err.count("\n") == 1 and err.startswith("count.sh: ")
