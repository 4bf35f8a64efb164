"""Resamples recordings by a polyphase low-pass filter, as scipy.signal.resample_poly designs and applies it.

NumPy alone: importing scipy.signal takes longer, and more memory, than verifying two recordings. Every sample is the
product of one row of filter taps with the input samples under it. So a part of a recording gives the same bits as the
whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

HALF = 10  # zero crossings of the filter's sinc on either side
BETA = 5.0  # of its Kaiser window
_BLOCK = 1 << 19  # products at a time


def resampled(read: Callable[[int, int], np.ndarray], frames: int, first: int, last: int, up: int,
              down: int) -> np.ndarray:
    """Computes samples [first, last), float32, of a recording resampled by up / down, which have no common divisor.

    first, last: counted at the new rate. read: (start, count) -> that many of the recording's `frames` samples,
    float32. It is called once, for the samples under the filter.
    """
    out = np.empty(max(last - first, 0), np.float32)
    if not len(out):
        return out
    taps, delay = _taps(up, down), HALF * max(up, down)
    width = taps.shape[1]
    begin, end = (first * down + delay) // up - width + 1, ((last - 1) * down + delay) // up + 1
    held = read(max(begin, 0), min(end, frames) - max(begin, 0))
    under = sliding_window_view(np.pad(held, (max(-begin, 0), max(end - frames, 0))), width)
    for start in range(0, len(out), step := max(1, _BLOCK // width)):
        part = slice(start, min(start + step, len(out)))
        newest, phase = np.divmod(np.arange(first + part.start, first + part.stop) * down + delay, up)
        out[part] = np.einsum("ij,ij->i", under[newest - (begin + width - 1)], taps[phase])
    return out


@lru_cache(maxsize=16)
def _taps(up: int, down: int) -> np.ndarray:
    """Designs the filter: the taps of each phase, (up, taps) float32, those of the oldest sample first."""
    widest = max(up, down)
    at = np.arange(-HALF * widest, HALF * widest + 1)
    lowpass = np.sinc(at / widest) * np.kaiser(len(at), BETA)
    lowpass = (lowpass / lowpass.sum()).astype(np.float32) * np.float32(up)
    count = -(-len(at) // up)
    return np.ascontiguousarray(np.pad(lowpass, (0, count * up - len(at))).reshape(count, up)[::-1].T)
