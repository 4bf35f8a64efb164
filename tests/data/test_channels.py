"""The channel that reco2file_and_channel names stays with its recording; segments may end with their recording."""

import numpy as np
import pytest
import soundfile

from svq.compression.inputs import write_speech, write_tested
from svq.data import audio, reshape
from svq.data.audio import write_utt2dur
from svq.data.datadir import DataDir, channel_index, create
from svq.data.fix import fix
from svq.data.rxfilename import speed_command
from svq.data.speed import perturb_speed
from svq.data.table import Table
from svq.data.validate import validate
from svq.data.wavark import copy_part
from svq.errors import UserError
from tests.builders import data_dir, voice

A, B = (voice(s, 1.0, np.random.default_rng(s)) for s in (0, 3))


@pytest.fixture
def calls(tmp_path):
    """Two sides of a call as utterances, without segments; beside it, `one`, a directory of mono recordings."""
    soundfile.write(tmp_path / "call.wav", np.stack([A, B], axis=1), 16000, subtype="FLOAT")
    data_dir(tmp_path, 1, 2, 0.1, name="one")
    sides = {"x-A": "call A", "x-B": "call B"}
    return create(tmp_path / "calls", wav=dict.fromkeys(sides, tmp_path / "call.wav"),
                  utt2spk={"x-A": "x-A", "x-B": "x-B"}, utt2dur=dict.fromkeys(sides, 1), reco2file_and_channel=sides)


def trials(calls):
    (calls / "list").write_text("x-A x-B nontarget\n")
    return calls / "list"


MAKERS = {
    "split": lambda calls, out: reshape.split(calls, 2).joinpath("2").rename(out),
    "subset": lambda calls, out: reshape.subset(calls, out, np.array([1])),
    "combine": lambda calls, out: reshape.combine(out, [calls.parent / "one", calls]),
    "speech": lambda calls, out: write_speech(calls, out),
    "tested": lambda calls, out: write_tested(trials(calls), calls, out),
    "fix": lambda calls, out: (fix(calls, "decode"), calls.rename(out)),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_channels_stay_with_their_recordings(calls, tmp_path, maker):
    MAKERS[maker](calls, tmp_path / "out")
    assert validate(tmp_path / "out", "decode").lines() == []
    assert np.array_equal(audio.load(DataDir(tmp_path / "out").wav["x-B"]), B)


def test_channels_at_other_speeds(calls, tmp_path):
    perturb_speed(calls, tmp_path / "out", ["0.9"])
    soundfile.write(tmp_path / "b.wav", B, 16000, subtype="FLOAT")
    expected = audio.load(speed_command(str(tmp_path / "b.wav"), "0.9"))
    assert np.allclose(audio.load(DataDir(tmp_path / "out").wav["sp0.9-x-B"]), expected, atol=1e-4)


def test_only_some_recordings_are_named(calls, tmp_path):
    (calls / "reco2file_and_channel").write_text("x-B call B\n")
    wav = DataDir(calls).wav
    assert np.array_equal(audio.load(wav["x-A"]), (A + B) / 2) and np.array_equal(audio.load(wav["x-B"]), B)
    assert [type(value).__name__ for value in wav.values()] == ["str", "Rx"]
    reshape.split(calls, 2)
    assert not DataDir(calls / "split2" / "1").has("reco2file_and_channel")


@pytest.mark.parametrize("text, index", [("A", 0), ("B", 1), ("1", 0), ("2", 1), ("12", 11), ("0", None), ("a", None),
                                         ("-1", None), ("AB", None), ("left", None), ("²", None)])  # fmt: skip
def test_names_of_channels(calls, text, index):
    (calls / "reco2file_and_channel").write_text(f"x-A call A\nx-B call {text}\n")
    if index is not None:
        assert channel_index(text) == index
        return
    for found in (validate(calls, "none").lines(), [str(pytest.raises(UserError, DataDir(calls).wav.value, 1).value)]):
        assert found == [f"{calls}/reco2file_and_channel:2: `{text}` is no channel: A, B, ... or 1, 2, ..."]


@pytest.mark.parametrize("line", ["x-B call", "x-B call A B"])
def test_lines_that_name_no_channel(calls, line):
    (calls / "reco2file_and_channel").write_text(f"x-A call A\n{line}\n")
    expected = f"{calls}/reco2file_and_channel:2: is not `recording file channel`"
    assert validate(calls, "none").lines() == [expected]
    with pytest.raises(UserError, match=expected):
        dict(DataDir(calls).wav.items())


# ---- parts of a recording that cancel are judged by the whole of it


def test_a_part_is_judged_by_the_whole(tmp_path):
    """A pause in which two microphones hum against each other is no reason to refuse a part."""
    hum = 0.01 * np.sin(np.arange(8000) / 40)
    both = np.stack([np.append(A, hum), np.append(A, -hum)], axis=1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", both, 16000, subtype="FLOAT")
    assert not audio.load(str(tmp_path / "a.wav"), start=1.0).any()
    soundfile.write(tmp_path / "a.wav", both * np.float32([1, -1]), 16000, subtype="FLOAT")
    for part in ({}, {"start": 0.2, "seconds": 0.3}, {"start": 1.0}):
        with pytest.raises(UserError, match=r"its 2 channels cancel each other: their average keeps 0\.\d+ % of"):
            audio.load(str(tmp_path / "a.wav"), **part)


# ---- segments


@pytest.mark.parametrize("end, last, seconds", [("-1", 16000, 0.5), ("1", 16000, 0.5), ("1.3", 16000, 0.8),
                                                ("0.75", 12000, 0.25)])  # fmt: skip
def test_the_end_of_a_segment(tmp_path, end, last, seconds):
    soundfile.write(tmp_path / "r.wav", A, 16000, subtype="FLOAT")
    span = {"a": f"r 0.5 {end}"}
    folder = create(tmp_path / "data", wav={"a": tmp_path / "r.wav"}, utt2spk={"a": "a"}, segments=span)
    (folder / "wav.scp").write_text(f"r {tmp_path}/r.wav\n")
    assert validate(folder).lines() == []
    copy_part(folder, tmp_path / "copy.ark", 16000)
    assert np.array_equal(audio.load(Table.read(tmp_path / "copy.scp")["a"]), A[8000:last])
    write_utt2dur(folder, folder / "utt2dur")
    assert float(DataDir(folder).utt2dur["a"]) == pytest.approx(seconds)
    perturb_speed(folder, tmp_path / "fast", ["2"])
    copy_part(tmp_path / "fast", tmp_path / "fast.ark", 16000)
    assert Table.read(tmp_path / "fast" / "segments")["sp2-a"].split()[2] in ("-1", f"{float(end) / 2:g}")
    assert float(Table.read(tmp_path / "fast.utt2dur")["sp2-a"]) == pytest.approx((last - 8000) / 32000, abs=1e-3)


@pytest.mark.parametrize("span", ["r 0.5 -2", "r 0.5 0.5", "r -1 0.5", "r 0.5", "r 0.5 x", "r 0.5 0.6 A"])
def test_what_is_no_segment(tmp_path, span):
    folder = create(tmp_path / "data", wav={"a": "r.wav"}, utt2spk={"a": "a"}, segments={"a": span})
    line = f"{folder}/segments:1: is not `utterance recording start end`"
    assert line in validate(folder, "none").lines()
    for how in (lambda: copy_part(folder, tmp_path / "copy.ark", 16000), lambda: write_utt2dur(folder, tmp_path / "x")):
        with pytest.raises(UserError, match=line):
            how()
