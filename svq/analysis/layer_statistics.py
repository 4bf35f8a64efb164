"""What a network's parts cost when quantized and save when left in float, and what correlates with that.

Spearman's and Kendall's coefficients are both cosines between features of the two variables (Daniels, "The relation
between measures of correlation in the universe of sample permutations", Biometrika 1944): centred ranks for the one,
signs of all pairwise differences for the other (tau-b where values are tied).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from svq.backend.bootstrap import interval
from svq.evaluation.development import Measured, drifts

_LEAST = 0.975  # of the resamplings must show a loss before a share of it is told


@dataclasses.dataclass(frozen=True)
class Change:
    """Of an error rate, with its 95 % interval over resampled speakers; samples (replicates,)."""

    value: float
    low: float
    high: float
    samples: np.ndarray


def change(after: float, before: float, after_samples: np.ndarray, before_samples: np.ndarray) -> Change:
    """after - before, the two resampled alike."""
    samples = after_samples - before_samples
    return Change(after - before, *interval(samples), samples)


def eer_change(after: Measured, before: Measured) -> Change:
    """In per cent, absolute."""
    return change(after.eer, before.eer, after.eers, before.eers)


def mindcf_change(after: Measured, before: Measured) -> Change:
    return change(after.mindcf, before.mindcf, after.mindcfs, before.mindcfs)


def share(gain: Change, loss: Change) -> Change:
    """How much of a loss a gain takes back: gain / loss, 1 where all of it.

    A ratio says nothing where the loss might as well be none. So it is nan unless the loss is above 0 on all trials
    and in 97.5 % of the resamplings; those few where it is not are left out of the interval. Without resamplings the
    loss on all trials decides.
    """
    positive = loss.samples > 0
    none = Change(math.nan, math.nan, math.nan, np.empty(0))
    if loss.value <= 0 or (len(positive) and positive.mean() < _LEAST):
        return none
    samples = gain.samples[positive] / loss.samples[positive]
    return Change(gain.value / loss.value, *interval(samples), samples)


def drift(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Mean and 95th percentile of 1 - cosine between embeddings (N, D) of the same utterances."""
    moved = drifts(before, after)
    return float(moved.mean()), float(np.quantile(moved, 0.95))


_CHUNK = 1 << 22  # features held at a time
_NEAR = 1e-9  # coefficients that differ by less are equal: their sums are taken in another order


@dataclasses.dataclass(frozen=True)
class Coefficient:
    """value: on all trials. low, high: 95 % over resampled speakers. p: of a permutation test, two-sided. nan where
    not known."""

    value: float
    low: float
    high: float
    p: float


@dataclasses.dataclass(frozen=True)
class Correlation:
    """Between a predictor and a loss, over `parts` parts of a network.

    unexplained: 1 - spearman^2, the share of the variance of the losses' ranks that a line through the predictor's
    ranks leaves over. repeatable: mean Spearman between the losses of two independent resamplings of the speakers;
    other speakers would agree less. Where it is low, no predictor can correlate well with losses that are measured so
    coarsely.
    """

    parts: int
    spearman: Coefficient
    kendall: Coefficient
    unexplained: float
    unexplained_low: float
    unexplained_high: float
    repeatable: float


def rank_features(x: np.ndarray) -> np.ndarray:
    """(..., n) -> (..., n): ranks less their mean."""
    ranks = rankdata(x, axis=-1)
    return ranks - ranks.mean(axis=-1, keepdims=True)


def pair_features(x: np.ndarray) -> np.ndarray:
    """(..., n) -> (..., n (n - 1) / 2): signs of the differences."""
    first, second = np.triu_indices(x.shape[-1], 1)
    return np.sign(x[..., first] - x[..., second])


def coefficients(features: Callable, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of x (n,) with each row of y (r, n) or (n,): (r,) or (); nan where either is constant."""
    a, b = features(x), features(y)
    size = np.sqrt(np.square(a).sum() * np.square(b).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return np.where(size > 0, (b * a).sum(axis=-1) / size, np.nan)


def permutation_p(features: Callable, x: np.ndarray, y: np.ndarray, permutations: int, seed: int = 0) -> float:
    """The share of pairings of x (n,) with y (n,) whose coefficient is at least as far from zero as the one found.

    Of all n! pairings where these are no more than `permutations`, else of so many drawn at random, to which the one
    found is added (Phipson and Smyth, "Permutation p-values should never be zero", 2010). nan for a constant x or y.
    """
    found = float(coefficients(features, x, y))
    if math.isnan(found):
        return math.nan
    n = len(x)
    exact = math.factorial(n) <= permutations
    if exact:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
    chunk = max(1, _CHUNK // len(features(x)))
    hits = 0
    for start in range(0, len(orders), chunk):
        value = coefficients(features, x, y[orders[start:start + chunk]])
        hits += int((np.abs(value) >= abs(found) - _NEAR).sum())
    return hits / len(orders) if exact else (hits + 1) / (len(orders) + 1)


def correlate(x: np.ndarray, loss: np.ndarray, samples: np.ndarray, permutations: int, seed: int = 0) -> Correlation:
    """x: the predictor (n,). loss: (n,) on all trials. samples: (n, replicates), of resampled speakers, replicate by
    replicate the same ones for all parts."""
    spearman, kendall = (_coefficient(features, x, loss, samples, permutations, seed)
                         for features in (rank_features, pair_features))
    left = 1 - np.square(_of_samples(rank_features, x, samples))
    return Correlation(len(x), spearman, kendall, 1 - spearman.value**2, *interval(left), repeatability(samples))


def repeatability(samples: np.ndarray) -> float:
    """Mean Spearman between columns of (n, replicates) that follow each other, drawn as they were independently."""
    found = _known(np.array([coefficients(rank_features, one, other)
                             for one, other in zip(samples.T[::2], samples.T[1::2])]))
    return float(found.mean()) if len(found) else math.nan


def _coefficient(features, x, loss, samples, permutations, seed) -> Coefficient:
    return Coefficient(float(coefficients(features, x, loss)), *interval(_of_samples(features, x, samples)),
                       permutation_p(features, x, loss, permutations, seed))


def _of_samples(features: Callable, x: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Coefficients of x with each column of (n, replicates), those that there are."""
    if not samples.size:
        return np.empty(0)
    return _known(coefficients(features, x, samples.T))


def _known(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]
