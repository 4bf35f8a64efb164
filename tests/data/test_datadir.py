import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.data import fix as fix_module
from svq.data import reshape, shared
from svq.data.datadir import DataDir, create, index_speakers
from svq.data.fix import fix
from svq.data.speed import perturb_speed
from svq.data.table import Table
from svq.data.validate import validate
from svq.errors import UserError
from tests.builders import data_dir


def snapshot(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def edit(path, change):
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


def problems(folder, **options):
    return "\n".join(validate(folder, **options).lines()).replace(str(folder) + "/", "")


# ---- reading


def test_speakers_and_index_follow_utt2spk(tmp_path):
    folder = DataDir(data_dir(tmp_path, speakers=3, utts=2))
    assert folder.speakers == ["spk00", "spk01", "spk02"]
    assert folder.speaker_index.tolist() == [0, 0, 1, 1, 2, 2] and folder.speaker_index.dtype == np.int32
    assert (folder.path / "spk2utt").read_text().splitlines()[1] == "spk01 spk01-utt00 spk01-utt01"


@given(st.lists(st.sampled_from([b"a", b"bb", b"c", b"dd"])))
def test_index_speakers_equals_unique(of_utterance):
    names, index = index_speakers(np.array(of_utterance, dtype="S4"))
    assert names.tolist() == sorted(set(of_utterance)) and [names[i] for i in index] == of_utterance


def test_create_refuses_tables_that_differ(tmp_path):
    with pytest.raises(UserError, match="`b` is not in both"):
        create(tmp_path / "d", wav={"a": "a.wav", "b": "b.wav"}, utt2spk={"a": "s"})
    with pytest.raises(UserError, match="no such data directory"):
        DataDir(tmp_path / "none")


# ---- validate


def test_a_sound_directory_has_no_problem(tmp_path):
    folder = data_dir(tmp_path)
    (folder / "trials").write_text("spk00-utt00 spk00-utt01 target\nspk00-utt00 spk01-utt01 nontarget\n")
    (folder / "README").write_text("not a table\n")
    for check_audio in ("none", "header", "decode"):
        assert problems(folder, check_audio=check_audio) == ""


def swap(lines):
    return [lines[1], lines[0], *lines[2:]]


@pytest.mark.parametrize(
    "name, change, expected",
    [
        ("wav.scp", swap, "wav.scp:2: `spk00-utt00` comes after `spk00-utt01`"),
        ("wav.scp", lambda x: [x[0], *x], "wav.scp:2: `spk00-utt00` is already on line 1"),
        ("wav.scp", lambda x: x[1:], "utt2spk:1: `spk00-utt00` is not in wav.scp"),
        ("utt2spk", lambda x: x[:-1], "wav.scp:12: `spk02-utt03` is not in utt2spk"),
        ("utt2dur", lambda x: x[:-1], "utt2spk:12: `spk02-utt03` is not in utt2dur"),
        ("utt2dur", lambda x: ["spk00-utt00 0\n", *x[1:]], "utt2dur:1: `0` is not above 0"),
        ("utt2dur", lambda x: ["spk00-utt00 long\n", *x[1:]], "utt2dur:1: `long` is not a number"),
        ("utt2spk", lambda x: ["spk00-utt00\n", *x[1:]], "utt2spk:1: has an id but nothing after it"),
        ("utt2spk", lambda x: ["spk00-utt00 a b\n", *x[1:]], "utt2spk:1: `a b` is not one speaker id"),
        ("utt2spk", lambda x: [i.replace("\n", "\r\n") for i in x], "utt2spk:1: ends in CR LF"),
        ("spk2gender", lambda x: ["spk00 female\n", *x[1:]], "spk2gender:1: `female` is neither f nor m"),
        ("spk2gender", lambda x: x[1:], "spk2gender: lacks speaker `spk00` of utt2spk"),
        ("spk2gender", lambda x: [*x, "tom m\n"], "spk2gender:4: speaker `tom` is not in utt2spk"),
        ("spk2utt", lambda x: x[1:], "utt2spk:1: `spk00-utt00` is not in spk2utt"),
        ("spk2utt", lambda x: [x[0].replace("utt00", "utt09"), *x[1:]], "spk2utt:1: utterance `spk00-utt09` is not"),
        ("spk2utt", lambda x: [x[0], x[1].replace("\n", " spk00-utt00\n"), x[2]], "`spk00-utt00` belongs to `spk00`"),
        ("text", lambda x: ["spk00-utt00 hello\n"], "utt2spk:2: `spk00-utt01` is not in text"),
        ("trials", lambda x: ["spk00-utt00 spk00-utt01 yes\n"], "trials:1: 'yes' where target or nontarget is expected"),
        ("trials", lambda x: ["a b target\n", "a b 1\n"], "trials:2: is not `enroll test target|nontarget`"),
        ("trials", lambda x: ["spk00-utt00 spk00-utt01\n"], "trials:1: is not `enroll test target|nontarget`"),
        ("trials_x", lambda x: ["spk00-utt00 tom target\n"], "trials_x:1: test `tom` is not in utt2spk"),
        ("trials_x", lambda x: ["tom spk00-utt00 target\n"], "trials_x:1: enroll `tom` is not in utt2spk"),
        ("trials_x", lambda x: ["spk00-utt00 spk00-utt01 target\n"] * 2, "trials_x:2: the same trial is there already"),
        ("trials_x", lambda x: ["spk00-utt00 spk00-utt01 target\n"], "trials_x: has no nontarget trial"),
        ("wav.scp", lambda x: ["spk00-utt00 none.wav\n", *x[1:]], "wav.scp:1: `spk00-utt00`: none.wav: no such file"),
        ("wav.scp", lambda x: ["spk00-utt00 false |\n", *x[1:]], "wav.scp:1: `spk00-utt00`: false |: the command"),
        ("wav.scp", lambda x: [*x[:-1], x[-1].rstrip("\n")], "wav.scp:12: the last line has no newline"),
        ("wav.scp", lambda x: [], "wav.scp: empty file"),
    ],
)
def test_a_problem_is_named_with_its_file_and_line(tmp_path, name, change, expected):
    folder = data_dir(tmp_path, seconds=0.1)
    (folder / name).touch()
    edit(folder / name, change)
    assert expected in problems(folder)


def test_missing_files_and_other_bytes(tmp_path):
    folder = data_dir(tmp_path, seconds=0.1)
    (folder / "utt2dur").write_bytes(b"spk00-utt00 \xff\n")
    (folder / "spk2utt").unlink()
    assert "has no spk2utt" in problems(folder) and "utt2dur:1: is not UTF-8" in problems(folder)
    (tmp_path / "bare").mkdir()
    assert validate(tmp_path / "bare").total == 3


def test_the_list_is_cut_and_the_count_is_whole(tmp_path):
    folder = data_dir(tmp_path, seconds=0.1)
    edit(folder / "wav.scp", lambda x: [f"{line.split()[0]} none.wav\n" for line in x])
    found = validate(folder, limit=5)
    assert found.total == 12 and len(found.lines()) == 6 and found.lines()[-1] == "... and 7 more"


# ---- fix


def test_fix_drops_what_does_not_agree_and_keeps_the_originals(tmp_path):
    folder = data_dir(tmp_path, seconds=0.1)
    edit(folder / "wav.scp", lambda x: [*x[::-1][1:], x[0], "nobody x.wav\n", "broken\n"])
    edit(folder / "utt2spk", lambda x: x[4:])
    edit(folder / "utt2dur", lambda x: [i.replace("\n", "\r\n") for i in x])
    before = snapshot(folder)
    result = fix(folder)
    assert problems(folder) == ""
    assert (result.kept, result.total) == (7, 8)
    assert any("wav.scp:14: has an id but nothing" in d for d in result.dropped)
    assert any("`nobody` is not in every file" in d for d in result.dropped)
    assert any("spk2gender:1: `spk00` has no utterance" in d for d in result.dropped)
    assert len((folder / ".backup" / "dropped").read_text().splitlines()) == len(result.dropped)
    for name in result.changed:
        assert (folder / ".backup" / name).read_bytes() == before[name]
    assert fix(folder).changed == []  # a second run has nothing to do and leaves the backup
    assert (folder / ".backup" / "wav.scp").read_bytes() == before["wav.scp"]


def test_fix_drops_unreadable_recordings_when_asked(tmp_path):
    folder = data_dir(tmp_path, seconds=0.1)
    edit(folder / "wav.scp", lambda x: ["spk00-utt00 none.wav\n", *x[1:]])
    assert fix(folder, check_audio="header").kept == 11
    assert problems(folder) == ""


def test_fix_changes_nothing_if_nothing_would_be_left(tmp_path):
    folder = data_dir(tmp_path, seconds=0.1)
    edit(folder / "wav.scp", lambda x: [f"x{line}" for line in x])
    before = snapshot(folder)
    with pytest.raises(UserError, match="no utterance is in all of"):
        fix(folder)
    assert snapshot(folder) == before


@pytest.mark.parametrize("killed_at", range(9))
def test_fix_killed_at_any_rename_and_run_again_gives_the_same(tmp_path, monkeypatch, killed_at):
    folder, twin = data_dir(tmp_path, seconds=0.1), data_dir(tmp_path, seconds=0.1, name="twin")
    for path in (folder, twin):
        shutil.copy(path / "utt2spk", path / "text")
        edit(path / "wav.scp", lambda x: x[::-1])
        edit(path / "text", lambda x: x[3:])
    originals = snapshot(folder)
    fix(twin)
    calls = iter(range(100))

    class Killed(BaseException):
        pass

    def dying(function):
        def wrapped(*args):
            if next(calls) == killed_at:
                raise Killed
            return function(*args)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(fix_module.os, "replace", dying(os.replace))
        patched.setattr(fix_module.os, "rename", dying(os.rename))
        try:
            fix(folder)
        except Killed:
            pass
    fix(folder)

    def comparable(files):
        return {n: data.replace(b"data_wav", b"twin_wav") for n, data in files.items()}

    assert comparable(snapshot(folder)) == snapshot(twin)
    for name in ("wav.scp", "utt2spk"):
        assert (folder / ".backup" / name).read_bytes() == originals[name]


# ---- split


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.data())
def test_split_bounds_are_whole_and_balanced(sizes, data):
    jobs = data.draw(st.integers(1, len(sizes)))
    cuts = reshape.split_bounds(np.array(sizes), jobs)
    assert cuts[0] == 0 and cuts[-1] == len(sizes) and (np.diff(cuts) > 0).all()
    if max(sizes) * jobs * 2 <= sum(sizes):  # where no speaker is large, no part is far from the mean
        loads = np.add.reduceat(sizes, cuts[:-1])
        assert np.abs(loads - sum(sizes) / jobs).max() <= max(sizes)


