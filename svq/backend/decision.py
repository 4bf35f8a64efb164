"""From one score to a decision: what the score is, what its calibration is, on which side of the threshold it lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from svq.backend.calibration import Calibration, mean_text
from svq.backend.metrics import bayes_threshold

SCORE = "cosine_none"  # the only score that needs neither a cohort nor a second model


class Mismatch(ValueError):
    """A calibration that does not belong to the score; the text is what to say after the name of its file."""


@dataclass(frozen=True)
class Verification:
    """What came out for one pair.

    score: the cosine, in [-1, 1]. llr: the log-likelihood ratio (natural logarithm) that the two voices are one
    person's; None without a calibration. threshold: what `llr`, or without one `score`, was compared with; None where
    there was nothing to compare with. accepted: whether it is at or above the threshold; None without one.
    """

    score: float
    llr: float | None = None
    threshold: float | None = None
    accepted: bool | None = None

    @property
    def decision(self) -> str | None:
        """`accept` (the same speaker), `reject`, or None."""
        return None if self.accepted is None else ("accept" if self.accepted else "reject")


def scoring_of(calibration: Calibration | None, mean: np.ndarray | str | None) -> np.ndarray | None:
    """The mean embedding (D,) to subtract before the cosine, None for none.

    mean: what the user says: a vector, "none" (nothing is subtracted), or None where nothing is said.
    Raises Mismatch where `calibration` is one of another score, or where neither it nor the user says of which.
    """
    said = None if mean is None else mean_text(None if isinstance(mean, str) else mean)
    if calibration is not None:
        if calibration.score not in (None, SCORE):
            raise Mismatch(f"its calibration is one of {calibration.score} scores, not of the plain cosine ({SCORE})")
        if calibration.mean is None and said is None:
            raise Mismatch("its calibration does not say which mean embedding was subtracted before scoring; calibrate "
                           "again with --mean, or say it here: --mean FILE or --mean none")
        if calibration.mean is not None and said not in (None, calibration.mean):
            raise Mismatch("its calibration was fitted with another mean embedding; leave --mean out")
        if calibration.mean is not None:
            try:
                return calibration.mean_vector()
            except ValueError as error:
                raise Mismatch(f"its calibration cannot be used: {error}") from None
    return None if mean is None or isinstance(mean, str) else np.asarray(mean, dtype=np.float32)


def decide(score: float, calibration: Calibration | None, p_target: float, c_miss: float, c_fa: float,
           threshold: float | None) -> Verification:
    """Compares the log-likelihood ratio with `threshold`, or with Bayes' for that prior and those costs where it is
    None; without a calibration the score itself, and with nothing where `threshold` is None."""
    llr = None if calibration is None else float(calibration(score))
    if threshold is None and llr is not None:
        threshold = bayes_threshold(p_target, c_miss, c_fa)
    if threshold is None:
        return Verification(float(score))
    value = score if llr is None else llr
    return Verification(float(score), llr, float(threshold), bool(value >= threshold) and not math.isnan(value))
