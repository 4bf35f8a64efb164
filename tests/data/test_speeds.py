"""Speech at other speeds while it is read: SoX's spectrum and samples, parts equal to the whole, new speakers."""

import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.config import load_config
from svq.data import audio
from svq.data.dataset import TrainSet, epoch_batches
from svq.data.speed import perturb_speed
from svq.data.speeds import check_speeds, faster, length
from svq.errors import UserError
from svq.train.config import TrainConfig
from tests.builders import data_dir, voice


def at(samples, factor, first=0, count=10**6):
    return faster(lambda start, wanted: samples[start : start + wanted], first, count, factor)


def spectrum(samples, size=512):
    blocks = samples[: len(samples) // size * size].reshape(-1, size) * np.hanning(size)
    return 10 * np.log10(np.square(np.abs(np.fft.rfft(blocks))).mean(axis=0))


def by_sox(samples, factor, tmp_path):
    soundfile.write(tmp_path / "in.wav", samples, 16000, subtype="FLOAT")
    subprocess.run(["sox", "-V1", "-R", tmp_path / "in.wav", "-b", "32", "-e", "float", tmp_path / "out.wav", "speed", str(factor)],
                   check=True)
    return soundfile.read(tmp_path / "out.wav", dtype="float32")[0]


@pytest.mark.skipif(not shutil.which("sox"), reason="no SoX here")
@pytest.mark.parametrize("factor", [0.9, 1.1, 0.95, 1.25])
def test_the_spectrum_is_that_of_sox(tmp_path, factor):
    noise = (0.1 * np.random.default_rng(0).standard_normal(16000 * 20)).astype(np.float32)
    ours, theirs = at(noise, factor), by_sox(noise, factor, tmp_path)
    assert abs(len(ours) - len(theirs)) <= 1 and len(ours) == length(len(noise), factor)
    band = np.arange(257) * 31.25
    band = (band > 30) & (band <= 0.94 * 8000 * min(1, factor))
    assert np.abs(spectrum(ours) - spectrum(theirs))[band].max() < 0.5
    speech = voice(2, 4.0, np.random.default_rng(1))
    ours, theirs = at(speech, factor), by_sox(speech, factor, tmp_path)
    shorter = min(len(ours), len(theirs))
    assert np.abs(ours[:shorter] - theirs[:shorter])[200:-200].max() < 0.02 * np.abs(speech).max()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([0.9, 1.1, 0.5, 1.37]), st.integers(1, 4000), st.integers(0, 6000), st.integers(1, 3000))
def test_a_part_is_that_of_the_whole(factor, size, first, count):
    samples = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    whole = at(samples, factor)
    assert len(whole) == length(size, factor)
    part = at(samples, factor, first, count)
    np.testing.assert_allclose(part, whole[first : first + count], atol=1e-5)


def test_a_tone_moves_and_keeps_its_level():
    tone = np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000).astype(np.float32)
    for factor in (0.9, 1.1):
        out = at(tone, factor)
        expected = np.sin(2 * np.pi * 1000 * factor * np.arange(len(out)) / 16000)
        assert np.abs(out - expected)[200:-200].max() < 1e-3


@pytest.mark.parametrize("speeds", [(), (0.0,), (1.0, 1.0), (float("nan"),), (0.12345,), (20.0,), (-1.0,)])
def test_no_speeds(speeds, tmp_path):
    with pytest.raises(ValueError, match="speed"):
        check_speeds(speeds)
    folder = data_dir(tmp_path, speakers=1, utts=1)
    (folder / "speeds").write_text(" ".join(map(str, speeds)) + "\n")
    with pytest.raises(UserError, match="data/speeds:1: "):
        TrainSet(folder)


def test_items_and_speakers_are_those_of_copies_on_disk(tmp_path):
    folder = data_dir(tmp_path, speakers=3, utts=2, seconds=1.5)
    perturb_speed(folder, tmp_path / "sp", ["0.9", "1.1"], keep_original=True)
    copies, online = TrainSet(tmp_path / "sp", crop_seconds=0.5), TrainSet(folder, crop_seconds=0.5, speeds=(0.9, 1.0, 1.1))
    assert online.speakers == copies.speakers and online.num_speakers == 9 and len(online) == len(copies) == 18
    label_of = {copies.utterance(i): copies.labels[i] for i in range(18)}
    assert {online.utterance(i): online.labels[i] for i in range(18)} == label_of
    assert [key.decode() for key in online.keys] == [online.utterance(i) for i in range(18)]
    wav = audio.load(online.recordings.value(4))
    assert online.utterance(12 + 4) == "sp1.1-spk02-utt00"
    crop, label = online.item(0, 16)
    whole = at(wav, 1.1)
    starts = np.lib.stride_tricks.sliding_window_view(whole, len(crop))
    assert np.abs(starts - crop).max(axis=1).min() < 1e-5 and online.speakers[label] == "sp1.1-spk02"
    (folder / "speeds").write_text("0.9 1 1.1\n")
    assert TrainSet(folder).speakers == online.speakers
    assert TrainSet(folder, speeds=(1.0,)).num_speakers == 3
    assert sorted(np.concatenate(list(epoch_batches(online, 9, 0))).tolist()) == list(range(18))
    with pytest.raises(UserError, match="has copies at other speeds already"):
        TrainSet(tmp_path / "sp", speeds=(0.9, 1.0))


def test_settings(tmp_path):
    (tmp_path / "c.yaml").write_text("data: {speeds: [0.9, 1, 1.1]}\n")
    assert load_config(tmp_path / "c.yaml", TrainConfig).data.speeds == (0.9, 1.0, 1.1)
    with pytest.raises(UserError, match="no speed factor"):
        load_config(tmp_path / "c.yaml", TrainConfig, ["data.speeds=[0]"])
    with pytest.raises(UserError, match="speeds need waveforms"):
        load_config(tmp_path / "c.yaml", TrainConfig, ["data.input=feats"])
