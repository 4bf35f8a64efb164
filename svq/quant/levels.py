"""Quantization levels: k-means of a layer's weights, or fixed ones. numpy, float64, no modules.

Equations and sections are those of Liu et al., "Towards lightweight speaker verification via adaptive
neural network quantization". Levels ascend.

Clusters of sorted numbers are runs of them, so that clustering means choosing where runs begin: Wu, "Optimal
quantization by matrix searching", Journal of Algorithms 1991; Wang and Song, "Ckmeans.1d.dp", The R Journal 2011.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

CELLS_OF_ONE = 512
LARGEST_SEARCH = 64  # clusters that are searched for; more are made by cutting these further
STEPS = 100
BLOCK = 1 << 19  # entries of the search's tables held at a time


class SortedRows:
    """Numbers (R, N), sorted within their rows, with running sums, from which the means of runs are computed.

    values: (R, N). weights: (R, N), not negative, how much each number counts; None: all count alike. `mass` and
    `moment`, (R, N + 1) float64, are the sums of weights and of weights times values before each place. Sums are of
    values less `centre` (R, 1), the middle value of each row, so that they round little.
    """

    def __init__(self, values: np.ndarray, weights: np.ndarray | None = None):
        if weights is None:
            values, self.mass = np.sort(values, axis=1), None
        else:
            order = np.argsort(values, axis=1, kind="stable")
            values = _take(values, order)
            weights = _take(weights, order).astype(np.float64)
            self.mass = _running(weights)
        middle = values.shape[1] // 2
        self.values, self.centre = values, values[:, middle : middle + 1]
        terms = np.subtract(values, self.centre, dtype=np.float64)
        self.moment = _running(terms if weights is None else terms * weights)

    def mass_at(self, places: np.ndarray) -> np.ndarray:
        """Gives the sum of the weights before each of the places (R, P): (R, P) float64."""
        return places.astype(np.float64) if self.mass is None else _take(self.mass, places)

    def moment_at(self, places: np.ndarray) -> np.ndarray:
        """Gives the sum of weights times values, less the centre, before each of the places (R, P): (R, P) float64."""
        return _take(self.moment, places)

    def means(self, edges: np.ndarray, otherwise: np.ndarray | None = None) -> np.ndarray:
        """Computes the means (R, K) of the runs between edges (R, K + 1).

        An empty run gets `otherwise` (R, K), or without it the value that stands there.
        """
        mass, moment = np.diff(self.mass_at(edges), axis=1), np.diff(self.moment_at(edges), axis=1)
        if otherwise is None:
            last = self.values.shape[1] - 1
            otherwise = _take(self.values, np.minimum(edges[:, :-1], last))
        found = np.where(mass > 0, self.centre + moment / np.where(mass > 0, mass, 1.0), otherwise)
        # A mean of rounded sums may leave its run by an ulp; levels must stay ordered.
        return np.maximum.accumulate(found, axis=1)

    def places(self, thresholds: np.ndarray) -> np.ndarray:
        """Counts, for each of the ascending thresholds (R, K - 1), the values of its row that do not exceed it."""
        found = torch.searchsorted(torch.from_numpy(self.values),
                                   torch.from_numpy(thresholds.astype(self.values.dtype)), right=True)
        return found.numpy()

    def rows(self, some: slice) -> SortedRows:
        """Returns the rows in the slice `some`."""
        part = object.__new__(SortedRows)
        part.centre, part.values, part.moment = self.centre[some], self.values[some], self.moment[some]
        part.mass = None if self.mass is None else self.mass[some]
        return part


def _take(table: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Takes table[r, places[r, p]]: (R, P) for a table (R, N) and places (R, P). numpy.take_along_axis, less its checks."""
    return table.reshape(-1).take(places + np.arange(0, table.size, table.shape[1])[:, None])


def _running(terms: np.ndarray) -> np.ndarray:
    """Computes 0 and the sums of the first 1, 2, ... of the terms (R, N): (R, N + 1) float64."""
    sums = np.zeros((len(terms), terms.shape[1] + 1))
    np.cumsum(terms, axis=1, dtype=np.float64, out=sums[:, 1:])
    return sums


