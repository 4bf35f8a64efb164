"""utils/parse_options.sh."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

UTILS = Path(__file__).resolve().parents[2] / "utils"
SCRIPT = """#!/usr/bin/env bash
# Trains a thing.
#
# Usage: train.sh data model
set -euo pipefail
nj=4             # number of jobs
learning_rate=0.1    # of the first epoch,
                     # then it falls
augment=true     # add "noise" # and rooms
corpus=          # folder of the corpus
systems="teacher # student"   # what runs
# Stands above its option.
stage=0
_helper=1
. utils/parse_options.sh
after=1
printf '%s\\n' "$nj" "$learning_rate" "$augment" "$corpus" "$systems" "$stage" "$#" "$@"
"""
DEFAULTS = ["4", "0.1", "true", "", "teacher # student", "0", "0"]


@pytest.fixture
def script(shell):
    shell.write("train.sh", SCRIPT)
    (shell.folder / "utils").symlink_to(shell.root / "utils")
    return lambda *args, **kw: shell("bash", "train.sh", *args, **kw)


def values(**changed):
    names = ["nj", "learning_rate", "augment", "corpus", "systems", "stage"]
    return [changed.get(n, d) for n, d in zip(names, DEFAULTS)]


@pytest.mark.parametrize("args, expected, rest", [
    ([], {}, []),
    (["--nj", "8"], {"nj": "8"}, []),
    (["--nj=8", "--nj=9"], {"nj": "9"}, []),
    (["--learning-rate", "1e-3"], {"learning_rate": "1e-3"}, []),
    (["--learning_rate", ".5"], {"learning_rate": ".5"}, []),
    (["--learning_rate=2"], {"learning_rate": "2"}, []),
    (["--stage", "-1"], {"stage": "-1"}, []),
    (["--augment", "false"], {"augment": "false"}, []),
    (["--augment", "false", "--augment", "--nj", "2"], {"nj": "2"}, []),
    (["--augment=false", "--augment"], {}, []),
    (["--augment", "data"], {}, ["data"]),
    (["--corpus", "a folder", "x y", "--nj", "2"], {"corpus": "a folder"}, ["x y", "--nj", "2"]),
    (["--corpus=--odd=1"], {"corpus": "--odd=1"}, []),
    (["--corpus="], {}, []),
    (["--systems", "a b"], {"systems": "a b"}, []),
    (["--", "--nj", "3"], {}, ["--nj", "3"]),
    (["-", "x"], {}, ["-", "x"]),
])
def test_takes(script, args, expected, rest):
    out, _ = script(*args)
    assert out.split("\n")[:-1] == values(**expected) + [str(len(rest))] + rest


@pytest.mark.parametrize("args, word", [
    (["--nj"], "--nj needs a value"),
    (["--corpus", "--nj", "3"], "--corpus needs a value"),
    (["--nj", "five"], "integer"),
    (["--nj", "08"], "integer"),
    (["--nj", "0.5"], "integer"),
    (["--nj", ""], "integer"),
    (["--nj="], "integer"),
    (["--nj", "1+1"], "integer"),
    (["--stage", "99999999999999999999"], "integer"),
    (["--learning-rate", "fast"], "number"),
    (["--learning-rate", "nan"], "number"),
    (["--augment=yes"], "true or false"),
    (["--no-such-option", "1"], "unknown option --no-such-option"),
    (["--helper", "1"], "unknown option"),
    (["--after", "2"], "unknown option"),
    (["--PATH", "/"], "unknown option"),
    (["--nj[0]", "1"], "unknown option"),
    (["--=1"], "unknown option"),
    (["-n", "1"], "unknown option -n"),
])
def test_refuses(script, args, word):
    out, err = script(*args, code=2)
    assert out == "" and err.startswith("train.sh: ") and err.count("\n") == 1 and word in err


@pytest.mark.parametrize("option", ["--stage", "--learning-rate", "--augment", "--corpus", "--"])
@pytest.mark.parametrize("form", ["%s", "a[%s]", "1+a[%s]"])
def test_evaluates_nothing(script, shell, option, form):
    value = form % "$(touch harm)"
    process = shell.start("bash", "train.sh", option, value)
    process.communicate(timeout=60)
    shell.start("bash", "train.sh", "--%s" % value, "1").communicate(timeout=60)
    shell.start("bash", "train.sh", "%s=%s" % (option, value)).communicate(timeout=60)
    assert not (shell.folder / "harm").exists()


def test_help(script):
    out, _ = script("--help")
    assert out.startswith("Trains a thing.\n\nUsage: train.sh data model\n")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for line in ["--nj integer number of jobs [4]", "--learning-rate number of the first epoch,",
                 "then it falls [0.1]", '--augment boolean add "noise" # and rooms [true]',
                 "--corpus text folder of the corpus", "--systems text what runs [teacher # student]",
                 "--stage integer Stands above its option. [0]"]:
        assert line in lines
    assert "helper" not in out and "after" not in out


def test_script_called_from_elsewhere(shell):
    """The script's name is relative to a folder that it leaves before it asks for its options."""
    shell.write("egs/mini/run.sh", SCRIPT.replace("set -euo", 'cd "$(dirname "$0")"\nset -euo'))
    (shell.folder / "egs/mini/utils").symlink_to(shell.root / "utils")
    out, _ = shell("bash", "egs/mini/run.sh", "--nj", "7")
    assert out.split("\n")[0] == "7"
    shell("bash", "egs/mini/run.sh", "--stage", code=2)


@settings(max_examples=25)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), max_size=4))
def test_texts_arrive_as_they_are(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "utils").symlink_to(UTILS)
    (folder / "x.sh").write_text('set -eu\ntext=\n. utils/parse_options.sh\nprintf "%s\\0" "$text" "$@"\n')
    argv = ["bash", "x.sh", "--text=" + "".join(texts), "--", *texts]
    out = subprocess.run(argv, cwd=folder, capture_output=True, check=True).stdout
    assert out.decode().split("\0")[:-1] == ["".join(texts), *texts]