@pytest.mark.parametrize("per_utterance, jobs", [(False, 1), (False, 3), (True, 5), (True, 12)])
def test_split_parts_are_sound_and_add_up(tmp_path, per_utterance, jobs):
    folder = data_dir(tmp_path, seconds=0.1)
    parts = [reshape.split(folder, jobs, per_utterance) / str(j) for j in range(1, jobs + 1)]
    assert [problems(p, check_audio="none") for p in parts] == [""] * jobs
    for name in ("wav.scp", "utt2spk", "utt2dur"):
        assert b"".join((p / name).read_bytes() for p in parts) == (folder / name).read_bytes()
    assert problems(folder) == ""  # the parts inside the directory are no part of it


def test_split_refuses_more_jobs_than_speakers(tmp_path):
    with pytest.raises(UserError, match="cannot make 4 parts of 3 speakers"):
        reshape.split(data_dir(tmp_path, seconds=0.1), 4)


def test_split_again_leaves_nothing_old(tmp_path):
    folder = data_dir(tmp_path, seconds=0.1)
    (reshape.split(folder, 2) / "1" / "feats.scp").write_text("old\n")
    assert sorted(p.name for p in (reshape.split(folder, 2) / "1").iterdir()) == sorted(snapshot(folder))
    assert not list(folder.glob(".split*"))


