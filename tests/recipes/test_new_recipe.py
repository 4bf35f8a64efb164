"""utils/new_recipe.sh: what a new recipe holds, what is refused, and one that is made and run from recordings alone."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from svq.bin import new_recipe as worker
from svq.data.datadir import DataDir, create
from svq.errors import UserError
from svq.recipe import new
from svq.report.results import read_results
from tests import warm
from tests.builders import voice
from tests.helpers import run_worker
from tests.recipes.conftest import ROOT, copy_conf


def data_dir(folder: Path, first: int, speakers: int, utts: int = 3) -> Path:
    """One whose recordings are empty files."""
    ids = {f"s{first + s:02d}-{u}": f"s{first + s:02d}" for s in range(speakers) for u in range(utts)}
    (folder / "wav").mkdir(parents=True)
    for utt in ids:
        (folder / "wav" / f"{utt}.wav").touch()
    return create(folder / "data", wav={utt: folder / "wav" / f"{utt}.wav" for utt in ids}, utt2spk=ids)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Training, test and development data, a list of the test, and a call of the worker with other options."""
    monkeypatch.setattr(new, "try_stage_1", lambda folder, what: None)
    train, test, dev = data_dir(tmp_path / "train", 0, 9), data_dir(tmp_path / "test", 20, 3), data_dir(tmp_path / "dev", 40, 3)
    (tmp_path / "list").write_text("1 s20-0 s20-1\n0 s20-0 s21-0\n")
    options = {"--train-data": train, "--test-data": test, "--trials": tmp_path / "list", "--egs": tmp_path / "egs"}

    def call(*more, name="mine", **changed):
        words = {**options, **{f"--{key.replace('_', '-')}": value for key, value in changed.items()}}
        run_worker(worker.main, *(word for pair in words.items() if pair[1] for word in pair), *more, name)
        return tmp_path / "egs" / name
    call.dev, call.folder = dev, tmp_path
    return call


def option_lines(folder: Path) -> dict[str, str]:
    head = (folder / "run.sh").read_text().partition(". utils/parse_options.sh")[0]
    return dict(re.findall(r"^([a-z_]+)=(.*?) +# ", head, re.MULTILINE))


def test_a_recipe_has_all_that_others_have_and_none_of_their_results(given):
    folder = given()
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "cmd.sh", "conf", "local", "path.sh", "run.sh", "steps",
                                                              "utils"]
    assert all((folder / name).exists() and (folder / name).is_symlink() for name in new.LINKS)
    assert sorted(path.name for path in (folder / "local").iterdir()) == [
        "prepare_data.sh", "prepare_noise_rir.py", "prepare_noise_rir.sh", "table.sh"]
    base = {path.name for path in (ROOT / "egs/speechocean762/conf").glob("*.yaml")}
    assert {path.name for path in (folder / "conf").iterdir()} == base - {"ready.yaml"}
    for path in (folder / "conf").iterdir():
        rows = re.search(r"^rows: \[(.*)\]", path.read_text(), re.MULTILINE)
        assert all((folder / "conf" / name.strip()).is_file() for name in (rows[1].split(",") if rows else ()))
    text = (folder / "run.sh").read_text() + (folder / "README.md").read_text() + (folder / "local/prepare_data.sh").read_text()
    assert not re.search(r"@[A-Z]|speechocean|malayalam|\$corpus|extra_corpus", text)
    assert option_lines(folder)["title"] == "mine" and option_lines(folder)["dev_speakers"] == "3"
    assert "draws 3 training speakers" in (folder / "README.md").read_text()


def test_sh_hands_over_to_bash(given):
    done = subprocess.run(["sh", given() / "run.sh", "--help"], text=True, capture_output=True)
    assert done.returncode == 0 and "mine: a recipe for a corpus of your own" in done.stdout and not done.stderr


def test_the_stages_of_the_method_are_those_of_the_recipe_it_comes_from(given):
    """What differs from egs/speechocean762/run.sh is its head and stages 0 to 2."""
    mine, base = ((path / "run.sh").read_text() for path in (given(), ROOT / "egs/speechocean762"))
    assert mine.partition("find_augmentation\n")[2] == base.partition("find_augmentation\n")[2] != ""
    assert [re.findall(r"^if stage (\d+) ", text, re.MULTILINE) for text in (mine, base)] == [[str(i) for i in range(16)]] * 2
    options = option_lines(given(name="again"))
    theirs = option_lines(ROOT / "egs/speechocean762")
    assert theirs.keys() - options.keys() == {"corpus", "download", "extra_corpus", "malayalam"}
    assert {name for name in theirs.keys() & options.keys() if theirs[name] != options[name]} == {"title", "trials"}
    for name in ("run.sh", "local/prepare_data.sh"):
        assert subprocess.run(["bash", "-n", str(given.folder / "egs/mine" / name)]).returncode == 0
        assert os.access(given.folder / "egs/mine" / name, os.X_OK)