def optimal_levels(values: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Finds the `count` levels of each row of `values` that leave the least (weighted) squared error.

    values: (R, N). weights: (R, N), not negative, or None. Returns (R, count) float64, ascending. A row of fewer than
    `count` values also gets levels between them; a row of more values, but fewer different ones, repeats levels.

    The optimum is exact for up to CELLS_OF_ONE values in one row, or 16 + 2 * count in each of several rows. With more
    values, each row is divided into so many cells, the best cuts at their edges are found, and Lloyd's algorithm moves
    the cuts to where no single one can be improved. More than LARGEST_SEARCH levels start from the best runs of that
    number, each of which is cut further.
    """
    rows = SortedRows(np.asarray(values), weights)
    runs = min(count, LARGEST_SEARCH)
    most = CELLS_OF_ONE if len(values) == 1 else 16 + 2 * runs
    step = max(1, BLOCK // (most * (most - runs + 1)))
    levels = [_levels(rows.rows(slice(i, i + step)), count, runs, most) for i in range(0, len(values), step)]
    return np.ascontiguousarray(np.concatenate(levels))


def _levels(rows: SortedRows, count: int, runs: int, most: int) -> np.ndarray:
    size = rows.values.shape[1]
    if size <= count:
        return _with_others_between(rows.values, count)
    exact = size <= most
    cuts = np.tile(np.arange(size + 1), (len(rows.values), 1)) if exact else _cells(rows, most)
    edges = best_runs(rows, cuts, runs)
    if count > runs:
        return lloyd(rows, _cut_further(rows, edges, count))
    return rows.means(edges) if exact else lloyd(rows, rows.means(edges))


def _with_others_between(values: np.ndarray, count: int) -> np.ndarray:
    """Gives levels (R, count) for values (R, N), N <= count: the values, and the spare levels evenly between them."""
    last = values.shape[1] - 1
    knots = np.arange(last + 1) * (count - 1) // max(last, 1)
    places = np.arange(count)
    before = np.searchsorted(knots, places, side="right") - 1
    after = np.minimum(before + 1, last)
    share = (places - knots[before]) / np.maximum(knots[after] - knots[before], 1)
    values = values.astype(np.float64)
    return values[:, before] + share * (values[:, after] - values[:, before])


def best_runs(rows: SortedRows, cuts: np.ndarray, count: int) -> np.ndarray:
    """Chooses, for each row, the edges (R, count + 1) of the runs of least squared error among the places `cuts`.

    cuts: (R, M + 1) ascending, from 0 to N. With fewer than `count` cells the last runs are empty. The squared error
    within the cells is the same whatever the choice. The rest of a run's error is the sum of moment^2 / mass over its
    cells, less moment^2 / mass of the run.
    """
    cells = cuts.shape[1] - 1
    runs = min(count, cells)
    width = cells - runs + 1  # cells of the longest run, when every run has one; and how many ends a run may have
    error = _errors_of_runs(rows.mass_at(cuts), rows.moment_at(cuts), width)
    if cuts.shape[1] <= rows.values.shape[1]:
        error = error.astype(np.float32)  # precise enough: Lloyd's algorithm follows
    best, begins = error[:, np.arange(width), width - 1 - np.arange(width)], []
    for run in range(1, runs):
        before = _windows(best, width, np.inf)
        total = error[:, run : run + width] + before
        found = total.argmin(axis=2)
        best = _take(total.reshape(-1, width), found.reshape(-1, 1)).reshape(found.shape)
        begins.append(found + np.arange(run - width + 1, run + 1))
    end = np.full((len(cuts), 1), cells)
    chosen = [end] * (count - runs + 1)
    for run, begin in reversed(list(enumerate(begins, 1))):
        chosen.insert(0, _take(begin, chosen[0] - run - 1))
    return _take(cuts, np.concatenate([0 * end, *chosen], axis=1))


def _errors_of_runs(mass: np.ndarray, moment: np.ndarray, width: int) -> np.ndarray:
    """Computes the errors (R, M, width) of runs of cells, less those of their cells, from running sums (R, M + 1).

    [:, j - 1, w] is that of the run of width - w cells that ends at cut j; where no so many cells lie before, any number.
    """
    error = _outward(_ratio(np.diff(moment, axis=1), np.diff(mass, axis=1)))
    error, mass, moment = (x[:, 1:, None] - _windows(x[:, :-1], width, 0.0) for x in (error, mass, moment))
    error -= _ratio(moment, mass)
    return error


def _windows(x: np.ndarray, width: int, before: float) -> np.ndarray:
    """Views each place of x (R, M) with the width - 1 places before it: (R, M, width); before the first stands `before`."""
    padded = np.concatenate([np.full((len(x), width - 1), before, x.dtype), x], axis=1)
    return np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)


def _ratio(moment: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Computes moment^2 / mass, and 0 where there is no mass."""
    return moment * moment / np.where(mass > 0, mass, np.inf)


def _outward(terms: np.ndarray) -> np.ndarray:
    """Computes running sums (R, M + 1) of the terms (R, M) that are 0 in the middle, and negative sums before it.

    Their differences are those of ordinary running sums, but one far value costs the sums of all others no digits.
    """
    middle = terms.shape[1] // 2
    before, after = np.cumsum(terms[:, :middle][:, ::-1], axis=1)[:, ::-1], np.cumsum(terms[:, middle:], axis=1)
    return np.concatenate([-before, np.zeros((len(terms), 1)), after], axis=1)


def _cells(rows: SortedRows, count: int) -> np.ndarray:
    """Finds the places (R, count + 1) that cut each row into cells.

    The cells are spread by a third each over the number of values, their range, and the logarithm of how many values
    lie beyond, so that neither a crowd of values nor a far one takes them all.
    """
    size = rows.values.shape[1]
    low = rows.values[:, :1].astype(np.float64)
    width = rows.values[:, -1:] - low
    width[width == 0] = 1.0

    def share(at):
        """Gives the position of places in the spread of the cells: from 0 to 3, never falling."""
        number, beyond = at / (size - 1), np.log((at + 1) / (size - at)) / np.log(size)
        return number + (_take(rows.values, at) - low) / width + (1 + beyond) / 2

    wanted = np.tile(np.linspace(0, 3, count + 1)[1:-1], (len(low), 1))
    begin, end = np.ones(wanted.shape, dtype=np.int64), np.full(wanted.shape, size - 1)
    for _ in range(size.bit_length()):  # a binary search for each
        middle = (begin + end) // 2
        below = share(middle) < wanted
        begin, end = np.where(below & (begin < end), middle + 1, begin), np.where(below, end, middle)
    ends = np.zeros((len(low), 1), dtype=np.int64)
    return np.concatenate([ends, begin, ends + size], axis=1)


def _cut_further(rows: SortedRows, edges: np.ndarray, count: int) -> np.ndarray:
    """Gives levels (R, count): one for each run between `edges` (R, L + 1), and the others spread over the runs.

    A run gets its share of these by its density to the power 1/3, evenly over its width: the distribution that optimal
    levels tend to as they become many (Panter and Dite, Proc. IRE 1951).
    """
    last = rows.values.shape[1] - 1
    low, high = (_take(rows.values, at.clip(0, last)).astype(np.float64)
                 for at in (edges[:, :-1], edges[:, 1:] - 1))
    some = np.diff(edges, axis=1) > 0
    width = np.where(some, high - low, 0.0)
    share = np.cbrt(np.diff(rows.mass_at(edges), axis=1) * width**2)
    total = share.sum(axis=1, keepdims=True)
    share = some + (count - some.sum(axis=1, keepdims=True)) * share / np.where(total > 0, total, 1.0)
    ends = _running(share)
    wanted = (np.arange(count) + 0.5) / count * ends[:, -1:]
    run = torch.searchsorted(torch.from_numpy(ends[:, 1:].copy()), torch.from_numpy(wanted)).numpy()
    low, width, share, begin = (_take(x, run) for x in (low, width, share, ends))
    return np.maximum.accumulate(low + (wanted - begin) / share * width, axis=1)


def lloyd(rows: SortedRows, levels: np.ndarray) -> np.ndarray:
    """Improves levels (R, K), ascending, by Lloyd's algorithm, until they stay as they are (or STEPS times).

    Lloyd, "Least squares quantization in PCM", IEEE Trans. Information Theory 1982. The squared error never rises.
    """
    size, before = rows.values.shape[1], None
    for _ in range(STEPS):
        places = rows.places((levels[:, 1:] + levels[:, :-1]) / 2)
        if before is not None and np.array_equal(places, before):
            break
        before = places
        ends = np.zeros((len(places), 1), dtype=places.dtype)
        levels = rows.means(np.concatenate([ends, places, ends + size], axis=1), otherwise=levels)
    return levels


def kmeans_levels(weights: np.ndarray, bits: int, partition: str = "lloyd", retention: float | None = None,
                  per_channel: bool = False) -> np.ndarray:
    """Computes the 2^bits levels of KMQAT for one layer, in the units of the weights, ascending: (2^bits,) float64.

    Section III-B, steps 1 and 2: the central share `retention` of the sorted weights is kept ("outliers" go) and cut
    into 2^bits parts; the mean of each part (k-means with k = 1) is a level. The paper's "evenly partition the weights"
    can be read in two ways: `partition` width, intervals of equal width, or count, parts of equally many weights.
    `lloyd` is k-means proper: its parts are those that leave the least squared error (`optimal_levels`).
    retention None: 0.9 for width and count, as in the paper; all weights for lloyd, which gives outliers no more than
    they are worth.
    per_channel: computes levels for each weights[i] alone, (C, 2^bits).
    """
    if retention is None:
        retention = RETENTION[partition]
    rows = np.asarray(weights).reshape(len(weights) if per_channel else 1, -1)
    size = rows.shape[1]
    # At least the middle weight is kept, also of a tiny layer.
    cut = min(int(round(size * (1.0 - retention) / 2.0)), (size - 1) // 2)
    if cut:
        rows = np.partition(rows, sorted({cut, size - cut - 1}), axis=1)[:, cut : size - cut]
    levels = PARTITIONS[partition](rows, 2**bits)
    return levels if per_channel else levels[0]


def _means_of_widths(rows: np.ndarray, count: int) -> np.ndarray:
    """Computes the means (R, count) of the weights in intervals of equal width; an empty interval gets its centre."""
    kept = rows.astype(np.float64)
    low, high = kept.min(axis=1), kept.max(axis=1)
    edges = np.linspace(low, high, count + 1, axis=1)
    span = np.where(high > low, high - low, 1.0)
    interval = ((kept - low[:, None]) / span[:, None] * count).astype(np.int64).clip(0, count - 1)
    # Rounding may put a weight at an edge one interval off; an interval holds its left edge, the last one both edges.
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
    """Computes the means (R, count) of the sorted weights in runs of equally many, give or take one.

    With fewer weights than levels some means repeat.
    """
    edges = np.arange(count + 1) * rows.shape[1] // count
    return SortedRows(rows).means(np.tile(edges, (len(rows), 1)))


PARTITIONS = {"width": _means_of_widths, "count": _means_of_counts, "lloyd": optimal_levels}
RETENTION = {"width": 0.9, "count": 0.9, "lloyd": 1.0}


def rescale_symmetric(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Divides levels (..., K) by their largest magnitude; returns them and that magnitude (...), the initial alpha.

    Section III-B step 3, eq. 7 read with -q_max mapped to -1 and q_max to 1: zero stays zero.
    Levels that are all zero get alpha = 1.
    """
    largest = np.abs(levels).max(axis=-1)
    alpha = np.where(largest > 0, largest, 1.0)
    return levels / alpha[..., None], alpha


def rescale_asymmetric(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches levels (..., K) to reach from -1 to 1; returns them, the initial alpha (...) and the centre (...).

    Eq. 6, which moves zero: the given levels are alpha times the returned ones, plus the centre. Levels that are
    all equal become 0, with alpha = 1.
    """
    low, high = levels[..., :1], levels[..., -1:]
    scaled = np.where(high > low, (levels - low) / np.where(high > low, high - low, 1.0) * 2.0 - 1.0, 0.0)
    return scaled, np.where(high > low, (high - low) / 2.0, 1.0)[..., 0], ((high + low) / 2.0)[..., 0]


def uniform_levels(bits: int) -> np.ndarray:
    """Returns the 2^bits - 1 evenly spaced levels from -1 to 1 (eq. 1), ascending; at 1 bit -1 and 1."""
    steps = 2 ** (bits - 1) - 1
    return _signed(np.arange(1, steps + 1) / steps if bits > 1 else [])


def pot_levels(bits: int) -> np.ndarray:
    """Returns the levels that are powers of two (eq. 2), ascending: 0 and +-2^-i for i from 0 to 2^(bits-1) - 2.

    At 1 bit they are -1 and 1. As printed, i goes on to 2^(bits-1) - 1, which makes 2^bits + 1 levels, more than `bits`
    bits can number. The smallest magnitude is left out here: 2^bits - 1 levels remain.
    """
    return _signed([2.0**-i for i in range(2 ** (bits - 1) - 1)])


def apot_levels(bits: int) -> np.ndarray:
    """Returns the 2^bits - 1 levels that are sums of powers of two (eq. 3), divided by the largest; at 1 bit -1 and 1.

    Li et al., "Additive powers-of-two quantization", ICLR 2020: one bit is the sign. Each further pair of bits is a
    term that is 0 or one of three powers of two; an odd bit is a term that is 0 or one power. The exponents -1, -2, ...
    are dealt to the terms in turn. The term of one bit gets its own between the second and the third round, as in the
    program of that paper for 4 bits: {0, 1/2, 1/4, 1/16} + {0, 1/8}.
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
    """Gives the ascending levels that have these magnitudes, with both signs, and 0; without magnitudes -1 and 1."""
    magnitudes = np.sort(np.asarray(magnitudes, dtype=np.float64))
    if not magnitudes.size:
        return np.array([-1.0, 1.0])
    return np.concatenate([-magnitudes[::-1], [0.0], magnitudes])
