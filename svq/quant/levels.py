"""Quantization levels: of a layer's weights, or fixed ones. numpy, float64, no modules.

Equations and sections are those of Liu et al., "Towards lightweight speaker verification via adaptive
neural network quantization". Levels ascend.
"""

from __future__ import annotations

import itertools

import numpy as np

from svq.quant.kmeans import SortedRows, optimal_levels


def kmeans_levels(weights: np.ndarray, bits: int, partition: str = "lloyd", retention: float | None = None,
                  per_channel: bool = False) -> np.ndarray:
    """Find the 2^bits levels of KMQAT for one layer, in the units of the weights, ascending: (2^bits,) float64.

    Section III-B, steps 1 and 2: the central share `retention` of the sorted weights is kept ("outliers" go), cut into
    2^bits parts, and the mean of each part (k-means with k = 1) is a level. "Evenly partition the weights" can be read
    in two ways, and the paper does not say which is meant: `partition` width, intervals of equal width, and count,
    parts of equally many weights. `lloyd` is k-means proper: the parts are those that leave the least squared error
    (svq.quant.kmeans). retention None: 0.9 for width and count, as in the paper; all weights for lloyd, which gives
    outliers no more than they are worth.
    per_channel: the same for each weights[i] alone, (C, 2^bits).
    """
    if retention is None:
        retention = RETENTION[partition]
    rows = np.asarray(weights).reshape(len(weights) if per_channel else 1, -1)
    size = rows.shape[1]
    # Of a tiny layer at least the middle is kept.
    cut = min(int(round(size * (1.0 - retention) / 2.0)), (size - 1) // 2)
    if cut:
        rows = np.partition(rows, sorted({cut, size - cut - 1}), axis=1)[:, cut : size - cut]
    levels = PARTITIONS[partition](rows, 2**bits)
    return levels if per_channel else levels[0]


def _means_of_widths(rows: np.ndarray, count: int) -> np.ndarray:
    """(R, count) means of the weights in intervals of equal width; an interval without weights gets its centre."""
    kept = rows.astype(np.float64)
    low, high = kept.min(axis=1), kept.max(axis=1)
    edges = np.linspace(low, high, count + 1, axis=1)
    span = np.where(high > low, high - low, 1.0)
    interval = ((kept - low[:, None]) / span[:, None] * count).astype(np.int64).clip(0, count - 1)
    # By rounding a weight at an edge may be one off; an interval holds its left edge, the last one both.
    start = np.arange(len(rows))[:, None] * (count + 1)
    interval += (kept >= edges.ravel()[start + interval + 1]) & (interval < count - 1)
    interval -= kept < edges.ravel()[start + interval]
    flat = (interval + np.arange(len(rows))[:, None] * count).ravel()
    sums = np.bincount(flat, kept.ravel(), len(rows) * count).reshape(-1, count)
    sizes = np.bincount(flat, minlength=len(rows) * count).reshape(-1, count)
    means = np.where(sizes > 0, sums / np.maximum(sizes, 1), (edges[:, :-1] + edges[:, 1:]) / 2.0)
    # A mean of rounded sums may leave its interval by an ulp; levels must stay ordered.
    return np.clip(means, edges[:, :-1], edges[:, 1:])


def _means_of_counts(rows: np.ndarray, count: int) -> np.ndarray:
    """(R, count) means of the sorted weights in runs of equally many, up to one; of fewer weights than levels some
    repeat."""
    edges = np.arange(count + 1) * rows.shape[1] // count
    return SortedRows(rows).means(np.tile(edges, (len(rows), 1)))


PARTITIONS = {"width": _means_of_widths, "count": _means_of_counts, "lloyd": optimal_levels}
RETENTION = {"width": 0.9, "count": 0.9, "lloyd": 1.0}


def rescale_symmetric(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels (..., K) divided by their largest magnitude, and that magnitude (...): the initial alpha.

    Section III-B step 3, eq. 7 read with -q_max mapped to -1 and q_max to 1: zero stays zero.
    Levels that are all zero keep alpha = 1.
    """
    largest = np.abs(levels).max(axis=-1)
    alpha = np.where(largest > 0, largest, 1.0)
    return levels / alpha[..., None], alpha


def rescale_asymmetric(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Levels (..., K) stretched to reach from -1 to 1, the initial alpha (...) and centre (...).

    Eq. 6, which moves zero: the levels are alpha times those returned, plus the centre. Levels that are
    all equal become 0, with alpha = 1.
    """
    low, high = levels[..., :1], levels[..., -1:]
    scaled = np.where(high > low, (levels - low) / np.where(high > low, high - low, 1.0) * 2.0 - 1.0, 0.0)
    return scaled, np.where(high > low, (high - low) / 2.0, 1.0)[..., 0], ((high + low) / 2.0)[..., 0]


def uniform_levels(bits: int) -> np.ndarray:
    """Eq. 1: the 2^bits - 1 evenly spaced levels from -1 to 1; at 1 bit -1 and 1."""
    steps = 2 ** (bits - 1) - 1
    return _signed(np.arange(1, steps + 1) / steps if bits > 1 else [])


def pot_levels(bits: int) -> np.ndarray:
    """Eq. 2, powers of two: 0 and +-2^-i for i from 0 to 2^(bits-1) - 2; at 1 bit -1 and 1.

    As printed, i goes on to 2^(bits-1) - 1, which makes 2^bits + 1 levels, more than `bits` bits can
    number. The smallest magnitude is left out here: 2^bits - 1 levels remain.
    """
    return _signed([2.0**-i for i in range(2 ** (bits - 1) - 1)])


def apot_levels(bits: int) -> np.ndarray:
    """Eq. 3, sums of powers of two, divided by the largest: 2^bits - 1 levels; at 1 bit -1 and 1.

    Li et al., "Additive powers-of-two quantization", ICLR 2020: one bit is the sign, each further pair of
    bits a term that is 0 or one of three powers of two, and an odd bit a term that is 0 or one power.
    The exponents -1, -2, ... are dealt to the terms in turn; the term of one bit gets its own between the
    second and the third round, as for the 4 bits of that paper's program: {0, 1/2, 1/4, 1/16} + {0, 1/8}.
    """
    pairs, odd = divmod(bits - 1, 2)
    exponents = itertools.count(1)
    first, second = ([next(exponents) for _ in range(pairs)] for _ in range(2))
    single = [next(exponents) for _ in range(odd)]
    third = [next(exponents) for _ in range(pairs)]
    terms = [[0.0, *(2.0**-e for e in three)] for three in zip(first, second, third)]
    terms += [[0.0, 2.0**-e] for e in single]
    sums = np.array(sorted(sum(choice) for choice in itertools.product(*terms))[1:])
    return _signed(sums / sums.max() if bits > 1 else [])


def _signed(magnitudes) -> np.ndarray:
    """Ascending levels of these magnitudes, of both signs, and 0; without magnitudes -1 and 1."""
    magnitudes = np.sort(np.asarray(magnitudes, dtype=np.float64))
    if not magnitudes.size:
        return np.array([-1.0, 1.0])
    return np.concatenate([-magnitudes[::-1], [0.0], magnitudes])
