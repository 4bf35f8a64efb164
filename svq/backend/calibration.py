"""Turns scores into log-likelihood ratios, llr = slope x score + offset, by logistic regression; and into decisions.

The regression is prior-weighted, as in Bruemmer and Doddington, "Likelihood-ratio calibration using
prior-weighted proper scoring rules" (Interspeech 2013).

A calibration belongs to one score. A plain cosine, a cosine after a mean embedding is subtracted, and one after
AS-norm are three scores. So a calibration names its score, and carries the mean embedding along.
"""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, dataclass, replace

import numpy as np

from svq.atomic import write_json
from svq.backend.metrics import bayes_threshold, checked
from svq.errors import UserError
from svq.files import read_json
from svq.numbers import is_number

# The slope of standardised scores is kept above this: calibration never changes the order.
_LEAST_SLOPE = 1e-3


PLAIN = "none"  # value of `mean` where nothing is subtracted from embeddings


@dataclass(frozen=True)
class Calibration:
    """A calibration: llr = slope x score + offset, natural logarithm. prior: the one that it was fitted for.

    score: the name of its score, as in the score's file, `cosine_none` (back end, normalization); None: not known.
    mean: the embedding that was subtracted before that score was taken, as `mean_text` writes it; PLAIN: none
        was; None: not known, or PLDA, which has its own.
    """

    slope: float
    offset: float
    prior: float = 0.5
    score: str | None = None
    mean: str | None = None

    def __call__(self, score):
        """Gives the log-likelihood ratios (natural logarithm) of scores, (n,) float64."""
        return self.slope * np.asarray(score, dtype=np.float64) + self.offset

    def of(self, score, mean=None):
        """Gives this calibration as one of score `score`, taken after subtracting `mean` (as `mean_text` writes it)."""
        return replace(self, score=score, mean=mean)

    def mean_vector(self):
        """Gives the mean embedding (D,) float32 that is subtracted from embeddings; None where nothing is.

        ValueError where that is not known or not readable."""
        return mean_of(self.mean)

    def as_dict(self):
        """Gives the fields that are known, as they go into a file."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def save(self, path):
        """Writes the calibration as JSON, whole or not at all."""
        write_json(path, self.as_dict())

    @classmethod
    def load(cls, path):
        """Reads a calibration from JSON file `path`. UserError where the file is missing or not a calibration."""
        try:
            about = read_json(path)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; steps/calibrate.sh makes it") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not a calibration: {error}") from None
        return cls.from_dict(about, path)

    @classmethod
    def from_dict(cls, about, path):
        """Makes a calibration from what `as_dict` gave; UserError, which names file `path`, where it is not one."""
        try:
            out = cls(**about)
        except TypeError as error:
            raise UserError(f"{path}: not a calibration: {error}") from None
        if not all(map(is_number, (out.slope, out.offset, out.prior))) or out.slope <= 0 or not 0 < out.prior < 1:
            raise UserError(f"{path}: not a calibration: slope and offset must be finite numbers, slope positive, prior "
                            "between 0 and 1")
        if not all(value is None or isinstance(value, str) for value in (out.score, out.mean)):
            raise UserError(f"{path}: not a calibration: score and mean must be text")
        return out


def mean_text(vector):
    """Writes a mean embedding (D,) as text for JSON: PLAIN for None, else its float32 bytes (little-endian) in base64.

    The text keeps all digits: an embedding near the mean needs them after the subtraction.
    """
    return PLAIN if vector is None else base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def mean_of(text):
    """Reads a mean embedding, (D,) float32, from the text of `mean_text`, None for PLAIN; ValueError for other text."""
    if text == PLAIN:
        return None
    try:
        vector = np.frombuffer(base64.b64decode(text or "", validate=True), dtype="<f4")
    except ValueError:          # binascii.Error is one
        vector = np.empty(0)
    if not vector.size or not np.isfinite(vector).all():
        raise ValueError("its mean embedding is not readable")
    return vector


def objective(slope, offset, target, nontarget, prior):
    """Computes the prior-weighted cross-entropy in nats of scores, (n,) each; `fit` minimises this plus a penalty."""
    shift = offset + math.log(prior) - math.log1p(-prior)
    return (prior * np.mean(np.logaddexp(0, -(slope * target + shift)))
            + (1 - prior) * np.mean(np.logaddexp(0, slope * nontarget + shift)))


def fit(target, nontarget, prior=0.5, penalty=1e-4, warn=lambda line: None):
    """Fits a Calibration to the scores of development trials, target (n,) and nontarget (m,).

    prior: weight of the target class.  penalty: weight of half the squared slope, the
    scores being standardised; it moves an ordinary fit by a fraction of a per cent, and
    bounds the slope where the classes do not overlap.  warn: called with a line where
    the scores speak against the labels.  UserError for an empty class, and for scores
    that are infinite or all equal.
    """
    from scipy.optimize import minimize
    if not 0 < prior < 1:
        raise UserError(f"calibration prior is {prior}, not between 0 and 1")
    target, nontarget = checked(target, nontarget)
    both = np.concatenate([target, nontarget])
    if not np.isfinite(both).all():
        raise UserError("calibration needs finite scores")
    centre, scale = both.mean(), both.std()
    if not scale > 0:
        raise UserError("calibration needs scores that are not all equal")
    t, n = (target - centre) / scale, (nontarget - centre) / scale
    log_odds = math.log(prior) - math.log1p(-prior)

    def cost(parameters):
        slope, offset = parameters
        # d log(1 + exp(-u)) / du = -sigmoid(-u), written so that exp cannot overflow.
        pull_t = -prior * _sigmoid(-(slope * t + offset + log_odds)) / len(t)
        pull_n = (1 - prior) * _sigmoid(slope * n + offset + log_odds) / len(n)
        value = objective(slope, offset, t, n, prior) + 0.5 * penalty * slope ** 2
        return value, np.array([pull_t @ t + pull_n @ n + penalty * slope, pull_t.sum() + pull_n.sum()])

    found = minimize(cost, [1.0, 0.0], jac=True, method="L-BFGS-B",
                     bounds=[(_LEAST_SLOPE, None), (None, None)],
                     options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000})
    slope, offset = (float(v) for v in found.x)
    if slope <= _LEAST_SLOPE * (1 + 1e-9):
        warn("the development scores do not rise from non-target to target trials; the calibration is nearly flat")
    return Calibration(slope / float(scale), offset - slope * float(centre / scale), float(prior))


def _sigmoid(u):
    return np.exp(-np.logaddexp(0, -u))


SCORE = "cosine_none"  # the only score that needs neither a cohort nor a second model


class Mismatch(ValueError):
    """The error that a calibration does not belong to the score; its text follows the name of the file in messages."""


@dataclass(frozen=True)
class Verification:
    """The outcome for one pair of voices.

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
    """Chooses the mean embedding (D,) to subtract before the cosine; None for none.

    mean: the user's choice: a vector, "none" (nothing is subtracted), or None for no choice. Raises Mismatch where
    `calibration` is one of another score, and where neither it nor the user tells which mean was subtracted.
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
    """Decides on one pair from its score: compares the log-likelihood ratio with a threshold.

    threshold: None takes Bayes' threshold for prior `p_target` and costs `c_miss`, `c_fa`. Without a calibration, the
    score itself is compared with `threshold`; if that is None, too, there is no decision.
    """
    llr = None if calibration is None else float(calibration(score))
    if threshold is None and llr is not None:
        threshold = bayes_threshold(p_target, c_miss, c_fa)
    if threshold is None:
        return Verification(float(score))
    value = score if llr is None else llr
    return Verification(float(score), llr, float(threshold), bool(value >= threshold) and not math.isnan(value))
