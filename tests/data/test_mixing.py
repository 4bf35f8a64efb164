"""Noise and rooms put on a batch on its device: what the processes that read would have made, up to rounding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.data.augment_config import AugmentConfig
from svq.data.augment import Augment, Drawn
from svq.data.dataset import EpochBatches, TrainSet, make_loader
from svq.data.mixing import Unmixed, fast_length
from tests.builders import data_dir
from tests.data.test_augment import clips, rooms
from tests.simulated_device import simulated_device


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of the same speech, noise and rooms: mixed where they are read, and on the device."""
    place = tmp_path_factory.mktemp("mixing")
    folder = data_dir(place, speakers=4, utts=4, seconds=0.8)
    noise = clips(place / "noise", [4000, 9000, 30000, 12000], ["music", "noise", "speech", "speech"])
    config = {"noise_dir": str(noise), "rir_dir": str(rooms(place / "rooms")), "prob": 0.8, "both": True}
    return tuple(TrainSet(folder, crop_seconds=0.5, augment=AugmentConfig(**config, on_device=on)) for on in (None, True))


def batches(train_set, workers=0):
    return list(make_loader(train_set, EpochBatches(16, 8, 1, 0), 0, workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_as_the_processes_that_read_make_it(sets, workers):
    read, left = (batches(one, workers) for one in sets)
    changed = 0
    for (wanted, labels), (found, same) in zip(read, left, strict=True):
        assert isinstance(found, Unmixed) and torch.equal(labels, same)
        changed += int((found.mixed() != found.waveforms).any(1).sum())
        torch.testing.assert_close(found.mixed(), wanted, atol=2e-5, rtol=1e-4)
    assert 8 <= changed <= 16


def test_on_a_device(sets):
    wanted, _ = batches(sets[0])[0]
    found, _ = batches(sets[1])[0]
    with simulated_device() as device:
        moved = found.to(device, non_blocking=True)
        assert moved.waveforms.device == moved.snr.device == device
        torch.testing.assert_close(moved.mixed().cpu(), wanted, atol=2e-5, rtol=1e-4)


def test_pieces_of_a_batch_are_joined(sets):
    """As workers give them that read shards, some without a room or a noise."""
    items = [sets[1].item(0, i)[0] for i in range(8)]
    whole = Unmixed.of(items)
    for cuts in ((0, 3, 8), (0, 1, 2, 8)):
        joined = Unmixed.joined([Unmixed.of(items[first:last]) for first, last in zip(cuts, cuts[1:])])
        torch.testing.assert_close(joined.mixed(), whole.mixed(), atol=1e-6, rtol=0)
        assert torch.equal(joined.waveforms, whole.waveforms) and torch.equal(joined.in_noise, whole.in_noise)


def test_silence_stays_and_says_nothing(tmp_path):
    silent, loud = np.zeros(800, np.float32), np.ones(800, np.float32)
    room = np.ones(3, np.float32)
    batch = Unmixed.of([(silent, Drawn(room, loud, 10.0)), (loud, Drawn(None, silent, 10.0)), (loud, Drawn())])
    assert torch.equal(batch.mixed(), batch.waveforms)
    nothing = Unmixed.of([(loud, Drawn())])
    assert nothing.mixed() is nothing.waveforms


def test_draws_are_those_of_the_call(sets):
    """Whether or not the waveform is at hand."""
    augment: Augment = sets[1].augment
    wav = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    for seed in range(20):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        augment(wav, one)
        augment.draw(len(wav), other)
        assert one.random() == other.random()


@given(st.integers(1, 200_000))
@settings(max_examples=200, deadline=None)
def test_fast_lengths(least):
    found = fast_length(least)
    assert least <= found < max(2, 1.2 * least + 2)
    for factor in (2, 3, 5):
        while found % factor == 0:
            found //= factor
    assert found == 1
