"""The front end in NumPy against the one in torch, on all kinds and signals."""

import numpy as np
import pytest
import torch

from svq.data.frontend import FrontEnd, FrontEndConfig
from svq.data.numpy_front_end import CHUNK_FRAMES, NumpyFrontEnd
from tests.data.test_front_ends import KINDS, signals

OTHERS = {
    "telephone": FrontEndConfig(rate=8000, num_mels=40),
    "sherpa": FrontEndConfig(high_hz=-400.0, snip_edges=False),
    "as they are": FrontEndConfig(mean_normalize=False),
    "divided": FrontEndConfig(variance_normalize=True),
    "many filters": FrontEndConfig(rate=44100, num_mels=128, preemphasis=0.0),
}


@pytest.mark.parametrize("kind", [*KINDS, *OTHERS])
def test_agrees_with_torch(kind):
    config = {**KINDS, **OTHERS}[kind]
    theirs, ours = FrontEnd(config), NumpyFrontEnd(config)
    for name, wave in signals().items():
        if config.variance_normalize and name in ("silence", "glide"):
            continue  # channels that hardly move: what is left of them is rounding, divided by next to nothing
        expected, found = theirs(torch.from_numpy(wave)[None]).numpy(), ours(wave[None])
        assert found.shape == expected.shape and found.dtype == np.float32
        assert found.shape[1] == ours.bank.num_frames(len(wave)) == theirs.bank.num_frames(len(wave))
        apart = np.abs(found - expected)
        # SpeechBrain's and clova's transforms run in float32 in torch, whose rounding shows far under the peak.
        assert apart.max() < (1e-4 if config.fbank == "kaldi" else 2e-2) and apart.mean() < 1e-4, (name, apart.max())


@pytest.mark.parametrize("kind", ["here", "sherpa", "speechbrain", "fast"])
def test_long_recordings_and_batches(kind):
    """In pieces, frames are those of the whole; each row of a batch is as by itself."""
    ours = NumpyFrontEnd({**KINDS, **OTHERS}[kind])
    wave = 0.1 * np.random.default_rng(0).standard_normal((2, 160 * (2 * CHUNK_FRAMES + 5))).astype(np.float32)
    both = ours(wave)
    assert both.shape[1] > 2 * CHUNK_FRAMES
    for row, alone in zip(both, wave):
        np.testing.assert_array_equal(row, ours(alone[None])[0])
    theirs = FrontEnd(ours.config)(torch.from_numpy(wave)).numpy()
    assert np.abs(both - theirs).max() < 1e-2


def test_what_is_no_waveform():
    ours = NumpyFrontEnd(FrontEndConfig())
    with pytest.raises(ValueError, match="399 samples are too few; the shortest recording has 400"):
        ours(np.zeros((1, 399), np.float32))
    with pytest.raises(ValueError, match=r"expected waveforms \(B, T\)"):
        ours(np.zeros(400, np.float32))
    assert ours(np.zeros((1, 400), np.float32)).shape == (1, 1, 80)
