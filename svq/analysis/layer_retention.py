"""What a part of a network costs when it alone is quantized, and what it saves when it alone is left in float."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from svq.backend.resampled import interval
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
