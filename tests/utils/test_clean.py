"""utils/clean.sh, and what utils/once.py and utils/stages.sh make of the files that it has removed."""

import os
import shutil

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
rate=1     # goes into stage 4
width=1    # goes into stage 2
. utils/parse_options.sh
. utils/stages.sh
if stage 1 "features"; then
  once --in corpus/wav.scp --recordings corpus/wav.scp --out data/feats.scp -- bash make.sh data/feats corpus/a.wav
fi
if stage 2 "network"; then
  once --dear --in data/feats.scp --out "$exp/net/model.safetensors" -- bash train.sh "$exp/net" --width "$width"
fi
if stage 3 "embeddings"; then
  for set in dev test; do
    once --in "$exp/net/model.safetensors" --in data/feats.scp --out "$exp/net/$set/embedding.scp" \\
      --out "$exp/net/$set/embedding.ark" -- bash make.sh "$exp/net/$set/embedding" data/feats.ark
  done
fi
if stage 4 "scores"; then
  for set in dev test; do
    once --in "$exp/net/$set/embedding.ark" --out "$exp/net/$set.score" -- \\
      bash score.sh "$exp/net/$set" --rate "$([[ $set == dev ]] && echo 1 || echo "$rate")"
  done
fi
stages_done
"""
FILES = {
    "corpus/wav.scp": "a corpus/a.wav\n", "corpus/a.wav": "speech\n",
    "make.sh": 'echo "$1" >> runs; [[ -z $SVQ_ANEW ]] || echo "$1" >> anew; mkdir -p "${1%/*}"; cat "$2" > "$1.ark"; echo "a $1.ark:2" > "$1.scp"\n',
    "train.sh": 'echo "$1" >> runs; mkdir -p "$1/checkpoints"; cat data/feats.ark > "$1/model.safetensors"; '
                'echo "$3" > "$1/checkpoints/last.pt"\n',
    "score.sh": 'echo "$1.score" >> runs; cat "$1/embedding.ark" > "$1.score"; echo "$3" >> "$1.score"\n',
}
GONE = ["exp/net/checkpoints/last.pt", "exp/net/dev/embedding.ark", "exp/net/test/embedding.ark"]


@pytest.fixture
def recipe(shell):
    """recipe(option...): runs run.sh and returns (its output, what was made by it)."""
    for name, text in {**FILES, "run.sh": RUN}.items():
        shell.write(name, text)
    (shell.folder / "utils").symlink_to(shell.root / "utils")

    def call(*options, **kw):
        shell.write("runs", "")
        out, err = shell("bash", "run.sh", *options, **kw)
        return out + err, shell.read("runs").split()
    call()
    return call


@pytest.fixture
def clean(shell):
    return lambda *options, **kw: "".join(shell("bash", "utils/clean.sh", *options, **kw))


def tree(shell):
    return {str(path.relative_to(shell.folder)): path.stat().st_mtime_ns for path in shell.folder.rglob("*")
            if path.is_file() and "utils" not in path.parts}


def test_a_list_touches_nothing(recipe, clean, shell):
    before = tree(shell)
    said = clean()
    assert tree(shell) == before and "--yes true removes it" in said
    assert "checkpoints" in said and "exp/net/dev" in said and "data" not in said


def test_results_stay_and_are_up_to_date(recipe, clean, shell):
    before = tree(shell)
    clean("--yes", "true")
    assert sorted(before.keys() - tree(shell).keys()) == GONE
    said, made = recipe()
    assert " 0 made, 6 up to date" in said and made == []
    assert said.count("though cleaned: made again when it is needed") == 2
    assert "dry run: 0 to make, 6 up to date" in recipe("--dry-run")[0]
    assert "nothing that can be made again" in clean()


def test_what_is_needed_is_made_again_and_nothing_else(recipe, clean, shell):
    """Features for an embedding for a score; neither the other set nor the network, though the features are new files."""
    clean("--yes", "true", "--data", "data")
    assert not (shell.folder / "data/feats.ark").exists()
    plan, _ = recipe("--dry-run", "--rate", "2")
    assert "3 to make, 3 up to date" in plan and "embedding.ark was cleaned and is needed again" in plan
    said, made = recipe("--rate", "2")
    assert made == ["data/feats", "exp/net/test/embedding", "exp/net/test.score"]
    assert shell.read("exp/net/test.score") == "speech\n2\n"
    assert shell.read("anew").split() == ["data/feats", "exp/net/test/embedding"]      # told to take nothing up
    assert " 0 made, 6 up to date" in recipe("--rate", "2")[0]
    (shell.folder / "exp/net/test/embedding.ark").unlink()             # lost, not cleaned: there is no note of it any more
    assert recipe("--rate", "2")[1] == ["exp/net/test/embedding"]


def test_what_changes_is_made_as_ever(recipe, clean):
    clean("--yes", "true", "--data", "data")
    said, made = recipe("--width", "2")
    assert made == ["data/feats", "exp/net"] and " 2 made, 4 up to date" in said      # the same network, so the same scores


def test_killed_between_the_plan_and_the_work(recipe, clean, shell):
    clean("--yes", "true")
    shell.write("score.sh", "kill -9 $PPID\n")
    recipe("--rate", "2", "--stage", "4", code=1)
    shell.write("score.sh", FILES["score.sh"])
    assert recipe("--rate", "2")[1] == ["exp/net/test/embedding", "exp/net/test.score"]


def test_a_step_by_hand(recipe, clean, once_of):
    clean("--yes", "true")
    assert "was cleaned and is needed: its step has to make it again" in once_of("test.score", "--rate", "5", code=1)
    assert "make exp/net/test/embedding.scp (exp/net/test/embedding.ark is not there yet)" in once_of("test/embedding.scp")
    assert "made exp/net/test.score" in once_of("test.score", "--rate", "5")


@pytest.fixture
def once_of(shell):
    commands = {
        "test/embedding.scp": (["--in", "exp/net/model.safetensors", "--in", "data/feats.scp", "--out",
                                "exp/net/test/embedding.scp", "--out", "exp/net/test/embedding.ark"],
                               ["bash", "make.sh", "exp/net/test/embedding", "data/feats.ark"]),
        "test.score": (["--in", "exp/net/test/embedding.ark", "--out", "exp/net/test.score"],
                       ["bash", "score.sh", "exp/net/test"])}

    def call(what, *words, **kw):
        options, command = commands[what]
        return "".join(shell("python3", "-I", "-S", "utils/once.py", *options, "--", *command, *words, **kw))
    return call


def test_what_cannot_be_made_again_stays(recipe, clean, shell):
    """Recordings that are gone; a training that is not finished; what no stamp tells of; a link to elsewhere."""
    (shell.folder / "corpus/a.wav").unlink()
    (shell.folder / "exp/net/.done.model.safetensors").unlink()
    shell.write("exp/other/checkpoints/last.pt", "x")
    shell.write("exp/other/embedding.ark", "x")
    shutil.move(shell.folder / "exp/net/dev/embedding.ark", shell.folder / "elsewhere.ark")
    (shell.folder / "exp/net/dev/embedding.ark").symlink_to("../../../elsewhere.ark")
    before = tree(shell)
    clean("--yes", "true", "--data", "data")
    assert sorted(before.keys() - tree(shell).keys()) == ["exp/net/test/embedding.ark"]


def test_embeddings_that_the_report_compares_stay(recipe, clean, shell):
    (shell.folder / "exp/net-int8").mkdir()
    os.rename(shell.folder / "exp/net/dev", shell.folder / "exp/net/embeddings")
    stamp = shell.folder / "exp/net/embeddings/.done.embedding.scp"
    stamp.write_text(stamp.read_text().replace("net/dev", "net/embeddings"))
    said = clean("--yes", "true")
    assert "kept: 7 bytes of embeddings that the report compares" in said
    assert (shell.folder / "exp/net/embeddings/embedding.ark").exists()


def test_refusals(recipe, clean, shell):
    assert clean("no such", code=1) == "clean.sh: no such: no such folder; give the folder of an experiment (--help says more)\n"
    clean("a", "b", code=2)
    shell.write("score.sh", "touch started; sleep 600; true\n")
    run = shell.start("bash", "run.sh", "--rate", "3")
    shell.until((shell.folder / "started").exists, "stage 4 runs")
    before = tree(shell)
    assert clean("--yes", "true", code=1).startswith("clean.sh: exp is in use by a run (pid %d on " % run.pid)
    clean()
    run.kill()
    run.communicate()
    assert tree(shell).keys() == before.keys()
    shell.write("strange/.done.x", "svq stamp 2\nout\tx.a")
    for folder in ("strange", "corpus"):
        before = tree(shell)
        assert "nothing that can be made again is here" in clean("--yes", "true", folder) and tree(shell) == before
