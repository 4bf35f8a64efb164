"""Resampling against scipy's, and parts of a recording against the whole."""

from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import firwin, resample_poly

from svq.data.resample import resampled

USUAL = st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])
PAIRS = st.tuples(USUAL, USUAL) | st.tuples(st.integers(1000, 2000), st.integers(1000, 2000))


def ratio(own: int, rate: int) -> tuple[int, int]:
    return rate // gcd(own, rate), own // gcd(own, rate)


def of(x: np.ndarray, first: int, last: int, up: int, down: int) -> np.ndarray:
    asked = []

    def read(start, count):
        assert 0 <= start and 0 <= count and start + count <= len(x)
        asked.append(count)
        return x[start:start + count]

    out = resampled(read, len(x), first, last, up, down)
    assert len(asked) == (last > first) and out.dtype == np.float32
    return out


@given(PAIRS, st.integers(1, 3000), st.integers(0, 99))
def test_as_scipy(pair, length, seed):
    up, down = ratio(*pair)
    if up == down:
        return
    x = np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)
    widest = max(up, down)
    lowpass = firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0)).astype(np.float32)
    expected = resample_poly(x, up, down, window=lowpass)
    np.testing.assert_allclose(of(x, 0, len(expected), up, down), expected, atol=2e-6)


@given(PAIRS, st.integers(2, 3000), st.data())
def test_a_part_has_the_bits_of_the_whole(pair, length, data):
    up, down = ratio(*pair)
    if up == down:
        return
    x = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    total = -(-length * up // down)
    first = data.draw(st.integers(0, total))
    last = data.draw(st.integers(first, total))
    np.testing.assert_array_equal(of(x, first, last, up, down), of(x, 0, total, up, down)[first:last])


@pytest.mark.parametrize("own", [44100, 48000])
def test_a_tone_stays_and_what_is_above_the_band_goes(own):
    time = np.arange(own) / own
    low, high = (np.sin(2 * np.pi * hertz * time).astype(np.float32) for hertz in (1000, 12000))
    up, down = ratio(own, 16000)
    inside = slice(200, -200)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(of(low, 0, 16000, up, down) - expected)[inside].max() < 2e-3
    assert np.abs(of(high, 0, 16000, up, down))[inside].max() < 5e-3
