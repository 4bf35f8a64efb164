"""Speech played faster or slower while it is read: what SoX's `speed` does, without a copy on disk.

A recording at factor f of its speed lasts 1/f as long, and its pitch is f times as high: it is resampled by 1/f. Each
speed makes new speakers of the old ones, as copies of svq.data.speed do, and under the same ids: `sp<factor>-` before
the utterance's and the speaker's.

A data directory whose training is to have copies says so in a file `speeds`, one line such as `0.9 1 1.1`.
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

# The filter, a sinc under a Kaiser window, falls where SoX's does: both are alike within 0.5 dB up to 94 % of the lower of the
# two Nyquist frequencies.
HALF = 64  # zero crossings on either side
BETA = 6.0
CUTOFF = 0.956  # of the lower Nyquist frequency: where it has fallen by 6 dB
SLOWEST, FASTEST = 0.1, 10.0
MOST_STEPS = 1000  # the larger number of the fraction: 0.9 is 9/10; the filter's table grows with it

_PRODUCTS = 1 << 18  # of one matrix product: so few that OpenBLAS wakes no other thread for it


@lru_cache(maxsize=64)
def fraction(factor: float) -> Fraction:
    """The factor as a fraction of small numbers; ValueError for one that is out of range or takes more than 3 decimals."""
    found = Fraction(repr(float(factor))) if np.isfinite(factor) else Fraction(0)
    if not SLOWEST <= found <= FASTEST or max(found.numerator, found.denominator) > MOST_STEPS:
        raise ValueError(f"{factor} is no speed factor: give numbers such as 0.9 and 1.1")
    return found


def check_speeds(speeds) -> None:
    """ValueError unless these are different speed factors, one at least."""
    if not speeds or len({fraction(speed) for speed in speeds}) < len(speeds):
        raise ValueError(f"speeds is {list(speeds)}: none, or one of them twice; give factors such as 0.9, 1.0, 1.1")


def speeds_of(data_dir) -> tuple[float, ...]:
    """The speeds that a data directory asks for; 1 alone where it says nothing. UserError naming the file."""
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
    """Says in a data directory at which speeds its utterances are trained on; UserError for what are none."""
    try:
        check_speeds(speeds)
    except ValueError as error:
        raise UserError(str(error)) from None
    with atomic_write(os.path.join(data_dir, NAME)) as file:
        file.write(" ".join(f"{speed:g}" for speed in speeds) + "\n")


def prefix(factor: float) -> str:
    """What stands before the ids of a copy at this speed: `sp0.9-`; nothing at 1."""
    return "" if factor == 1 else f"sp{factor:g}-"


def length(frames: int, factor: float) -> int:
    """Samples that so many samples become."""
    speed = fraction(factor)
    return -(-frames * speed.denominator // speed.numerator)


def faster(read: Callable[[int, int], np.ndarray], first: int, count: int, factor: float) -> np.ndarray:
    """Samples first .. first + count - 1 of a recording at `factor` times its speed, (count,) float32, or fewer where it ends.

    read: (start, count) -> so many samples of the recording from there, (n,) float32, fewer where it ends; asked once.
    The recording is silent before its start and after its end.
    """
    speed = fraction(factor)
    if speed == 1:
        return read(first, count)
    table, reach = _table(speed)
    step, phases = speed.numerator, speed.denominator
    group = first // phases  # groups of `phases` outputs lie `step` inputs apart
    groups = -(-(first + count) // phases) - group
    begin = group * step - reach
    wanted = (groups - 1) * step + len(table)
    held = read(max(begin, 0), wanted + min(begin, 0))
    there = max(begin, 0) + len(held)  # where the recording ends, if it does within what was asked for
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
    """(inputs, phases) float32: by which the inputs from `reach` samples before a group's first are multiplied."""
    band = CUTOFF * min(1.0, float(1 / speed))  # of the input's Nyquist frequency
    half = HALF / band  # inputs on either side
    reach = int(np.ceil(half))
    inputs = np.arange(-reach, speed.numerator + reach + 1)[:, None]
    outputs = np.arange(speed.denominator)[None] * float(speed)
    distance = inputs - outputs
    window = np.i0(BETA * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, None))) / np.i0(BETA)
    taps = np.where(np.abs(distance) <= half, np.sinc(band * distance) * window, 0.0)
    return np.ascontiguousarray(taps / taps.sum(axis=0), dtype=np.float32), reach
