"""The front end against kaldi-native-fbank and against a float64 transcription of the definition."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from svq.data.fbank import Fbank, mean_normalize, num_frames, num_samples

RATE = 16000


def speech_like(rng, samples):
    """Pulses at 120 Hz through three formants, silence between syllables, room noise at -70 dBFS."""
    pulses = (np.arange(samples) % (RATE // 120) == 0).astype(float) + 0.01 * rng.standard_normal(samples)
    for hertz, width in ((500, 80), (1500, 120), (2700, 160)):
        radius = np.exp(-np.pi * width / RATE)
        pulses = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * hertz / RATE), radius**2], pulses)
    syllables = np.maximum(0, np.sin(2 * np.pi * 3 * np.arange(samples) / RATE))
    wave = 0.3 * pulses * syllables / np.abs(pulses).max()
    return wave + 3e-4 * rng.standard_normal(samples)


def signals():
    rng = np.random.default_rng(0)
    samples = 3 * RATE + 77
    time = np.arange(samples) / RATE
    noise = rng.standard_normal(samples)
    return {
        "speech": speech_like(rng, samples),
        "speech16": np.round(speech_like(rng, samples) * 32768) / 32768,
        "noise": 0.1 * noise,
        "clipped": np.clip(noise, -1, 1),
        "one_bit": np.round(noise) / 32768,
        "tiny": 1e-6 * noise,
        "silence": np.zeros(samples),
        "offset": 0.01 + 0.01 * noise,
        "tone_in_noise": 0.3 * np.sin(2 * np.pi * 1000 * time) + 0.001 * noise,
        "tone": 0.5 * np.sin(2 * np.pi * 1000 * time),
        "dc": 0.5 + 0.001 * noise,  # speech at -60 dBFS on half of full scale
        "clicks": 0.9 * (np.arange(samples) % 1000 == 0),
    }


def native(wave, rate=RATE, high_hz=0.0, snip_edges=True):
    """kaldi-native-fbank's log-mels (frames, 80)."""
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = rate
    options.frame_opts.snip_edges = snip_edges
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = high_hz
    computer = knf.OnlineFbank(options)
    computer.accept_waveform(rate, (wave * 32768).tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


def by_definition(wave):
    """Kaldi's steps one by one in float64 (feature-window.cc, mel-computations.cc), (frames, 80)."""
    wave = np.asarray(wave, np.float64) * 32768
    mel = lambda hertz: 1127 * np.log(1 + hertz / 700)  # noqa: E731
    corners = mel(20.0) + (mel(8000.0) - mel(20.0)) / 81 * np.arange(82)
    bins = mel(np.arange(256) * RATE / 512)
    weights = np.zeros((80, 256))
    for m in range(80):
        left, centre, right = corners[m:m + 3]
        for b in range(256):
            if left < bins[b] <= centre:
                weights[m, b] = (bins[b] - left) / (centre - left)
            elif centre < bins[b] < right:
                weights[m, b] = (right - bins[b]) / (right - centre)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    rows = []
    for start in range(0, len(wave) - 399, 160):
        frame = wave[start:start + 400] - wave[start:start + 400].mean()
        emphasised = np.append(frame[0] - 0.97 * frame[0], frame[1:] - 0.97 * frame[:-1])
        power = np.abs(np.fft.rfft(emphasised * window, 512)[:256]) ** 2
        rows.append(np.log(np.maximum(weights @ power, np.finfo(np.float32).eps)))
    return np.array(rows)


def ours(wave):
    return Fbank()(torch.from_numpy(np.asarray(wave, np.float32))[None])[0].numpy()


@pytest.mark.parametrize("name", ["speech", "speech16", "noise", "tiny", "silence", "offset", "clicks"])
def test_equals_kaldi_native_fbank(name):
    wave = signals()[name].astype(np.float32)
    reference = native(wave)
    assert ours(wave).shape == reference.shape
    np.testing.assert_allclose(ours(wave), reference, rtol=0, atol=1e-3)


@pytest.mark.parametrize("rate", [16000, 11025, 8000])
@pytest.mark.parametrize("high_hz, snip_edges", [(-400.0, False), (-400.0, True), (3500.0, False), (0.0, False)])
def test_highest_frequency_and_mirrored_edges(rate, high_hz, snip_edges):
    """Down to a single window, of which the edges are most."""
    wave = signals()["speech"].astype(np.float32)
    bank = Fbank(rate=rate, high_hz=high_hz, snip_edges=snip_edges)
    for samples in (len(wave), len(wave) - 79, 2 * bank.length + 1, bank.length):
        reference = native(wave[:samples], rate, high_hz, snip_edges)
        found = bank(torch.from_numpy(wave[None, :samples]))[0].numpy()
        assert len(found) == bank.num_frames(samples) == len(reference)
        np.testing.assert_allclose(found, reference, rtol=0, atol=2e-3)
    assert bank.num_frames(bank.length - 1) == 0


@pytest.mark.parametrize("name", ["clipped", "one_bit", "tone_in_noise", "tone"])
def test_differs_from_the_peer_by_no_more_than_its_own_rounding(name):
    """In spectral nulls, 90 dB and more under the peak, the peer's float32 is itself over 1e-3 off."""
    wave = signals()[name].astype(np.float32)
    reference = native(wave)
    assert np.all(np.abs(ours(wave) - reference) < 1e-3 + np.abs(reference - by_definition(wave)))


@pytest.mark.parametrize("name", signals())
def test_equals_the_definition_in_float64(name):
    wave = signals()[name].astype(np.float32)
    np.testing.assert_allclose(ours(wave), by_definition(wave), rtol=0, atol=5e-4)


def test_silence_is_the_floor():
    assert np.all(ours(np.zeros(1000)) == np.log(np.finfo(np.float32).eps).astype(np.float32))


@pytest.mark.parametrize("samples, frames", [(400, 1), (559, 1), (560, 2), (32240, 200), (16000 * 9, 898)])
def test_frame_count(samples, frames):
    assert num_frames(samples) == frames
    assert ours(np.ones(samples) * 0.1).shape == (frames, 80)
    assert num_frames(num_samples(frames)) == frames > num_frames(num_samples(frames) - 1)


def test_too_short_is_an_error():
    with pytest.raises(ValueError, match="399 samples"):
        ours(np.zeros(399))


def test_batch_and_pieces_do_not_matter():
    """Long inputs are worked on piece by piece: each row is as if alone, each frame as if in a short file."""
    rng = np.random.default_rng(2)
    waves = (0.1 * rng.standard_normal((3, RATE * 12))).astype(np.float32)
    batch = Fbank()(torch.from_numpy(waves)).numpy()
    for row, wave in zip(batch, waves):
        np.testing.assert_allclose(row, ours(wave), rtol=0, atol=1e-4)
    tail = ours(waves[0, 160 * 700:])
    np.testing.assert_allclose(batch[0, 700:], tail, rtol=0, atol=1e-3)


def test_other_sizes():
    feats = Fbank(num_mels=40, rate=8000)(torch.randn(2, 8000) * 0.1)
    assert feats.shape == (2, 98, 40) and torch.isfinite(feats).all()


def test_mean_normalize():
    feats = torch.randn(2, 50, 80) + torch.arange(80)
    mean = mean_normalize(feats).mean(dim=1)
    assert mean.abs().max() < 1e-4
    assert torch.allclose(mean_normalize(feats)[1], mean_normalize(feats[1:])[0])
