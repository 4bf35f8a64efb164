"""The knee of an error over bits: the fewest bits before the error begins to climb.

Kneedle (Satopaa et al., "Finding a 'Kneedle' in a Haystack", ICDCSW 2011) for a falling, convex curve: scaled to the
unit square, the curve's knee is its point farthest below the straight line between its ends. The smoothing spline and
the sensitivity of the paper are for long noisy series; a handful of bit widths has neither, and the doubt is given as
the share of resampled curves whose knee is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Knee:
    """bits: the knee; None where the curve has none. below: the next fewer bits, at which the error has climbed.
    agree: share of the resampled curves with the same answer; nan without any."""

    bits: float | None
    below: float | None
    agree: float


def knee_index(bits, values) -> int | None:
    """Which of `bits` (k,), rising, is the knee of `values` (k,); None for fewer than three, and where the error does
    not fall from the fewest bits to the most, or lies nowhere below the line between these."""
    bits, values = np.asarray(bits, float), np.asarray(values, float)
    drop = values[0] - values[-1] if len(values) else 0.0
    if len(bits) < 3 or not drop > 0:
        return None
    x, y = (bits - bits[0]) / (bits[-1] - bits[0]), (values - values[-1]) / drop
    below = (1 - x) - y
    best = 1 + int(np.argmax(below[1:-1]))
    return best if below[best] > 1e-12 else None


def find_knee(curves: dict[float, np.ndarray]) -> Knee:
    """curves: bits -> (1 + replicates,), the error on all trials, then on resampled ones (the same for all bits)."""
    bits = sorted(curves)
    values = np.stack([curves[each] for each in bits]) if bits else np.zeros((0, 1))
    found = [knee_index(bits, column) for column in values.T]
    agree = float(np.mean([index == found[0] for index in found[1:]])) if len(found) > 1 else np.nan
    if found[0] is None:
        return Knee(None, None, agree)
    return Knee(bits[found[0]], bits[found[0] - 1], agree)
