"""Data directories taken over from elsewhere, and speakers set aside from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.bin import data_dir as worker
from svq.data.aside import draw_speakers, set_aside
from svq.data.datadir import DataDir
from svq.data.given import copy
from svq.data.shared import speakers_shared
from svq.data.table import write_table
from svq.data.trials import available, make_trials
from svq.data.validate import validate
from svq.errors import UserError
from tests.builders import data_dir
from tests.helpers import run_worker


@pytest.fixture
def source(tmp_path):
    return data_dir(tmp_path / "work", speakers=4, utts=3, seconds=0.1)


def test_a_copy_has_whole_paths_and_neither_features_nor_trials(tmp_path, source, monkeypatch):
    names = {utt: f"data_wav/{utt}.wav" for utt in DataDir(source).utt2spk}
    write_table(source / "wav.scp", names.items())
    write_table(source / "feats.scp", ((utt, "mfcc.ark:7") for utt in names))
    (source / "enroll.spk2utt").write_text("spk00 spk00-utt00 spk00-utt01\n")
    make_trials(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"wav.scp:1: `spk00-utt00`: .*no such file; relative paths begin at .* \(--root\)"):
        copy(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run_worker(worker.main, "copy", "--root", "work", source, tmp_path / "out")
    monkeypatch.chdir("/")
    assert validate(tmp_path / "out", "decode").total == 0
    assert DataDir(tmp_path / "out").names() == ["enroll.spk2utt", "spk2gender", "spk2utt", "utt2dur", "utt2spk", "wav.scp"]
    assert DataDir(tmp_path / "out").table("wav.scp")["spk00-utt00"] == str(tmp_path / "work/data_wav/spk00-utt00.wav")


def test_a_copy_keeps_segments_and_channels(tmp_path, source):
    wav = DataDir(source).table("wav.scp")["spk00-utt00"]
    for name, lines in (("wav.scp", f"reco {wav}\n"), ("segments", "spk00-a reco 0 0.05\nspk01-b reco 0.05 -1\n"),
                        ("utt2spk", "spk00-a spk00\nspk01-b spk01\n"), ("spk2utt", "spk00 spk00-a\nspk01 spk01-b\n"),
                        ("reco2file_and_channel", "reco file 1\n"), ("spk2gender", "spk00 f\nspk01 m\n")):
        (source / name).write_text(lines)
    (source / "utt2dur").unlink()
    assert copy(source, tmp_path / "out") == 2
    assert (tmp_path / "out/segments").read_bytes() == (source / "segments").read_bytes()
    assert validate(tmp_path / "out").total == 0


@pytest.mark.parametrize("name, text, words", [
    ("wav.scp", None, "has no wav.scp; a recipe makes its features itself"),
    ("wav.scp", "spk00-utt00 cat x.wav |\n", "`spk00-utt01` is not in wav.scp"),
    ("utt2spk", "b b\na a\n", "not sorted by LC_ALL=C; mend: utils/fix_data_dir.sh"),
    ("spk2utt", None, "has no spk2utt")])
def test_what_is_not_sound_is_not_copied(tmp_path, source, name, text, words):
    (source / name).unlink()
    if text is not None:
        (source / name).write_text(text)
    with pytest.raises(UserError, match=words):
        copy(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_commands_are_copied_only_where_they_are_allowed(tmp_path, source, monkeypatch):
    write_table(source / "wav.scp", ((utt, f"cat {wav} |") for utt, wav in DataDir(source).table("wav.scp").items()))
    monkeypatch.delenv("SVQ_ALLOW_PIPES")
    with pytest.raises(UserError, match="wav.scp:1: `spk00-utt00` runs a command"):
        copy(source, tmp_path / "out")
    monkeypatch.setenv("SVQ_ALLOW_PIPES", "true")
    copy(source, tmp_path / "out")
    assert (tmp_path / "out/wav.scp").read_bytes() == (source / "wav.scp").read_bytes()


def test_speakers_aside_are_in_one_part_with_their_share_of_genders(tmp_path, source):
    run_worker(worker.main, "set-aside", "--speakers", 2, "--utts", 2, source, tmp_path / "rest", tmp_path / "aside")
    rest, aside = DataDir(tmp_path / "rest"), DataDir(tmp_path / "aside")
    assert not speakers_shared([rest.path, aside.path]) and sorted(rest.speakers + aside.speakers) == DataDir(source).speakers
    assert sorted(aside.table("spk2gender").values()) == ["f", "m"]
    assert (len(rest.utt2spk), len(aside.utt2spk)) == (6, 4) and validate(rest.path).total == validate(aside.path).total == 0
    again = set_aside(source, tmp_path / "rest2", tmp_path / "aside2", 2, 0)
    assert again == (6, 6) and DataDir(tmp_path / "aside2").speakers == aside.speakers


@pytest.mark.parametrize("count", [1, 4, 9])
def test_too_few_or_too_many_speakers_aside(tmp_path, source, count):
    with pytest.raises(UserError, match=f"{count} speakers cannot be set aside; it has 4, 4 of them with two utterances"):
        set_aside(source, tmp_path / "rest", tmp_path / "aside", count)
    assert not (tmp_path / "rest").exists() and not (tmp_path / "aside").exists()


def test_only_speakers_with_a_target_trial_are_set_aside(tmp_path):
    source = data_dir(tmp_path, speakers=5, utts=2, seconds=0.1)
    utts = [utt for utt in DataDir(source).utt2spk if not utt.startswith(("spk00", "spk02", "spk04")) or utt.endswith("00")]
    write_table(source / "utt2spk", ((utt, utt[:5]) for utt in utts))
    (source / "spk2gender").unlink()
    with pytest.raises(UserError, match="it has 5, 2 of them with two utterances"):
        set_aside(source, tmp_path / "rest", tmp_path / "aside", 3)
    set_aside(source, tmp_path / "rest", tmp_path / "aside", 2)
    assert DataDir(tmp_path / "aside").speakers == ["spk01", "spk03"]


@given(st.integers(1, 60), st.integers(0, 5), st.data())
def test_a_draw_keeps_the_share_of_every_cell(speakers, seed, data):
    kinds = data.draw(st.lists(st.sampled_from("abcd"), min_size=speakers + 1, max_size=speakers + 1))
    cells = {f"{i:03d}": (kind,) for i, kind in enumerate(kinds)}
    count = data.draw(st.integers(1, speakers))
    aside = draw_speakers(cells, count, seed)
    assert len(aside) == count and aside <= set(cells)
    for kind in set(kinds):
        taken = sum(cells[s] == (kind,) for s in aside)
        assert abs(taken - count * kinds.count(kind) / len(kinds)) < 1
    assert aside == draw_speakers(cells, count, seed)


def test_trials_are_drawn_up_to_what_there_is(source):
    assert available(source) == 4 * 3 // 2 * 9 and available(source, same_gender=True) == 18
    with pytest.raises(UserError, match="only 18 such pairs"):
        run_worker(worker.main, "make-trials", "--num-nontarget", 19, "--same-gender", "true", source)
    run_worker(worker.main, "make-trials", "--num-nontarget", 19, "--same-gender", "true", "--or-fewer", "true", source)
    labels = [line.split()[2] for line in (source / "trials").read_text().splitlines()]
    assert np.unique(labels, return_counts=True)[1].tolist() == [18, 12]
