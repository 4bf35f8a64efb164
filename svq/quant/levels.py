"""Quantization levels from a layer's weights: numpy, float64, no modules."""

from __future__ import annotations

import numpy as np


def kmeans_levels(weights: np.ndarray, bits: int, retention: float = 0.9) -> np.ndarray:
    """The 2^bits levels of KMQAT for one layer, in the units of the weights, ascending.

    Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization",
    section III-B, steps 1 and 2: the central share `retention` of the sorted weights is kept, its range
    cut into 2^bits equal intervals, and the mean of each (k-means with k = 1) is a level. An interval
    without weights gets its centre.
    """
    w = np.sort(np.asarray(weights, dtype=np.float64).ravel())
    # Of a tiny layer at least the middle is kept.
    cut = min(int(round(w.size * (1.0 - retention) / 2.0)), (w.size - 1) // 2)
    kept = w[cut : w.size - cut]
    edges = np.linspace(kept[0], kept[-1], 2**bits + 1)
    # kept is sorted, so each interval is a slice of it; the last one includes the right edge.
    bounds = np.searchsorted(kept, edges[1:-1], side="left")
    means = [piece.mean() if piece.size else np.nan for piece in np.split(kept, bounds)]
    # A mean of rounded sums may leave its interval by an ulp; levels must stay ordered.
    return np.where(np.isnan(means), (edges[:-1] + edges[1:]) / 2.0, np.clip(means, edges[:-1], edges[1:]))


def rescale_symmetric(levels: np.ndarray) -> tuple[np.ndarray, float]:
    """Levels divided by their largest magnitude, and that magnitude (the initial alpha).

    Section III-B step 3, eq. 7 read with -q_max mapped to -1 and q_max to 1: zero stays zero.
    A layer of zeros only keeps alpha = 1.
    """
    largest = float(np.abs(levels).max())
    return (levels / largest, largest) if largest > 0 else (levels, 1.0)
