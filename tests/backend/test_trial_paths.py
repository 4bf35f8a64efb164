"""Trial lists with paths become lists of a data directory's utterances."""

from __future__ import annotations

import itertools

import pytest

from svq.backend.scores import read_trials
from svq.backend.trial_paths import take_trials
from svq.bin import data_dir as worker
from svq.data.datadir import create
from svq.data.validate import validate
from svq.errors import UserError
from tests.helpers import run_worker

PATHS = [f"id1000{s}/v{v}/0000{u}" for s in (1, 2) for v in (1, 2) for u in (1, 2)]


def utt(path: str) -> str:
    return path.replace("/", "-")


@pytest.fixture
def data(tmp_path):
    """Utterances of two speakers as a tree, an archive and commands have them; none of the files is there."""
    files = {utt(path): f"/corpora/vox/wav/{path}.wav" for path in PATHS}
    files[utt(PATHS[1])] = f"ffmpeg -nostdin -i '/corpora/vox/wav/{PATHS[1]}.m4a' -f wav - |"
    files[utt(PATHS[2])] = "/corpora/vox/all.ark:17"
    return create(tmp_path / "data", wav=files, utt2spk={name: name[:7] for name in files})


def lines_of(data, name="trials"):
    return (data / name).read_text().splitlines()


@pytest.mark.parametrize("line", ["{bit} {a}.wav {b}.wav", "{a}.wav {b}.m4a {bit}", "./{a}.wav /corpora/vox/wav/{b}.wav {word}",
                                  "{ida} {b}.WAV {bit}", "wav/{a} {idb} {word}", "{ida} {idb} {word}"])
def test_every_form_becomes_the_same_list(tmp_path, data, line):
    chosen = [path for path in PATHS if path != PATHS[2]]
    rows = [(a, b, a[:7] == b[:7]) for a, b in itertools.combinations(chosen, 2)]
    (tmp_path / "list").write_text("".join(line.format(
        a=a, b=b, ida=utt(a), idb=utt(b), bit=int(t), word="target" if t else "nontarget") + "\n" for a, b, t in rows))
    run_worker(worker.main, "take-trials", "--name", "x", tmp_path / "list", data)
    assert lines_of(data, "trials_x") == [f"{utt(a)} {utt(b)} {'target' if t else 'nontarget'}" for a, b, t in rows]
    assert validate(data, "none").total == 0


def test_models_of_the_directory_are_no_paths(tmp_path, data):
    (data / "enroll.spk2utt").write_text(f"a/b.wav {utt(PATHS[0])} {utt(PATHS[1])}\n")
    (tmp_path / "list").write_text(f"a/b.wav {PATHS[3]}.wav 1\na/b.wav {PATHS[4]}.wav 0\n")
    assert take_trials(tmp_path / "list", data) == (1, 1)
    assert lines_of(data) == [f"a/b.wav {utt(PATHS[3])} target", f"a/b.wav {utt(PATHS[4])} nontarget"]


@pytest.mark.parametrize("text, words", [
    ("1 id10001-v1-00001 id10001-v1-00009", "list:1: `id10001-v1-00009` is not in "),
    ("1 id10001/v1/00001.wav id10001/v1/00009.wav", "list:1: `id10001/v1/00009.wav` is neither in .* nor the end of a path in "),
    ("1 id10001/v1/00001.wav id10001/v2/00001.wav", "list:1: `id10001/v2/00001.wav` is neither"),     # in an archive
    ("1 0001/v1/00001.wav id10001/v1/00002.wav", "list:1: `0001/v1/00001.wav` is neither"),            # half a folder's name
    ("1 /id10001/v1/00001.wav id10001/v1/00002.wav", "list:1: `/id10001/v1/00001.wav` is neither"),    # another root
    ("1 00001.wav id10001/v1/00002.wav", "list:1: `00001.wav` may be id10001-v1-00001 or id10002-v1-00001: .*more of its fold"),
    ("0 id10001/v1/00001.wav id10001/v1/00002.wav", "list:1: nontarget, and .* are of one speaker in .*1 such of 1"),
    ("1 id10001/v1/00001.wav id10002/v1/00002.wav", "list:1: target, and .* are of two speakers"),
    ("1 id10001/v1/00001.wav id10001/v1/00002.wav", "list: has no nontarget trial"),
    ("1 id10001/v1/00001.wav id10001/v1/00002.wav\n0 id10001/v1/00001.wav id10002/v1/00002.wav\n1 id10001-v1-00001 id10001-v1-00002",
     "list:3: id10001-v1-00001 id10001-v1-00002: the same trial is there already .1 such of 3.; take one out"),
    ("id10001/v1/00001.wav id10002/v1/00002.wav", "list:1: 2 fields where 3 are expected")])
def test_what_is_refused_is_named_and_leaves_no_list(tmp_path, data, text, words):
    (tmp_path / "list").write_text(text + "\n")
    with pytest.raises(UserError, match=words):
        take_trials(tmp_path / "list", data)
    assert not (data / "trials").exists()


def test_segments_have_no_paths(tmp_path, data):
    (data / "segments").write_text("".join(f"{utt(path)} {utt(path)} 0 1\n" for path in PATHS))
    (tmp_path / "list").write_text(f"1 {PATHS[0]}.wav {PATHS[1]}.wav\n")
    with pytest.raises(UserError, match="means no utterance: .* has segments"):
        take_trials(tmp_path / "list", data)


@pytest.mark.parametrize("name", ["a/b", "a b", "../x", "a.b"])
def test_names_of_lists(tmp_path, data, name):
    with pytest.raises(UserError, match="is no name for a trial list"):
        take_trials(tmp_path / "list", data, name)


def test_a_path_that_was_not_turned_into_an_id_says_how_to(tmp_path, data):
    from svq.backend.scores import trial_speakers

    (tmp_path / "list").write_text(f"1 {PATHS[0]}.wav {PATHS[1]}.wav\n")
    with pytest.raises(UserError, match="paths become ids by utils/take_trials.sh"):
        trial_speakers(read_trials(tmp_path / "list"), data)
