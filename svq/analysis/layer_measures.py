"""Measures of quantizing parts of a network: what it does to weights, outputs and error rates, and what goes along with
that.

Weights: relative error, signal to noise, cosine. Outputs of parts: how far they move when other weights are quantized.
Error rates: what a part costs when it alone is quantized, and what it saves when it alone is left in float.

Rank correlation sets what is known of parts against what they cost. Spearman's and Kendall's coefficients are both
cosines between features of the two variables (Daniels, "The relation between measures of correlation in the universe of
sample permutations", Biometrika 1944): centred ranks for the one, signs of all pairwise differences for the other
(tau-b where values are tied).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import nn

from svq.backend.bootstrap import interval
from svq.evaluation.development import Measured, drifts


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Distortion of weights w that became q. weights: their number. error: sum of (q - w)^2. energy: sum of w^2.
    quantized: sum of q^2. product: sum of w q."""

    weights: int = 0
    error: float = 0.0
    energy: float = 0.0
    quantized: float = 0.0
    product: float = 0.0

    def __add__(self, other: Distortion) -> Distortion:
        """Gives the distortion of the weights of both together."""
        return Distortion(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    @property
    def relative_mse(self) -> float:
        """Mean squared error over the mean square of the weights; nan where these are all zero."""
        return self.error / self.energy if self.energy else math.nan

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise ratio in dB, -10 log10 of relative_mse; infinite without an error."""
        if not self.energy:
            return math.nan
        return -10 * math.log10(self.relative_mse) if self.error else math.inf

    @property
    def cosine(self) -> float:
        """Between the weights as two vectors; it does not see a wrong scale. nan where either is all zero."""
        norms = math.sqrt(self.energy) * math.sqrt(self.quantized)
        return self.product / norms if norms else math.nan


def distortion(weight: torch.Tensor, quantized: torch.Tensor) -> Distortion:
    """Measures the distortion of one weight tensor, of any shape, with sums in float64."""
    w, q = weight.detach().double(), quantized.detach().double()
    return Distortion(w.numel(), *(float(x.sum()) for x in ((q - w).square(), w.square(), q.square(), w * q)))


def pooled(parts: Iterable[Distortion]) -> Distortion:
    """Gives the distortion of the weights of all parts together."""
    return sum(parts, Distortion())


_BATCH = 8  # utterances held at a time: a deep network's outputs are large


@dataclasses.dataclass(frozen=True)
class Moved:
    """Move of an output from y to y', means over utterances. relative_mse: ||y' - y||^2 / ||y||^2. cosine: of both."""

    relative_mse: float
    cosine: float


@contextlib.contextmanager
def recorded(net: nn.Module, names: Sequence[str]):
    """Yields name of a module -> list that every output of it is added to, one for each time that it runs.

    Of a recurrent module it is the first of its outputs, the sequence (B, T, H) or, of a cell, the state (B, H).
    """
    found = {name: [] for name in names}

    def keep(name):
        def hook(module, inputs, output):
            output = output if isinstance(output, torch.Tensor) else output[0]
            time_first = isinstance(module, nn.RNNBase) and not module.batch_first and output.dim() == 3
            found[name].append(output.transpose(0, 1) if time_first else output)
        return hook

    hooks = [net.get_submodule(name).register_forward_hook(keep(name)) for name in found]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def movements(before: nn.Module, after: nn.Module, feats: torch.Tensor, names: Sequence[str]) -> dict[str, Moved]:
    """Measures how far the output of each module in `names` is in network `after` from its output in `before`.

    feats: (B, T, F). An output that is zero throughout in `before`, as of a dead layer, counts in no mean.
    """
    rows = {name: [] for name in names}
    for batch in feats.split(_BATCH):
        with recorded(before, names) as old, recorded(after, names) as new:
            before(batch)
            after(batch)
        for name in names:
            rows[name].append(_compared(_flat(old[name]), _flat(new[name])))
    return {name: Moved(*_means(np.concatenate(found))) for name, found in rows.items()}


def _flat(outputs: list[torch.Tensor]) -> torch.Tensor:
    """(B, n) float64 from outputs that each begin with the batch."""
    return torch.cat([output.double().flatten(1) for output in outputs], dim=1)


def _compared(old: torch.Tensor, new: torch.Tensor) -> np.ndarray:
    """(B, 2): relative squared error and cosine of each row; nan where they are not defined."""
    energy = old.square().sum(1)
    error = (new - old).square().sum(1) / energy
    cosine = (new * old).sum(1) / (energy.sqrt() * new.square().sum(1).sqrt())
    values = torch.stack([error, cosine], dim=1).cpu().numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _means(values: np.ndarray) -> list[float]:
    """The mean of each column over the rows where it is known; nan where it is nowhere."""
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0).sum(axis=0)
    return [float(total / count) if count else np.nan for total, count in zip(sums, counts)]


_LEAST = 0.975  # of the resamplings must show a loss before a share of it is told


@dataclasses.dataclass(frozen=True)
class Change:
    """Change of an error rate, with its 95 % interval over resampled speakers. samples: (replicates,)."""

    value: float
    low: float
    high: float
    samples: np.ndarray


def change(after: float, before: float, after_samples: np.ndarray, before_samples: np.ndarray) -> Change:
    """Gives after - before with its interval. after_samples, before_samples: (replicates,), resampled alike."""
    samples = after_samples - before_samples
    return Change(after - before, *interval(samples), samples)


def eer_change(after: Measured, before: Measured) -> Change:
    """Gives the change of the EER, in per cent, absolute."""
    return change(after.eer, before.eer, after.eers, before.eers)


def mindcf_change(after: Measured, before: Measured) -> Change:
    """Gives the change of minDCF, absolute."""
    return change(after.mindcf, before.mindcf, after.mindcfs, before.mindcfs)


def share(gain: Change, loss: Change) -> Change:
    """Gives the share of a loss that a gain takes back: gain / loss, 1 where it is all.

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
    """Gives mean and 95th percentile of 1 - cosine between embeddings (N, D) of the same utterances."""
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
    """Gives the ranks (..., n) of values (..., n), less their mean: Spearman's coefficient is the cosine of two of
    these."""
    ranks = rankdata(x, axis=-1)
    return ranks - ranks.mean(axis=-1, keepdims=True)


def pair_features(x: np.ndarray) -> np.ndarray:
    """Gives the signs (..., n (n - 1) / 2) of the differences of values (..., n): Kendall's is the cosine of two of
    these."""
    first, second = np.triu_indices(x.shape[-1], 1)
    return np.sign(x[..., first] - x[..., second])


def coefficients(features: Callable, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlates x (n,) with each row of y, (r, n) or (n,): gives (r,) or (); nan where either is constant."""
    a, b = features(x), features(y)
    size = np.sqrt(np.square(a).sum() * np.square(b).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return np.where(size > 0, (b * a).sum(axis=-1) / size, np.nan)


def permutation_p(features: Callable, x: np.ndarray, y: np.ndarray, permutations: int, seed: int = 0) -> float:
    """Gives the share of pairings of x (n,) with y (n,) whose coefficient is at least as far from zero as the one
    found.

    It is the share of all n! pairings where these are no more than `permutations`, else of so many drawn at random, to
    which the one found is added (Phipson and Smyth, "Permutation p-values should never be zero", 2010). nan for a
    constant x or y.
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
    """Correlates a predictor x (n,) of parts with their losses, by rank, with intervals and a p-value.

    loss: (n,) on all trials. samples: (n, replicates), of resampled speakers, the same ones for all parts in a
    replicate.
    """
    spearman, kendall = (_coefficient(features, x, loss, samples, permutations, seed)
                         for features in (rank_features, pair_features))
    left = 1 - np.square(_of_samples(rank_features, x, samples))
    return Correlation(len(x), spearman, kendall, 1 - spearman.value**2, *interval(left), repeatability(samples))


def repeatability(samples: np.ndarray) -> float:
    """Gives the mean Spearman between neighbouring columns of (n, replicates); they were drawn independently."""
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
