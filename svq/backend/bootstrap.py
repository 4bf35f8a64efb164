"""Confidence intervals of error rates by resampling speakers, not trials.

Trials that share a speaker are not independent, and a list has many trials of few
speakers: resampling trials gives intervals that are far too narrow.
"""

from dataclasses import dataclass

import numpy as np

from svq.backend.metrics import checked, eer_of, error_rates
from svq.backend.resampled import SpeakerSamples
from svq.errors import UserError


@dataclass(frozen=True)
class Interval:
    """value: on all trials; low, high: bounds of the interval; samples: (replicates,)."""

    value: float
    low: float
    high: float
    samples: np.ndarray


def speaker_bootstrap(score, is_target, enroll_speaker, test_speaker, measure=eer_of,
                      replicates=1000, level=0.95, seed=0):
    """Percentile interval of a measure of the error rates.

    score (n,) floats; is_target (n,) bool; enroll_speaker, test_speaker (n,) ids or
    numbers of the same kind.  Each replicate draws as many speakers as there are, with
    replacement; a non-target trial counts (draws of one speaker) x (draws of the
    other), a target trial (draws of its speaker).
    measure: a function of p_miss, p_fa (k,) at rising thresholds, such as eer_of.
    A replicate that draws no target or no non-target trial is drawn again.
    UserError where a class is empty.
    """
    score, is_target = np.asarray(score, dtype=np.float64), np.asarray(is_target, dtype=bool)
    checked(score[is_target], score[~is_target])
    if not 0 < level < 1:
        raise UserError(f"the confidence level is {level}, not between 0 and 1")
    drawn = SpeakerSamples(is_target, enroll_speaker, test_speaker, replicates, seed)
    value, *samples = drawn.ranked(score, [lambda *counts: measure(*error_rates(*counts))])[:, 0]
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), np.array(samples))
