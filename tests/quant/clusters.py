"""k-means on a line by the slowest way there is, for tests."""

import numpy as np


def error(values, levels, weights=None):
    """The squared error that the nearest of these levels leave, in float64; one row."""
    values, levels = np.asarray(values, dtype=np.float64), np.asarray(levels, dtype=np.float64)
    off = np.abs(values[:, None] - levels).min(1) ** 2 if len(values) < 5000 else _far(values, levels)
    return float(off.sum() if weights is None else (off * weights).sum())


def _far(values, levels):
    return (values - levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, values)]) ** 2


def search(values, most, weights=None):
    """The least errors of 1, 2, ... `most` levels: dynamic programming over all places, O(most * n^2), float64."""
    values = np.asarray(values, dtype=np.float64)
    order = np.argsort(values)
    values = values[order] - np.median(values)
    weights = np.ones(len(values)) if weights is None else weights[order]
    mass, moment, square = (np.concatenate([[0.0], np.cumsum(weights * values**i)]) for i in range(3))
    between = mass[None] - mass[:, None]
    runs = square[None] - square[:, None] - (moment[None] - moment[:, None]) ** 2 / np.where(between > 0, between, 1.0)
    runs[np.tril_indices(len(mass), -1)] = np.inf
    best = [runs[0]]
    while len(best) < most:
        best.append((best[-1][:, None] + runs).min(0))
    return [float(row[-1]) for row in best]
