"""Noise at the asked level, reverberation without delay, masks within bounds, all reproducible."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.data.augment_config import AugmentConfig, SpecAugmentConfig
from svq.data.augment import Augment, add_noise, convolved, from_direct_path, reverberate, spec_augment, wrap
from svq.data.datadir import create
from svq.errors import UserError

RATE = 16000


def clips(folder, lengths, label=None):
    """A Kaldi directory of white-noise clips, amplitude 0.1; `label`: value of utt2spk by clip."""
    rng = np.random.default_rng(3)
    (folder.parent / f"{folder.name}_wav").mkdir(parents=True)
    wav, spk = {}, {}
    for i, length in enumerate(lengths):
        path = folder.parent / f"{folder.name}_wav" / f"{i}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(length), RATE, subtype="PCM_16")
        wav[f"clip{i}"], spk[f"clip{i}"] = path, label[i] if label else f"clip{i}"
    return create(folder, wav=wav, utt2spk=spk)


def rooms(folder, delay=400):
    rng = np.random.default_rng(4)
    (folder.parent / f"{folder.name}_wav").mkdir(parents=True)
    wav = {}
    for i in range(3):
        response = np.zeros(3 * RATE)
        response[delay:] = 0.05 * rng.standard_normal(3 * RATE - delay) * np.exp(-np.arange(3 * RATE - delay) / 2000)
        response[delay] = 0.9
        path = folder.parent / f"{folder.name}_wav" / f"{i}.wav"
        soundfile.write(path, response, RATE, subtype="PCM_16")
        wav[f"room{i}"] = path
    return create(folder, wav=wav, utt2spk={key: key for key in wav})


def speech(seed=0, samples=RATE):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def power(x):
    return float(np.mean(np.square(x, dtype=np.float64)))


@given(st.floats(-10, 40), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_snr_is_what_was_asked(snr, seed):
    clean, noise = speech(seed, 4000), 7 * speech(seed + 100, 4000)
    added = add_noise(clean, noise, snr) - clean
    assert 10 * np.log10(power(clean) / power(added)) == pytest.approx(snr, abs=0.05)


@pytest.mark.parametrize("clean, noise", [(speech(), np.zeros(RATE, np.float32)), (np.zeros(RATE, np.float32), speech())])
def test_silence_has_no_snr(clean, noise):
    assert np.array_equal(add_noise(clean, noise, 10), clean)


def test_reverberation_is_the_convolution_from_the_direct_path_on():
    rng = np.random.default_rng(0)
    response = np.concatenate([np.zeros(300), [0.8], 0.3 * rng.standard_normal(200) * np.exp(-np.arange(200) / 50)])
    clean = speech()
    wet = reverberate(clean, from_direct_path(response.astype(np.float32), 10**6))
    expected = np.convolve(clean.astype(np.float64), response)[300:300 + len(clean)]
    expected *= np.sqrt(power(clean) / power(expected))
    np.testing.assert_allclose(wet, expected, atol=1e-5)
    assert wet.dtype == np.float32 and len(wet) == len(clean)


def test_reverberation_neither_delays_nor_amplifies():
    response = np.zeros(5000, np.float32)
    response[2000], response[4000] = -0.5, 0.1
    clean = speech()
    short = reverberate(clean, from_direct_path(response, 1000))  # the echo lies behind the cut: only a sign is left
    np.testing.assert_allclose(short, -clean, atol=1e-5)
    long = reverberate(clean, from_direct_path(response, 3000))
    assert power(long) == pytest.approx(power(clean), rel=1e-4)
    assert np.abs(long + clean).max() > 0.01


def test_prob_is_the_share_of_augmented_utterances(tmp_path):
    augment = Augment(clips(tmp_path / "noise", [RATE] * 2), rooms(tmp_path / "rir"), prob=0.6)
    clean = speech(samples=2000)
    changed = sum(not np.array_equal(augment(clean, np.random.default_rng(i)), clean) for i in range(1000))
    assert 550 < changed < 650


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_prob_at_its_ends(tmp_path, prob):
    augment = Augment(clips(tmp_path / "noise", [RATE]), prob=prob)
    clean = speech()
    assert all(np.array_equal(augment(clean, np.random.default_rng(i)), clean) == (prob == 0) for i in range(20))


@pytest.mark.parametrize("cache_mb", [0, 512])
def test_same_generator_same_result_whatever_was_read_before(tmp_path, cache_mb):
    noise, rir = clips(tmp_path / "noise", [5000, 40000, 70000]), rooms(tmp_path / "rir")
    make = lambda: Augment(noise, rir, prob=1.0, both=True, cache_mb=cache_mb)  # noqa: E731
    warm = make()
    for i in range(30):
        warm(speech(i), np.random.default_rng(1000 + i))
    for i in range(20):
        a, b = (augment(speech(), np.random.default_rng(i)) for augment in (warm, make()))
        assert np.array_equal(a, b) and a.dtype == np.float32 and a.shape == (RATE,)


def test_cached_and_streamed_crops_are_equal(tmp_path):
    noise = clips(tmp_path / "noise", [5000, 40000, 70000])
    held, read = Augment(noise, prob=1.0), Augment(noise, prob=1.0, cache_mb=0)
    for i in range(20):
        assert np.array_equal(held(speech(), np.random.default_rng(i)), read(speech(), np.random.default_rng(i)))
    assert not read.noise.cache and held.noise.cache


@pytest.mark.parametrize("peak", [0.9, 1e-3, 1e-5, 3.0, 20.0, 3e4])
@pytest.mark.parametrize("cache_mb", [0, 512])
def test_clips_of_any_scale(tmp_path, peak, cache_mb):
    """Rooms and noise as floats: what they do does not depend on the scale of their files."""
    clip = np.float32(np.random.default_rng(0).standard_normal(8000) * np.exp(-np.arange(8000) / 900))
    clip /= np.abs(clip).max()
    soundfile.write(tmp_path / "a.wav", peak * clip, RATE, subtype="FLOAT")
    folder = create(tmp_path / "clips", wav={"a": tmp_path / "a.wav"}, utt2spk={"a": "a"})
    rooms, noise = Augment(rir_dir=folder, prob=1.0, cache_mb=cache_mb), Augment(folder, prob=1.0, cache_mb=cache_mb)
    expected = reverberate(speech(), from_direct_path(clip, RATE))
    np.testing.assert_allclose(rooms(speech(), np.random.default_rng(0)), expected, atol=1e-6)
    added = noise(speech(), np.random.default_rng(0)) - speech()
    assert np.corrcoef(added, wrap(clip, RATE))[0, 1] > 0.999
    assert np.abs(noise.noise.whole(0) - np.float32(peak * clip)).max() == 0


@pytest.mark.parametrize("label, low, high", [("noise", 0, 15), ("music", 5, 15), ("babble", 13, 20)])
def test_level_by_category(tmp_path, label, low, high):
    augment = Augment(clips(tmp_path / "noise", [RATE] * 3, [label] * 3), prob=1.0)
    clean = speech(5)
    snrs = []
    for i in range(100):
        added = augment(clean, np.random.default_rng(i)).astype(np.float64) - clean
        snrs.append(10 * np.log10(power(clean) / power(added)))
    assert low - 0.1 < min(snrs) < low + 2 and high - 2 < max(snrs) < high + 0.1


def test_categories_from_utt2category(tmp_path):
    folder = clips(tmp_path / "noise", [100] * 4)
    (folder / "utt2category").write_text("clip0 music\nclip1 speech\nclip2 dog\nclip3 music\n")
    members = Augment(folder).members
    assert {name: list(i) for name, i in members.items()} == {"music": [0, 3], "speech": [1], "noise": [2]}
    (folder / "utt2category").write_text("clip0 music\n")
    with pytest.raises(UserError, match="utt2category: no line for clip1"):
        Augment(folder)


def test_nothing_to_augment_with_is_an_error(tmp_path):
    with pytest.raises(UserError, match="noise_dir"):
        Augment()
    with pytest.raises(UserError, match="no such"):
        Augment(tmp_path / "absent")


@pytest.mark.parametrize("wrong", [{"prob": 1.5}, {"noise_snr": (9, 3)}, {"babble": (0, 2)}, {"rir_seconds": 0.0}])
def test_config_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentConfig(**wrong)


def test_from_config_is_the_same(tmp_path):
    noise = clips(tmp_path / "noise", [30000])
    config = AugmentConfig(noise_dir=str(noise), prob=1.0)
    a = Augment.from_config(config)(speech(), np.random.default_rng(0))
    assert np.array_equal(a, Augment(noise, prob=1.0)(speech(), np.random.default_rng(0)))


@given(st.integers(1, 30), st.integers(1, 100))
def test_wrap_repeats(length, samples):
    signal = np.arange(length)
    assert np.array_equal(wrap(signal, samples), np.arange(samples) % length)


def masked(config, frames=200, bands=80, seed=0, batch=64):
    feats = torch.ones(batch, frames, bands)
    out = spec_augment(feats, seed, config)
    assert torch.all(feats == 1)  # the input is left alone
    return out == 0


def test_spec_augment_masks_whole_bands_and_frames_within_bounds():
    zero = masked(SpecAugmentConfig(prob=1.0, num_freq_masks=2, max_freq=8, num_time_masks=1, max_time=10))
    frames, bands = zero.all(dim=2), zero.all(dim=1)
    assert torch.equal(zero, frames[:, :, None] | bands[:, None, :])
    assert frames.sum(1).max() == 10 and bands.sum(1).max() > 8 and bands.sum(1).max() <= 16
    assert frames.any(0).float().mean() > 0.8 and bands.any(0).all()  # masks go everywhere
    assert len({tuple(row.tolist()) for row in bands}) > 30  # each utterance has its own
    assert all(torch.all(torch.diff(row.int()).abs().sum() <= 2) for row in frames)  # one span


def test_spec_augment_prob_and_nothing():
    share = masked(SpecAugmentConfig(prob=0.6, max_time=50, max_freq=0), batch=2000, bands=2).flatten(1).any(1)
    assert 0.54 < share.float().mean() < 0.63  # width 0 has a chance of 1/51
    assert not masked(SpecAugmentConfig(prob=1.0, num_freq_masks=0, num_time_masks=0)).any()
    assert not masked(SpecAugmentConfig(prob=0.0)).any()


def test_spec_augment_depends_on_the_seed_alone():
    config = SpecAugmentConfig()
    assert torch.equal(masked(config), masked(config))
    assert not torch.equal(masked(config), masked(config, seed=1))
    short = masked(SpecAugmentConfig(prob=1.0, max_time=500, max_freq=500), frames=5, bands=4)
    assert short.shape == (64, 5, 4)


def test_spec_augment_ranks_share_the_masks_of_one_process():
    feats = torch.randn(8, 50, 80)
    whole = spec_augment(feats, 7)
    parts = [spec_augment(feats[4 * r:4 * r + 4], 7, rank=r, world_size=2) for r in range(2)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("samples, longest", [(32240, 16000), (5000, 9000), (4096, 4096), (4097, 1), (1, 1), (100, 3)])
def test_convolution_is_that_of_the_sums(samples, longest):
    rng = np.random.default_rng(samples)
    signal, response = (rng.standard_normal(size).astype(np.float32) for size in (samples, longest))
    expected = np.convolve(signal.astype(np.float64), response.astype(np.float64))[:samples]
    found = convolved(signal, response)
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-5 * np.abs(expected).max() + 1e-6
