"""utils/forward.sh and utils/declared.py: a script takes the options that its workers declare, and hands them on."""

import os

import pytest

STEP = """#!/usr/bin/env bash
# Counts.
set -euo pipefail
nj=2  # number of jobs
_forward_to=("of_test.count but out job repeated" "of_test.verbs show only rate order")
. "${0%"${0##*/}"}../utils/parse_options.sh"
. "$SVQ_ROOT/utils/step.sh"
(($# == 1)) || { echo "count.sh: needs one" >&2; exit 2; }
step --out "$1" --neutral how
printf '%s\\n' "$nj|$rate|$names|$center" "${to_count[@]}" "--" "${to_show[@]}" > "$1"
"""
COUNT = '''
import argparse
from of_test.more import RATE

def boolean(text):
    return text == "true"

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--job", type=int)
    parser.add_argument("--repeated", action="append")
    parser.add_argument("--rate", type=float, default=RATE, help="100 %% is %(default)s")
    parser.add_argument("--top-n", type=int, help="how many")
    parser.add_argument("--center", type=boolean, default=True)
    parser.add_argument("--entropy", action="store_true")
    parser.add_argument("--names", nargs="*", default=["a", "b"])
    parser.add_argument("--levels", nargs="+", type=int, default=[3])
    parser.add_argument("--how", choices=["fast", "slow"], default="fast", help="which way")
    parser.add_argument("--kind", default="x", help="of a name that the shell's functions use, too")
    parser.add_argument("--title", default="Two words")
    print(parser.parse_args())
'''
VERBS = '''
import argparse
from of_test.more import RATE

def main():
    parser = argparse.ArgumentParser()
    show = parser.add_subparsers().add_parser("show")
    show.add_argument("--rate", type=float, default=RATE)
    show.add_argument("--order")
    show.add_argument("--far")
    parser.parse_args()
'''


@pytest.fixture
def count(shell):
    shell.write("steps/count.sh", STEP)
    for name, text in (("count", COUNT), ("verbs", VERBS), ("more", "RATE = 0.5\n"), ("__init__", "")):
        shell.write("python/of_test/%s.py" % name, text)
    (shell.folder / "utils").symlink_to(shell.root / "utils")
    shell.env["PYTHONPATH"] = str(shell.folder / "python")
    return lambda *options, **kw: shell("bash", "steps/count.sh", *options, **kw)


def given(count, shell, *options):
    """(variables, words for the first worker, words for the second) of a run with these options."""
    count(*options, "made", SVQ_FORCE="1")
    words = shell.read("made").splitlines()
    end = words.index("--")
    return words[0], words[1:end], words[end + 1:]


@pytest.mark.parametrize("options, variables, first, second", [
    ([], "2|0.5|a b|true", [], []),
    (["--nj", "3"], "3|0.5|a b|true", [], []),
    (["--rate", "2"], "2|2|a b|true", ["--rate", "2"], ["--rate", "2"]),
    (["--rate=-2"], "2|-2|a b|true", ["--rate=-2"], ["--rate=-2"]),
    (["--order", "x y"], "2|0.5|a b|true", [], ["--order", "x y"]),
    (["--order", ""], "2|0.5|a b|true", [], []),
    (["--top_n", "4", "--top-n=5"], "2|0.5|a b|true", ["--top-n", "5"], []),
    (["--center", "--entropy"], "2|0.5|a b|true", ["--center", "true", "--entropy"], []),
    (["--center", "false", "--entropy", "false"], "2|0.5|a b|false", ["--center", "false"], []),
    (["--names", "c  d *"], "2|0.5|c  d *|true", ["--names", "c", "d", "*"], []),
    (["--names", ""], "2|0.5||true", ["--names"], []),
    (["--levels", "1 2", "--kind", "$(touch no) `touch no`"], "2|0.5|a b|true",
     ["--levels", "1", "2", "--kind", "$(touch no) `touch no`"], []),
    (["--title=--odd", "--how", "slow"], "2|0.5|a b|true", ["--how", "slow", "--title=--odd"], []),
])
def test_what_is_given_goes_to_its_workers(count, shell, options, variables, first, second):
    assert given(count, shell, *options) == (variables, first, second)
    assert not (shell.folder / "no").exists()


@pytest.mark.parametrize("options, told", [
    (["--no-such", "1"], "unknown option --no-such"),
    (["--out", "x"], "unknown option --out"),          # the script gives it
    (["--far", "x"], "unknown option --far"),          # of the second worker, but not forwarded
    (["--rate", "much"], "--rate takes a number, not 'much'"),
    (["--top-n", "1.5"], "--top-n takes an integer, not '1.5'"),
    (["--levels", "1 two"], "--levels takes an integer, not '1 two'"),
    (["--levels", ""], "--levels needs a value"),
    (["--center", "--nj", "two"], "--nj takes an integer"),
    (["--entropy=maybe"], "--entropy takes true or false, not 'maybe'"),
    (["--how", "slowly"], "--how takes one of fast slow, not 'slowly'"),
    (["--how", "fast slow"], "--how takes one of fast slow, not 'fast slow'"),
    (["--how", ""], "--how takes one of fast slow, not ''"),
    (["--rate", ""], "--rate takes a number, not ''"),
    (["--how", "--rate", "1"], "--how needs a value, not the option --rate"),
])
def test_a_wrong_option_is_one_line(count, shell, options, told):
    for environment in ({}, {"SVQ_DRY_RUN": "1"}):
        out, error = count(*options, "made", code=2, **environment)
        assert error.startswith("count.sh: ") and told in error and error.count("\n") == 1 and not out
    assert not (shell.folder / "made").exists()