@pytest.mark.parametrize("title, line", [("Ann's voices", '"Ann\'s voices"'), ('5 $ "a"', "'5 $ \"a\"'"), ("a  # b", '"a  # b"')])
def test_any_title_can_be_read_again(given, title, line):
    folder = given(title=title)
    assert f"\ntitle={line}" in (folder / "run.sh").read_text()
    shown = subprocess.run(["bash", folder / "run.sh", "--help"], capture_output=True, text=True).stdout
    assert f"[{title}]" in shown and "  --train-data " in shown


def test_development_data_of_ones_own(given):
    (given.dev / "trials").write_text("s40-0 s40-1 target\ns40-0 s41-0 nontarget\n")
    options = option_lines(given(dev_data=given.dev))
    assert options["dev_data"] == str(given.dev) and options["dev_trials"] == str(given.dev / "trials")
    assert options["dev_speakers"] == "0"


@pytest.mark.parametrize("change, words", [
    ({"trials": "gone"}, "gone: no such file"), ({"trials": ""}, "has no trials: give a list by --trials"),
    ({"train_data": "gone"}, "gone: no such data directory"), ({"title": "'\""}, "holds an apostrophe and a quotation mark"),
    ({"name": "a/b"}, "`a/b` is no name for a recipe"), ({"name": ".a"}, "`.a` is no name"), ({"name": "a b"}, "no name"),
    ({"dev_trials": "list"}, "--dev-trials is a list of --dev-data"), ({"test_data": "{train}"}, "speakers in two data directories: s00"),
    ({"dev_data": "{dev}", "dev_speakers": 3}, "--dev-data makes that needless")])
def test_what_is_refused_leaves_nothing(given, change, words):
    places = {"train": given.folder / "train/data", "dev": given.dev}
    change = {key: str(value).format(**places) for key, value in change.items()}
    with pytest.raises(UserError, match=re.escape(words)):
        given(**change)
    assert not (given.folder / "egs").exists() or not list((given.folder / "egs").iterdir())


def test_an_existing_folder_is_refused_and_stays(given):
    run = given() / "run.sh"
    run.write_text("my own\n")
    with pytest.raises(UserError, match="mine: is there already"):
        given()
    assert run.read_text() == "my own\n"


def test_a_failure_on_the_way_leaves_nothing(given, monkeypatch):
    def fail(folder, what):
        assert (folder / "run.sh").is_file()
        raise UserError("no")
    monkeypatch.setattr(new, "try_stage_1", fail)
    with pytest.raises(UserError):
        given()
    assert not list((given.folder / "egs").iterdir())


def test_recordings_and_commands_in_the_lists(given, monkeypatch):
    monkeypatch.delenv("SVQ_ALLOW_PIPES", raising=False)
    test = given.folder / "test/data/wav.scp"
    lines = test.read_text()
    test.write_text(lines.replace(str(given.folder / "test/wav/s20-0.wav"), str(given.folder / "train/wav/s00-0.wav")))
    with pytest.raises(UserError, match="the recording .*s00-0.wav is in two of the data directories"):
        given()
    test.write_text(lines.replace(str(given.folder), "cat x |\n"[:-1] + str(given.folder), 1))
    test.write_text("".join(f"{line} |\n" for line in lines.splitlines()))
    with pytest.raises(UserError, match="wav.scp:1: `s20-0` runs a command"):
        given()


@pytest.mark.parametrize("speakers, aside", [(6, 2), (9, 3), (30, 10), (99, 10), (125, 12), (5000, 100)])
def test_how_many_speakers_are_set_aside(tmp_path, speakers, aside):
    ids = {f"{s:04d}-0": f"{s:04d}" for s in range(speakers)}
    assert new.speakers_to_set_aside(create(tmp_path / "d", wav=dict.fromkeys(ids, "x.wav"), utt2spk=ids)) == aside


