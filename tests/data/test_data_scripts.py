"""The scripts in utils/ with Kaldi's names, run as a recipe runs them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from svq.data import audio
from svq.data.datadir import DataDir
from svq.data.validate import validate
from tests.builders import data_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe folder whose name has a space, with data/train in it; `run` runs a script of utils/ there."""
    folder = tmp_path / "my recipe"
    folder.mkdir()
    (folder / "utils").symlink_to(ROOT / "utils")
    (folder / "path.sh").write_text(
        f"export LC_ALL=C PATH='{Path(sys.executable).parent}:{ROOT}/utils':$PATH PYTHONPATH='{ROOT}'\n"
    )
    monkeypatch.chdir(folder)
    data_dir(folder / "data", seconds=0.2, name="train")
    return folder


def run(script, *args, status=0):
    done = subprocess.run([f"utils/{script}", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_validate_and_fix(recipe):
    assert "sound; 12 utterances of 3 speakers" in run("validate_data_dir.sh", "data/train")
    lines = (recipe / "data/train/wav.scp").read_text().splitlines(keepends=True)
    (recipe / "data/train/wav.scp").write_text("".join([*lines[1:], "spk00-utt00 none.wav\n"]))
    out = run("validate_data_dir.sh", "--limit", "1", "data/train", status=1)
    assert "data/train/wav.scp:12: `spk00-utt00` comes after" in out and "... and 1 more" in out and "2 problems" in out
    assert "kept 12 of 12" in run("fix_data_dir.sh", "data/train")
    assert "none.wav: no such file" in run("validate_data_dir.sh", "data/train", status=1)
    assert "sound" in run("validate_data_dir.sh", "--check-audio", "none", "data/train")
    assert "dropped data/train/wav.scp:1: `spk00-utt00`: none.wav" in run(
        "fix_data_dir.sh", "--check-audio=decode", "data/train"
    )
    assert "sound; 11 utterances" in run("validate_data_dir.sh", "--nj", "2", "data/train")
    assert "no such data directory" in run("validate_data_dir.sh", "data/none", status=1)


def test_split_subset_and_combine(recipe):
    assert run("split_data.sh", "data/train", "3") == "data/train/split3\n"
    run("split_data.sh", "--per-utt", "data/train", "5")
    assert len(DataDir("data/train/split5utt/5").utt2spk) == 2
    assert "cannot make 4 parts" in run("split_data.sh", "data/train", "4", status=1)
    run("subset_data_dir.sh", "data/train", "6", "data/a")
    run("subset_data_dir.sh", "--per-spk", "data/train", "2", "data/b")
    assert [len(DataDir(f"data/{d}").utt2spk) for d in "ab"] == [6, 6]
    (recipe / "my list").write_text("spk01\n")
    run("subset_data_dir.sh", "--spk-list", "my list", "data/train", "data/one")
    (recipe / "my list").write_text("spk00\nspk02\n")
    run("subset_data_dir.sh", "--spk-list", "my list", "data/train", "data/two")
    run("combine_data.sh", "data/all", "data/one", "data/two")
    for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur", "spk2gender"):
        assert (recipe / "data/all" / name).read_bytes() == (recipe / "data/train" / name).read_bytes()
    run("subset_data_dir.sh", "--first", "--last", "data/train", "6", "data/a", status=2)
    run("subset_data_dir.sh", "data/train", "six", "data/a", status=2)


def test_speed_and_durations(recipe):
    shutil.copytree("data/train", "data/it's")
    run("perturb_data_dir_speed.sh", "0.9", "data/it's", "data/slow")
    run("perturb_data_dir_speed_3way.sh", "data/it's", "data/sp")
    scaled = (recipe / "data/slow/utt2dur").read_text()
    assert len(DataDir("data/sp").speakers) == 9
    os.remove("data/slow/utt2dur")
    run("get_utt2dur.sh", "--nj", "2", "data/slow")
    measured = DataDir("data/slow").utt2dur.float_array()
    assert np.abs(measured - [float(line.split()[1]) for line in scaled.splitlines()]).max() < 2e-3
    assert validate("data/slow").total == validate("data/sp").total == 0


def test_durations_name_what_cannot_be_read(recipe):
    lines = (recipe / "data/train/wav.scp").read_text().splitlines(keepends=True)
    (recipe / "data/train/wav.scp").write_text("".join(["spk00-utt00 none.wav\n", *lines[1:]]))
    os.remove("data/train/utt2dur")
    assert "get_utt2dur" in run("get_utt2dur.sh", "--nj", "2", "data/train", status=1)
    assert "spk00-utt00: none.wav: no such file" in (recipe / "data/train/log/get_utt2dur.1.log").read_text()
    assert not (recipe / "data/train/utt2dur").exists()


@pytest.mark.parametrize("with_segments", [False, True])
def test_copy_wav(recipe, with_segments):
    folder = recipe / "data/train"
    expected = {utt: audio.load(rx) for utt, rx in DataDir(folder).wav.items()}
    lines = [line.split(maxsplit=1) for line in (folder / "wav.scp").read_text().splitlines()]
    lines[0][1] = f"sox '{lines[0][1]}' -t wav - |"
    if with_segments:
        (folder / "wav.scp").write_text("".join(f"rec-{k} {v}\n" for k, v in lines))
        (folder / "segments").write_text("".join(f"{k} rec-{k} 0.05 0.15\n" for k, _ in lines))
        expected = {k: v[800:2400] for k, v in expected.items()}
        os.remove(folder / "utt2dur")
    else:
        (folder / "wav.scp").write_text("".join(f"{k} {v}\n" for k, v in lines))
    (folder / "trials").write_text("spk00-utt00 spk00-utt01 target\nspk00-utt00 spk01-utt01 nontarget\n")
    assert "data/copy: 12 utterances" in run("copy_wav.sh", "--nj", "3", "data/train", "data/copy", "my arks")
    copy = DataDir("data/copy")
    assert validate("data/copy", "decode").total == 0 and copy.has("trials") and not copy.has_segments
    assert all(".ark:" in rx for rx in copy.wav.values())
    for utt, rx in copy.wav.items():
        assert np.array_equal(audio.load(rx), expected[utt])
    assert np.allclose(copy.utt2dur.float_array(), 0.1 if with_segments else 0.2)
    first = {p.name: p.read_bytes() for p in (recipe / "my arks").iterdir()}
    run("copy_wav.sh", "--nj", "3", "data/train", "data/copy", "my arks")
    assert {p.name: p.read_bytes() for p in (recipe / "my arks").iterdir()} == first


def test_copy_wav_names_what_it_cannot_read_and_writes_nothing(recipe):
    lines = (recipe / "data/train/wav.scp").read_text().splitlines(keepends=True)
    (recipe / "data/train/wav.scp").write_text("".join(["spk00-utt00 false |\n", *lines[1:]]))
    run("copy_wav.sh", "--nj", "2", "data/train", "data/copy", "arks", status=1)
    assert "spk00-utt00: false |: the command ended with status 1" in (recipe / "data/copy/log/copy_wav.1.log").read_text()
    assert not (recipe / "data/copy/wav.scp").exists() and not (recipe / "arks/wav_copy.1.ark").exists()


def test_make_trials(recipe):
    assert "18 target and 10 non-target" in run("make_trials.sh", "--num-nontarget", "10", "data/train")
    assert "18 target and 16 non-target" in run("make_trials.sh", "--name", "g", "--same-gender", "data/train")
    assert "only 48 such pairs" in run("make_trials.sh", "--num-nontarget", "49", "data/train", status=1)
    assert "sound" in run("validate_data_dir.sh", "data/train")
    run("make_trials.sh", "--num-nontarget", "$(touch pwned)", "data/train", status=2)
    assert not (recipe / "pwned").exists()


SCRIPTS = """combine_data copy_wav fix_data_dir get_utt2dur make_trials perturb_data_dir_speed
perturb_data_dir_speed_3way split_data subset_data_dir validate_data_dir""".split()


@pytest.mark.parametrize("script", [f"{name}.sh" for name in SCRIPTS])
def test_help_and_wrong_options(recipe, script):
    assert "Usage: utils/" in run(script, "--help")
    assert "no-such" in run(script, "--no-such-option", "1", status=2)
    run(script, status=2)


def test_disjoint_and_other_verbs(recipe):
    def verb(*args, status=0):
        done = subprocess.run([sys.executable, "-m", "svq.bin.data_dir", *args], capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    assert "svq.bin.data_dir: speakers in two data directories: spk00" in verb("disjoint", "data/train", "data/train", status=1)
    run("perturb_data_dir_speed.sh", "0.9", "data/train", "data/slow")
    verb("disjoint", "data/train", "data/slow")
    verb("spk2utt", "data/train/utt2spk", "spk2utt")
    assert (recipe / "spk2utt").read_bytes() == (recipe / "data/train/spk2utt").read_bytes()
    assert "give one of --count" in verb("subset", "data/train", "data/x", status=1)
    verb("split", "data/train", "many", status=2)
