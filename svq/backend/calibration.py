"""Scores to log-likelihood ratios: llr = slope x score + offset, by logistic regression.

Prior-weighted, as in Bruemmer and Doddington, "Likelihood-ratio calibration using
prior-weighted proper scoring rules" (Interspeech 2013).
"""

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from svq.atomic import write_json
from svq.backend.metrics import checked
from svq.errors import UserError

# The slope of standardised scores is kept above this: calibration never changes the order.
_LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class Calibration:
    """llr = slope x score + offset, natural logarithm; prior: for which it was fitted."""

    slope: float
    offset: float
    prior: float = 0.5

    def __call__(self, score):
        """(n,) log-likelihood ratios."""
        return self.slope * np.asarray(score, dtype=np.float64) + self.offset

    def save(self, path):
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path):
        """UserError where the file is not a calibration."""
        try:
            with open(path, encoding="utf-8") as stream:
                out = cls(**json.load(stream))
            valid = all(isinstance(v, (int, float)) and math.isfinite(v) for v in asdict(out).values())
        except FileNotFoundError:
            raise UserError(f"{path} is missing; steps/calibrate.sh makes it") from None
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a calibration: {error}") from None
        if not valid or out.slope <= 0:
            raise UserError(f"{path}: not a calibration: slope and offset must be finite, slope positive")
        return out


def objective(slope, offset, target, nontarget, prior):
    """The prior-weighted cross-entropy in nats: what `fit` minimises, less the penalty."""
    shift = offset + math.log(prior) - math.log1p(-prior)
    return (prior * np.mean(np.logaddexp(0, -(slope * target + shift)))
            + (1 - prior) * np.mean(np.logaddexp(0, slope * nontarget + shift)))


def fit(target, nontarget, prior=0.5, penalty=1e-4, warn=lambda line: None):
    """Fit a Calibration on the scores of development trials.

    prior: weight of the target class.  penalty: of half the squared slope per standard
    deviation of the scores; it moves an ordinary fit by a fraction of a per cent and
    bounds it where the classes do not overlap.  warn: called with a line where the
    scores speak against the labels.  UserError for an empty class or infinite scores.
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