def test_lists_that_are_no_longer_given_go_and_ones_own_stay(given):
    folder, given_test = given(), given.folder / "test/data"

    def prepare(part):
        options = {"train-data": given.folder / "train/data", "test-data": given_test, "test-trials": given.folder / "list",
                   "dev-speakers": 3, "data": folder / "data", "part": part}
        done = subprocess.run(["bash", "local/prepare_data.sh", *(f"--{key}={value}" for key, value in options.items())], cwd=folder,
                              text=True, capture_output=True, env={**os.environ, **warm.environment()})
        assert done.returncode == 0, done.stderr
        return sorted(path.name for path in (folder / "data/test").glob("trials*"))

    for name in ("hard", "easy"):
        (given_test / f"trials_{name}").write_text("s20-0 s20-1 1\ns20-0 s21-0 0\n")
    assert prepare("all") == ["trials", "trials_easy", "trials_hard"]
    (folder / "data/test/trials_mine").write_text("s20-0 s20-1 target\ns20-0 s21-0 nontarget\n")
    (given_test / "trials_hard").unlink()
    assert prepare("trials") == ["trials", "trials_easy", "trials_mine"]


def corpus(root: Path, first: int, speakers: int) -> list[str]:
    """A tree as VoxCeleb's; its recordings, relative to it."""
    rng, names = np.random.default_rng(first), []
    for s, video, clip in itertools.product(range(speakers), ("one", "two"), (1, 2)):
        names.append(f"id{10000 + first + s}/{video}/{clip:05d}.wav")
        (root / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / names[-1], voice(first + s, 1.2, rng), 16000)
    return names


def shell(*words, status=0) -> str:
    environment = {**os.environ, **warm.environment()}
    done = subprocess.run(["bash", *map(str, words)], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env=environment)
    assert done.returncode == status, (done.stdout + done.stderr)[-4000:]
    return done.stdout if status == 0 else done.stderr


def commands_of_the_page(folder: Path) -> list[list[str]]:
    """The commands of the first block of docs/own-corpus.md up to its `cd`, with this corpus."""
    block = re.search(r"^```sh\n(.*?)^```", (ROOT / "docs/own-corpus.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    lines = [shlex.split(line, comments=True) for line in block.partition("cd egs/mine")[0].splitlines()]
    return [[re.sub("^/corpora/mine", str(folder), re.sub("^data/mine", str(folder / "data"), word)) for word in line]
            for line in lines]


def test_from_recordings_to_the_table(tmp_path):
    """What docs/own-corpus.md says, with a tree and a list as VoxCeleb has them, at debug size."""
    folder = tmp_path / "her corpora"
    corpus(folder / "train", 0, 8)
    names = corpus(folder / "test", 20, 4)
    listed = folder / "trials.txt"
    text = "".join(f"{int(a[:7] == b[:7])} {a} {b}\n" for a, b in itertools.combinations(names, 2))
    *trees, make = commands_of_the_page(folder)
    for words in trees:
        shell(*words)
    listed.write_text(text.replace(names[3], "id10020/three/00001.wav"))
    told = shell(*make, "--egs", folder, status=1)
    assert told.endswith(f"trials.txt:3: `id10020/three/00001.wav` is neither in {folder / 'data/test/utt2spk'} nor the end of "
                         f"a path in {folder / 'data/test/wav.scp'}\n") and told.count("\n") == 1
    assert not (folder / "mine").exists() and not list(folder.glob(".mine*"))
    listed.write_text(text)
    shell(*make, "--egs", folder)
    copy_conf(tmp_path / "conf")
    for path in (tmp_path / "conf").glob("*.yaml"):
        path.write_text(path.read_text().replace("num_mels: 40", "num_mels: 80").replace("epochs: 4", "epochs: 1"))
    run = (folder / "mine" / "run.sh", "--conf", tmp_path / "conf", "--systems", "teacher", "--analysis=", "--ladders=",
           "--backends", "cosine", "--norms", "none", "--nj", 1, "--extract-nj", 1, "--speed-perturb", "false", "--stop-stage", 11)
    shell(*run)
    rows = read_results(folder / "mine/exp/results.tsv")
    assert [(row.system, row.trials) for row in rows] == [("teacher", "dev"), ("teacher", "test")]
    assert [row.num_target for row in rows] == [2 * 6, 4 * 6]
    data = folder / "mine/data"
    assert len(DataDir(data / "dev").speakers) == 2 and len(DataDir(data / "train").speakers) == 6
    assert (data / "test/trials").read_text().splitlines()[0] == "id10020-one-00001 id10020-one-00002 target"
    assert "mine" in (folder / "mine/exp/report.html").read_text()
    assert " 0 made," in shell(*run)