def test_help_has_them_worker_by_worker(count):
    told, _ = count("--help")
    own, first, second = told.split("Options ")[1:]
    assert own.startswith("[default]:\n") and "--nj  integer  number of jobs [2]" in own
    assert first.startswith("of python3 -m of_test.count [default]:\n") and "--out" not in first
    assert "--rate     number   100 % is 0.5 [0.5]\n" in first and "--names    text     [a b]\n" in first
    assert "--how      text     fast or slow: which way [fast]\n" in first and "--entropy  boolean  [false]\n" in first
    assert second.startswith("of python3 -m of_test.verbs show [default]:\n") and "--order  text" in second


def test_settings_redo_the_work_and_so_do_changed_defaults(count, shell):
    count("made")
    assert "skip made" in count("made")[0]
    assert "skip made" in count("--how", "slow", "--rate", "0.5", "made")[0]      # neutral; the default
    assert "--top-n: '' -> '7'" in count("--top-n", "7", "made")[0]
    assert "--top-n: '7' -> ''" in count("made")[0]
    shell.write("python/of_test/more.py", "RATE = 0.25\n")                         # not the worker's own file
    assert "--rate: '0.5' -> '0.25'" in count("made", SVQ_DRY_RUN="1")[0]
    assert "--rate: '0.5' -> '0.25'" in count("made")[0] and shell.read("made").startswith("2|0.25|")


def settle(shell):
    """Make the files old enough for their options to be kept."""
    for path in [*shell.folder.glob("python/of_test/*.py"), shell.folder / "steps" / "count.sh"]:
        os.utime(path, ns=(10 ** 18, 10 ** 18 + len(path.name)))


def kept_list(shell):
    return shell.folder / "steps" / "__pycache__" / "options" / "count.sh.options"


def test_the_answer_is_kept_until_a_file_that_it_comes_from_changes(count, shell):
    settle(shell)
    count("--help")
    text = kept_list(shell).read_text().replace("how many", "kept")
    kept_list(shell).write_text(text)
    assert "--top-n    integer  kept" in count("--help")[0]
    older = shell.folder / "python" / "of_test" / "more.py"
    os.utime(older, ns=(10 ** 17, 10 ** 17))            # an older file is put in its place
    assert "--top-n    integer  how many" in count("--help")[0]
    kept_list(shell).write_text(text)
    assert "--top-n    integer  kept" in count("--help")[0]
    older.unlink()                                      # a source that is gone: asked again, and that fails
    _, error = count("--help", code=1)
    assert error.count("\n") == 1 and "of_test.count: No module named 'of_test.more'" in error


def test_a_file_that_has_just_changed_is_not_kept(count, shell):
    future = 4 * 10 ** 18
    os.utime(shell.folder / "python" / "of_test" / "more.py", ns=(future, future))
    assert "how many" in count("--help")[0] and not kept_list(shell).exists()


def test_a_folder_that_is_not_ours_is_asked_each_time(count, shell):
    (shell.folder / "steps" / "__pycache__").write_text("no folder")
    assert "how many" in count("--help")[0]
    assert given(count, shell, "--top-n", "3")[1] == ["--top-n", "3"]


@pytest.mark.parametrize("old, new, told", [
    ("but out job repeated", "but out job repeated gone", "python3 -m of_test.count has no --gone"),
    ("but out job repeated", "but out job", "--repeated of python3 -m of_test.count can be given several times"),
    ("nj=2 ", "top_n=2 ", "--top-n is declared here and by python3 -m of_test.count: name it after `but`"),
    ("only rate order", "only rat", "python3 -m of_test.verbs show has no --rat"),
    ("verbs show", "verbs tell", "of_test.verbs: has no verb tell"),
    ("of_test.verbs show", "of_test.none", "No module named 'of_test.none'"),
    ("of_test.verbs show only rate order", "of_test.more", "of_test.more: AttributeError"),
    ("of_test.verbs show only rate order", "of_test.count only kind", "two workers would have the array to_count"),
    ("of_test.verbs show only rate order", "a b c d", "write MODULE [VERB] [but|only NAME ...], not 'a b c d'"),
])
def test_a_wrong_declaration_is_one_line(count, shell, old, new, told):
    assert STEP.count(old) == 1
    shell.write("steps/count.sh", STEP.replace(old, new))
    done = shell.start("bash", "steps/count.sh", "made")
    _, error = done.communicate()
    assert done.returncode in (1, 2) and told in error and error.count("\n") == 1, error


def test_one_name_means_one_thing(count, shell):
    shell.write("python/of_test/verbs.py", VERBS.replace("type=float, default=RATE", "type=int, default=1"))
    assert "count.sh: --rate is not the same in all its workers" in count("made", code=1)[1]


def test_what_a_worker_needs_and_the_script_does_not_give_is_asked_for(count, shell):
    shell.write("python/of_test/count.py", COUNT.replace('"--top-n", type=int', '"--top-n", required=True, type=int'))
    _, error = count("made", code=2)
    assert error == "count.sh: needs --top-n (--help says more)\n"
    assert given(count, shell, "--top-n", "3")[1] == ["--top-n", "3"]


def test_another_script_that_is_wrong_is_no_obstacle(count, shell):
    shell.write("steps/other.sh", STEP.replace("of_test.count but", "of_test.none but"))
    assert given(count, shell, "--top-n", "3")[1] == ["--top-n", "3"]
