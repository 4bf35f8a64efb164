"""Codebooks on the grid of INT8: the step whose multiples come nearest to a layer's levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LARGEST = 127  # of the integers; -128 is left out, as symmetric kernels do


@dataclass(frozen=True)
class Snapped:
    """Steps (C,), one for each output channel, above 0, of a layer's weight with its batch norm folded in.

    error: largest distance of a level to its integer's multiple, in steps (at most 0.5); of weights that are no
    codebook's the same is said of the weights. levels: different values in the layer; 0: the weights are no codebook's.
    """

    scale: np.ndarray
    error: float
    levels: int


def best_step(levels: np.ndarray, counts: np.ndarray) -> float:
    """The step d for which the multiples k d, |k| <= 127, come nearest to `levels` (K,), each `counts` times.

    Least squared error, in float64, over d for which the largest level is one of 1 to 127 steps, each improved by
    least squares for its integers. All levels zero: 1.
    """
    levels, counts = np.asarray(levels, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    largest = np.abs(levels).max(initial=0.0)
    if largest == 0:
        return 1.0
    steps = largest / np.arange(1, LARGEST + 1)
    integers = np.rint(levels / steps[:, None])
    refined = (counts * levels * integers).sum(1) / (counts * integers**2).sum(1)
    steps = np.concatenate([steps, refined])
    integers = np.clip(np.rint(levels / steps[:, None]), -LARGEST, LARGEST)
    errors = (counts * (levels - steps[:, None] * integers) ** 2).sum(1)
    # Of steps that are equally good but for rounding, the largest: the same integers at every run.
    return float(steps[errors <= errors.min() + 1e-14 * (counts * levels**2).sum()].max())


def snap(weight: np.ndarray, folded: np.ndarray, codebook: bool) -> Snapped:
    """Steps of a layer: `weight` (C, ...) as the network holds it, `folded` with a batch norm's scale in each channel.

    codebook: whether the weight's values are the levels of a codebook, the layer's or each channel's own. Then every
    channel gets the step that fits its levels best, times what the batch norm makes of the channel. Else, and
    where more than a factor has come in, a 127th of its largest weight, as usual.
    """
    rows, scaled = weight.reshape(len(weight), -1), folded.reshape(len(folded), -1).astype(np.float64)
    scale, levels = np.abs(scaled).max(axis=1) / LARGEST, 0
    factor = _channel_factors(rows, scaled) if codebook else None
    if factor is not None:
        levels = len(np.unique(rows))
        scale = np.abs(factor) * [best_step(*np.unique(row, return_counts=True)) for row in rows]
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    integers = scaled / scale[:, None].astype(np.float64)
    return Snapped(scale, float(np.abs(integers - np.rint(integers)).max(initial=0.0)), levels)


def _channel_factors(rows: np.ndarray, scaled: np.ndarray) -> np.ndarray | None:
    """By what each channel of the weight was multiplied, (C,); None where it was not only multiplied."""
    rows = rows.astype(np.float64)
    power = (rows**2).sum(axis=1)
    factor = (rows * scaled).sum(axis=1) / np.where(power > 0, power, 1.0)
    off = np.abs(scaled - factor[:, None] * rows).max(axis=1, initial=0.0)
    return factor if (off <= 1e-5 * np.abs(scaled).max(axis=1, initial=0.0) + 1e-30).all() else None
