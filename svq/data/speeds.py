"""Speech played faster or slower while it is read, as SoX's `speed` does, but without a copy on disk.

A recording at f times its speed is resampled by 1/f: it lasts 1/f as long, and its pitch is f times as high. Its
speaker counts as a new one. The ids are those of the copies that svq.data.speed makes: `sp<factor>-` before the id of
the utterance and before that of the speaker.

A data directory names the speeds at which training reads it in the file `speeds`, one line such as `0.9 1 1.1`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from svq.atomic import atomic_write
from svq.errors import UserError, located
from svq.files import open_file

NAME = "speeds"

# The filter is a sinc under a Kaiser window and falls where SoX's does. The two agree within 0.5 dB up to 94 % of the
# lower of the two Nyquist frequencies.
HALF = 64  # zero crossings on either side
BETA = 6.0
CUTOFF = 0.956  # share of the lower Nyquist frequency at which the filter has fallen by 6 dB
SLOWEST, FASTEST = 0.1, 10.0
MOST_STEPS = 1000  # most for numerator and denominator (0.9 is 9/10): the filter's table grows with them

_PRODUCTS = 1 << 18  # multiplications in one matrix product; few enough for OpenBLAS to stay in one thread


@lru_cache(maxsize=64)
def fraction(factor: float) -> Fraction:
    """Converts a speed factor to a fraction; ValueError if it is outside 0.1 to 10 or needs a number above 1000."""
    found = Fraction(repr(float(factor))) if np.isfinite(factor) else Fraction(0)
    if not SLOWEST <= found <= FASTEST or max(found.numerator, found.denominator) > MOST_STEPS:
        raise ValueError(f"{factor} is no speed factor: give numbers such as 0.9 and 1.1")
    return found


def check_speeds(speeds) -> None:
    """Checks that `speeds` are speed factors, at least one and none twice; ValueError if not."""
    if not speeds or len({fraction(speed) for speed in speeds}) < len(speeds):
        raise ValueError(f"speeds is {list(speeds)}: none, or one of them twice; give factors such as 0.9, 1.0, 1.1")


def speeds_of(data_dir) -> tuple[float, ...]:
    """Reads the file `speeds` of a data directory; (1.0,) if there is none. UserError if it holds no valid speeds."""
    path = os.path.join(data_dir, NAME)
    if not os.path.exists(path):
        return (1.0,)
    with open_file(path, "r", encoding="utf-8") as file:
        words = file.read().split()
    try:
        speeds = tuple(map(float, words))
        check_speeds(speeds)
    except ValueError:
        raise UserError(located(path, 1, f"`{' '.join(words)[:60]}` are no speeds: write factors such as `0.9 1 1.1`")) from None
    return speeds


def write_speeds(data_dir, speeds: Sequence[float]) -> None:
    """Writes the file `speeds` of a data directory, the factors at which training reads it; UserError if invalid."""
    try:
        check_speeds(speeds)
    except ValueError as error:
        raise UserError(str(error)) from None
    with atomic_write(os.path.join(data_dir, NAME)) as file:
        file.write(" ".join(f"{speed:g}" for speed in speeds) + "\n")


def prefix(factor: float) -> str:
    """Gives the prefix of the ids of utterances and speakers at a speed: `sp0.9-` at 0.9, nothing at 1."""
    return "" if factor == 1 else f"sp{factor:g}-"


def length(frames: int, factor: float) -> int:
    """Computes how many samples `frames` samples become at `factor` times their speed."""
    speed = fraction(factor)
    return -(-frames * speed.denominator // speed.numerator)


def faster(read: Callable[[int, int], np.ndarray], first: int, count: int, factor: float) -> np.ndarray:
    """Gives samples first .. first + count - 1 of a recording at `factor` times its speed.

    The result is (count,) float32, or shorter where the recording ends. read(start, count) must give that many samples
    of the recording from `start` on, float32, or fewer where it ends; it is called once. The recording counts as silent
    before its start and after its end. ValueError if `factor` is no speed factor.
    """
    speed = fraction(factor)
    if speed == 1:
        return read(first, count)
    table, reach = _table(speed)
    step, phases = speed.numerator, speed.denominator
    group = first // phases  # each group of `phases` outputs lies `step` inputs after the one before
    groups = -(-(first + count) // phases) - group
    begin = group * step - reach
    wanted = (groups - 1) * step + len(table)
    held = read(max(begin, 0), wanted + min(begin, 0))
    there = max(begin, 0) + len(held)  # the recording's end, if fewer samples came than were asked for
    padded = np.zeros(wanted, np.float32)
    padded[max(-begin, 0) : max(-begin, 0) + len(held)] = held
    windows = sliding_window_view(padded, len(table))[::step]
    out = np.empty((groups, phases), np.float32)
    for row in range(0, groups, rows := max(1, _PRODUCTS // table.size)):
        out[row : row + rows] = windows[row : row + rows] @ table
    out = out.reshape(-1)
    last = length(there, factor) if len(held) < wanted + min(begin, 0) else first + count
    return out[first - group * phases : max(first, min(first + count, last)) - group * phases]


@lru_cache(maxsize=16)
def _table(speed: Fraction) -> tuple[np.ndarray, int]:
    """Computes the filter, (inputs, phases) float32, and how many samples before a group's first it begins."""
    band = CUTOFF * min(1.0, float(1 / speed))  # of the input's Nyquist frequency
    half = HALF / band  # inputs on either side
    reach = int(np.ceil(half))
    inputs = np.arange(-reach, speed.numerator + reach + 1)[:, None]
    outputs = np.arange(speed.denominator)[None] * float(speed)
    distance = inputs - outputs
    window = np.i0(BETA * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, None))) / np.i0(BETA)
    taps = np.where(np.abs(distance) <= half, np.sinc(band * distance) * window, 0.0)
    return np.ascontiguousarray(taps / taps.sum(axis=0), dtype=np.float32), reach