# ---- subset and combine


def test_subset_by_count_and_list(tmp_path):
    source = DataDir(data_dir(tmp_path, seconds=0.1))
    edit(source.path / "utt2dur", lambda x: [f"{line.split()[0]} {12 - i}\n" for i, line in enumerate(x)])
    chosen = {h: reshape.choose(source, 4, h).tolist() for h in ("even", "first", "last", "shortest", "speakers")}
    assert chosen == {
        "even": [0, 3, 6, 9], "first": [0, 1, 2, 3], "last": [8, 9, 10, 11], "shortest": [8, 9, 10, 11],
        "speakers": [0, 1, 2, 3],
    }  # fmt: skip
    assert reshape.choose(source, 5, "speakers").tolist() == list(range(8))
    assert reshape.choose(source, 2, "per-spk").tolist() == [0, 2, 4, 6, 8, 10]
    assert reshape.choose(source, 9, "per-spk").tolist() == list(range(12))
    drawn = reshape.choose(source, 1, "per-spk", speakers=2)
    assert len(drawn) == 2 and set(drawn.tolist()) < {0, 2, 4, 6, 8, 10}
    assert drawn.tolist() == reshape.choose(source, 1, "per-spk", speakers=2).tolist()
    assert len({tuple(reshape.choose(source, 0, "per-spk", speakers=2, seed=seed).tolist()) for seed in range(9)}) > 1
    for wrong in ({"count": 0, "how": "per-spk"}, {"count": 1, "how": "per-spk", "speakers": 99}, {"count": 1, "speakers": 2}):
        with pytest.raises(UserError):
            reshape.choose(source, **wrong)
    (tmp_path / "list").write_text("spk02\nspk00 more on the line\n")
    rows = reshape.chosen_by_list(source, tmp_path / "list", speakers=True)
    reshape.subset(source.path, tmp_path / "sub", rows)
    assert problems(tmp_path / "sub") == "" and DataDir(tmp_path / "sub").speakers == ["spk00", "spk02"]
    (tmp_path / "list").write_text("spk02-utt00\ntom\n")
    with pytest.raises(UserError, match="1 ids are not in .*: tom"):
        reshape.chosen_by_list(source, tmp_path / "list")
    with pytest.raises(UserError, match="has 12 utterances, 13 are asked for"):
        reshape.choose(source, 13)
    with pytest.raises(UserError, match="made from itself"):
        reshape.subset(source.path, source.path, rows)


