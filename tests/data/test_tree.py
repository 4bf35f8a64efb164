"""Data directories from trees and tables of recordings: ids, what is refused, and that nothing is written then."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, strategies as st

from svq.bin import data_from_tree
from svq.data.datadir import DataDir
from svq.data.tree import Found, named, of_table, utterance_id
from svq.data.validate import validate
from svq.errors import UserError
from tests.helpers import run_worker

NOISE = np.random.default_rng(0).normal(0, 0.1, 1600).astype(np.float32)


def record(path: Path, *names: str) -> None:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path / name, NOISE, 16000)


def make(corpus, data, *options):
    run_worker(data_from_tree.main, *options, "--threads", 1, corpus, data)
    assert validate(data).total == 0
    return {utt: (value, DataDir(data).utt2spk[utt]) for utt, value in DataDir(data).table("wav.scp").items()}


def refused(corpus, data, *options) -> str:
    """The line that refuses a corpus, of which then nothing is written."""
    with pytest.raises(UserError) as error:
        run_worker(data_from_tree.main, *options, "--threads", 1, corpus, data)
    assert not Path(data).exists() and len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("names, ids", [
    (["84/121123/84-121123-0000.flac", "84/121550/84-121550-0001.flac", "174/50561/174-50561-0000.flac"],
     {"84-121123-0000": "84", "84-121550-0001": "84", "174-50561-0000": "174"}),                     # LibriSpeech
    (["id10001/1zcIwhmdeo4/00001.wav", "id10002/-7Ab_x/00001.wav"],
     {"id10001-1zcIwhmdeo4-00001": "id10001", "id10002--7Ab_x-00001": "id10002"}),                    # VoxCeleb
    (["p225/p225_001.wav", "p226/p226_001.WAV"], {"p225-001": "p225", "p226-001": "p226"}),           # VCTK
    (["Ann B/x y.wav", "ann-c/a|b'.wav", "J\u00f6rg/\u4e2d.wav"],
     {"Ann_B-x_y": "Ann_B", "ann_c-a_b_": "ann_c", "J\u00f6rg-\u4e2d": "J\u00f6rg"})])                # names as people have them
def test_trees(tmp_path, names, ids):
    record(tmp_path / "corpus", *names)
    (tmp_path / "corpus" / "README.txt").touch()
    made = make(tmp_path / "corpus", tmp_path / "data")
    assert {utt: speaker for utt, (_, speaker) in made.items()} == ids
    assert sorted(value for value, _ in made.values()) == sorted(str(tmp_path / "corpus" / name) for name in names)
    assert set(DataDir(tmp_path / "data").utt2dur.values()) == {"0.1000"}


def test_root_may_be_relative_and_the_speaker_deeper(tmp_path, monkeypatch, capsys):
    record(tmp_path / "corpus", "clean/84/1/84-1-0.wav", "other/85/1/85-1-0.wav")
    (tmp_path / "corpus" / "clean" / "86").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "--speaker-level 2" in refused("corpus", "data")
    made = make("corpus", "data", "--speaker-level", 2)
    assert {utt: speaker for utt, (_, speaker) in made.items()} == {"84-clean-1-0": "84", "85-other-1-0": "85"}
    assert made["84-clean-1-0"][0] == str(tmp_path / "corpus" / "clean/84/1/84-1-0.wav")
    assert "passed over, without recordings" in capsys.readouterr().err


@pytest.mark.parametrize("names, words", [
    ([], "no recordings in it"),
    (["a/x.wav", "x.wav"], "corpus/x.wav: lies in no speaker's folder"),
    (["a/x.wav", "a/x.flac", "b/x.wav"], "x.wav: would be called a-x, as {c}/a/x.flac is"),
    (["a/x y.wav", "a/x_y.wav", "b/x.wav"], "would be called a-x_y, as"),
    (["a-b/x.wav", "a_b/y.wav"], "speakers `a-b` and `a_b` would both be called a_b"),
    (["wav/id10001/v/1.wav", "test/id10002/v/1.wav"], "level 2, not 1, are called as VoxCeleb's speakers"),
    (["one/1/x.wav", "one/2/x.wav"], "one would be the only speaker"),
    (["1/corpus-1-x.wav", "2/corpus-2-x.wav"], "files are called as this folder, so it is a speaker's"),
    (["a/x.wav", "b/" + "l" * 60 + "/" + "m" * 120 + "/" + "n" * 120 + ".wav"], "ids have at most 255"),
    (["a/x\ty.wav", "b/x.wav"], "a file name that wav.scp cannot hold (line breaks or control characters)")])
def test_trees_that_are_refused(tmp_path, names, words):
    (tmp_path / "corpus").mkdir()
    record(tmp_path / "corpus", *names)
    assert words.format(c=tmp_path / "corpus") in refused(tmp_path / "corpus", tmp_path / "data")


def test_recordings_that_cannot_be_read_are_named(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    record(corpus, "a/x.wav", "b/x.wav")
    (corpus / "a" / "empty.wav").touch()
    (corpus / "b" / "text.flac").write_text("no audio")
    assert "2 of 4 recordings cannot be read" in refused(corpus, tmp_path / "data")
    assert "empty.wav" in (told := capsys.readouterr().err) and "text.flac" in told
    assert len(make_unchecked(corpus, tmp_path / "data")) == 4
    (corpus / "a" / "empty.wav").unlink(), (corpus / "b" / "text.flac").unlink()
    soundfile.write(corpus / "a" / "y.wav", 0 * NOISE, 16000)
    assert "silence" in refused(corpus, tmp_path / "other", "--check-audio", "decode")


def make_unchecked(corpus, data):
    run_worker(data_from_tree.main, "--check-audio", "none", corpus, data)
    assert not DataDir(data).has("utt2dur")
    return DataDir(data).utt2spk


def test_links(tmp_path):
    record(tmp_path / "elsewhere", "x.wav")
    record(tmp_path / "corpus", "b/y.wav")
    (tmp_path / "corpus" / "a").symlink_to(tmp_path / "elsewhere")
    assert set(make(tmp_path / "corpus", tmp_path / "data")) == {"a-x", "b-y"}
    (tmp_path / "corpus" / "b" / "up").symlink_to("..")
    assert "up: a link to a folder that it lies in" in refused(tmp_path / "corpus", tmp_path / "other")


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    record(tmp_path / "corpus", "a/x.wav", "b/x.wav")
    with pytest.raises(UserError, match="holds something else than a data directory"):
        run_worker(data_from_tree.main, tmp_path / "corpus", tmp_path / "corpus")
    make(tmp_path / "corpus", tmp_path / "data")
    record(tmp_path / "corpus", "a/y.wav")
    assert len(make(tmp_path / "corpus", tmp_path / "data")) == 3


@pytest.mark.parametrize("name, text", [
    ("t.csv", "\ufeffSpeaker,path,sex\r\nann,wav/a b.wav,x\r\n\r\nbob,\"wav/b,1.wav\",x\r\n"),
    ("t.tsv", "path\tspeaker\nwav/a b.wav\tann\n{root}/wav/b,1.wav\tbob\n")])
def test_tables(tmp_path, capsys, name, text):
    record(tmp_path, "wav/a b.wav", "wav/b,1.wav")
    (tmp_path / name).write_bytes(text.format(root=tmp_path).encode())
    made = make(tmp_path / name, tmp_path / "data")
    assert {utt: speaker for utt, (_, speaker) in made.items()} == {"ann-wav-a_b": "ann", "bob-wav-b_1": "bob"}
    assert made["bob-wav-b_1"][0] == str(tmp_path / "wav/b,1.wav") and not DataDir(tmp_path / "data").has("spk2gender")
    assert ("passed over: the columns sex" in capsys.readouterr().err) == (name == "t.csv")


def test_table_with_genders_and_a_root(tmp_path):
    record(tmp_path / "wav", "ann/1.wav", "ann/2.wav", "bob/1.wav")
    (tmp_path / "t.csv").write_text("path,speaker,gender\nann/1.wav,ann,F\nann/2.wav,ann,\nbob/1.wav,bob,male\n")
    assert "ann/1.wav: no such file; relative paths begin at" in refused(tmp_path / "t.csv", tmp_path / "data")
    assert set(make(tmp_path / "t.csv", tmp_path / "data", "--root", tmp_path / "wav")) == {"ann-1", "ann-2", "bob-1"}
    assert dict(DataDir(tmp_path / "data").table("spk2gender").items()) == {"ann": "f", "bob": "m"}


@pytest.mark.parametrize("text, words", [
    ("", "t.csv:1: the header lacks the column `path`"),
    ("path,spk\nx.wav,a\n", "t.csv:1: the header lacks the column `speaker`"),
    ("path;speaker\nx.wav;a\n", "(semicolons separate it; a .csv has commas, a .tsv has tabs)"),
    ("path,speaker,path\nx.wav,a,x.wav\n", "t.csv:1: the header has the column `path` twice"),
    ("path,speaker\n", "t.csv: a header and no recordings"),
    ("path,speaker\nx.wav,a\nx.wav,a\n", "t.csv:3: `x.wav` is already on line 2"),
    ("path,speaker\nx.wav,a\n./x.wav,b\n", "t.csv:3: `./x.wav` is already on line 2"),
    ("path,speaker\nx.wav,\n", "t.csv:2: no speaker"),
    ("path,speaker\n,a\n", "t.csv:2: no path"),
    ("path,speaker\nx.wav,a,b\n", "t.csv:2: 3 columns where the header has 2"),
    ("path,speaker\ngone.wav,a\n", "gone.wav: no such file"),
    ("path,speaker\n\"x.wav,a\n", "t.csv:2: is no line of a table"),
    ("path,speaker,gender\nx.wav,a,x\n", "t.csv:2: gender `x` is none of"),
    ("path,speaker,gender\nx.wav,a,m\ny.wav,a,f\n", "t.csv:3: speaker `a` has gender m above and f here"),
    ("path,speaker\nx.wav,a b\ny.wav,a_b\n", "t.csv:3: speakers `a b` and `a_b` would both be called a_b"),
    ("path,speaker\nnone.txt,a\n", "t.csv:2: "),
    (b"path,speaker\nx.wav,\xe4\n", "is not UTF-8")])
def test_tables_that_are_refused(tmp_path, text, words):
    record(tmp_path, "x.wav", "y.wav")
    (tmp_path / "none.txt").write_text("no audio")
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert words in refused(tmp_path / "t.csv", tmp_path / "data")


def test_a_path_is_never_a_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SVQ_ALLOW_PIPES", "true")
    (tmp_path / "touch ran |").touch()
    (tmp_path / "t.csv").write_text("path,speaker\ntouch ran |,a\n")
    monkeypatch.chdir(tmp_path)
    assert "a file name that wav.scp cannot hold" in refused("t.csv", "data")
    assert not (tmp_path / "ran").exists()


def test_other_files_are_no_corpus(tmp_path):
    assert "no such folder or table" in refused(tmp_path / "gone", tmp_path / "data")
    (tmp_path / "list.txt").touch()
    assert "neither a folder nor a table" in refused(tmp_path / "list.txt", tmp_path / "data")


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=12).filter(
    lambda name: name.strip() == name and name not in (".", ".."))


@given(st.lists(st.tuples(NAMES, st.lists(NAMES, max_size=2), NAMES), min_size=1, max_size=20))
def test_ids_sort_as_their_speakers_and_hold_no_blank(rows):
    found = [Found(speaker, tuple(folders), os.path.join("/c", speaker, *folders, name + ".wav"), "w")
             for speaker, folders, name in rows]
    try:
        made = named(found)
    except UserError as error:
        assert "would" in str(error)  # two of one id
        return
    utterances, speakers, _ = zip(*made)
    assert list(utterances) == sorted(set(utterances), key=str.encode) and list(speakers) == sorted(speakers, key=str.encode)
    assert all(utt.split() == [utt] and utt.startswith(f"{speaker}-") for utt, speaker, _ in made)
    assert {utterance_id(one) for one in found} == set(utterances)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=10, unique_by=lambda row: row[0]))
def test_a_table_reads_as_it_was_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("table")
    for name, _ in rows:
        (folder / "wav" / name).parent.mkdir(exist_ok=True)
        (folder / "wav" / name).touch()
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "speaker"), *((f"wav/{name}", speaker) for name, speaker in rows)])
    found, _, _ = of_table(str(folder / "t.csv"))
    assert [(one.path, one.speaker) for one in found] == [(str(folder / "wav" / name), speaker) for name, speaker in rows]


def test_made_again_it_keeps_lists_and_says_what_is_gone(tmp_path, capfd):
    record(tmp_path / "tree", "a/1.wav", "b/1.wav")
    make(tmp_path / "tree", tmp_path / "data")
    kept = {"trials": "a-1 b-1 nontarget\na-1 a-1 target\n", "trials_hard": "b-1 a-1 nontarget\nb-1 b-1 target\n", "spk2gender": "a f\nb m\n"}
    for name, text in {**kept, "feats.scp": "a-1 x.ark:4\n"}.items():
        (tmp_path / "data" / name).write_text(text)
    capfd.readouterr()
    make(tmp_path / "tree", tmp_path / "data")
    assert {name: (tmp_path / "data" / name).read_text() for name in kept} == kept
    told = capfd.readouterr().err
    assert "kept spk2gender, trials, trials_hard" in told and "removed feats.scp" in told
    assert not (tmp_path / "data" / "feats.scp").exists()