@settings(max_examples=15)
@given(st.permutations(range(12)), st.integers(1, 3))
def test_combine_puts_together_what_subset_took_apart(tmp_path_factory, order, pieces):
    tmp_path = tmp_path_factory.mktemp("combine")
    source = data_dir(tmp_path, seconds=0.01)
    for i, rows in enumerate(np.array_split(order, pieces)):
        reshape.subset(source, tmp_path / str(i), np.sort(rows))
    reshape.combine(tmp_path / "all", [tmp_path / str(i) for i in range(pieces)])
    assert snapshot(tmp_path / "all") == snapshot(source)


def test_combine_refuses_repeats_and_names_what_it_leaves_out(tmp_path):
    a = data_dir(tmp_path, seconds=0.1, name="a")
    with pytest.raises(UserError, match="`spk00-utt00` is in .*a/utt2dur:1"):
        reshape.combine(tmp_path / "all", [a, data_dir(tmp_path, seconds=0.1, name="b")])
    perturb_speed(a, tmp_path / "b", ["0.9"])
    (a / "feats.scp").write_text((a / "wav.scp").read_text())
    assert reshape.combine(tmp_path / "all", [a, tmp_path / "b"]) == ["feats.scp", "utt2uniq"]
    assert problems(tmp_path / "all") == "" and len(DataDir(tmp_path / "all").utt2spk) == 24
    (tmp_path / "b" / "spk2gender").write_text("spk00 m\n")
    with pytest.raises(UserError, match="`spk00` is in .* with another value"):
        reshape.combine(tmp_path / "all", [a, tmp_path / "b"])
    assert shared.speakers_shared([a, tmp_path / "b"]) == []
    assert [s for s, *_ in shared.speakers_shared([a, a])] == ["spk00", "spk01", "spk02"]


def test_merge_checks_that_nothing_was_lost(tmp_path):
    like = data_dir(tmp_path, seconds=0.1) / "utt2spk"
    Table.read(like).write(tmp_path / "1", np.arange(6))
    Table.read(like).write(tmp_path / "2", np.arange(6, 11))
    with pytest.raises(UserError, match="1 ids were lost: spk02-utt03"):
        reshape.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "out", like)
    assert not (tmp_path / "out").exists()
    Table.read(like).write(tmp_path / "2", np.arange(6, 12))
    assert reshape.merge([tmp_path / "2", tmp_path / "1"], tmp_path / "out", like) == 12
    assert (tmp_path / "out").read_bytes() == like.read_bytes()


# ---- speed


def test_speed_copies_are_new_speakers_with_scaled_durations(tmp_path):
    source = data_dir(tmp_path, name="it's a dir")
    perturb_speed(source, tmp_path / "sp", ["1.1", "0.9"], keep_original=True)
    made = DataDir(tmp_path / "sp")
    assert problems(made.path) == ""
    assert made.speakers == sorted([*DataDir(source).speakers, *(f"sp{f}-spk{s:02d}" for f in ("0.9", "1.1") for s in range(3))])
    assert made.utt2dur["sp0.9-spk00-utt00"] == "1.11111"
    assert made.table("utt2uniq")["sp0.9-spk00-utt00"] == "spk00-utt00" == made.table("utt2uniq")["spk00-utt00"]
    assert made.table("spk2gender")["sp1.1-spk01"] == "m"
    from svq.data import audio

    for utt in ("sp0.9-spk00-utt00", "sp1.1-spk02-utt01"):
        assert audio.duration(made.wav[utt]) == pytest.approx(float(made.utt2dur[utt]), abs=2e-3)


def test_speed_refuses_bad_factors_and_a_second_time(tmp_path):
    source = data_dir(tmp_path, seconds=0.1)
    for factors in (["1"], ["1.0"], ["x"], ["-1"], ["$(x)"], [], ["0.9", "0.90"], ["100"]):
        with pytest.raises(UserError):
            perturb_speed(source, tmp_path / "sp", factors)
    perturb_speed(source, tmp_path / "sp", ["0.9"])
    with pytest.raises(UserError, match=":1: `sp0.9-spk00-utt00` already begins with"):
        perturb_speed(tmp_path / "sp", tmp_path / "sp2", ["0.9"])
    perturb_speed(tmp_path / "sp", tmp_path / "sp2", ["1.1"])
    assert problems(tmp_path / "sp2") == ""
