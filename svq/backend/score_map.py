"""Maps one system's scores onto another's: a low-bit system's score onto the score it would have had in float.

Quantization moves scores as a whole (a bias, another spread) and one by one. A map, fitted on development trials that
both systems scored, removes the first part; the error of single trials is left. Every map rises, so the order of the
scores stays (an isotonic map has flat pieces, where scores become equal).

A map is a call: map(scores) -> float64 array. It is fitted by least squares of the reference score given the low-bit
one. So for two systems that agree but for noise, the slope is below 1, and scores far from the mean come out nearer to
it. A list has many times more non-target trials; with `class_weights` targets count as much, so that neither side is
drawn to the other more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from svq.atomic import write_json
from svq.backend.calibration import Calibration, mean_of
from svq.errors import UserError
from svq.files import read_json
from svq.numbers import is_number

LOGISTIC = "logistic"  # kind of a calibration of svq.backend.calibration


class _OfScore:
    """The fields that name the score that a map takes, as in svq.backend.calibration.Calibration."""

    def of(self, score, mean=None):
        """Gives this map as one of score `score`, taken after subtracting `mean` (as `mean_text` writes it)."""
        return replace(self, score=score, mean=mean)

    def mean_vector(self):
        """Gives the mean embedding (D,) float32 that is subtracted from embeddings; None where nothing is.

        ValueError where that is not known or not readable."""
        return mean_of(self.mean)

    def as_dict(self) -> dict:
        """Gives the kind and the fields that are known, as they go into a file."""
        return {"kind": self.kind} | {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class AffineMap(_OfScore):
    """The map slope x score + offset, with a slope above 0. score, mean: as in Calibration; None: not known."""

    slope: float
    offset: float
    score: str | None = None
    mean: str | None = None

    kind = "affine"

    def __post_init__(self):
        slope, offset = float(self.slope), float(self.offset)
        if not (np.isfinite(offset) and 0 < slope < np.inf):
            raise ValueError("slope and offset must be finite, slope positive")
        object.__setattr__(self, "slope", slope)
        object.__setattr__(self, "offset", offset)

    def __call__(self, scores) -> np.ndarray:
        return self.slope * np.asarray(scores, dtype=np.float64) + self.offset


@dataclass(frozen=True)
class IsotonicMap(_OfScore):
    """A map of straight lines between knots, constant beyond the first and the last.

    x: (k,) scores, strictly rising; y: (k,) the values that they become, never falling; k at least 1, both kept as
    tuples. score, mean: as in Calibration; None: not known.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    score: str | None = None
    mean: str | None = None

    kind = "isotonic"

    def __post_init__(self):
        x, y = (np.asarray(values, dtype=np.float64) for values in (self.x, self.y))
        if x.ndim != 1 or x.shape != y.shape or not x.size:
            raise ValueError("x and y must be lists of one length, of at least one number")
        if not (np.isfinite(x).all() and np.isfinite(y).all() and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()):
            raise ValueError("x must rise, y must not fall, and both be finite")
        object.__setattr__(self, "x", tuple(x.tolist()))
        object.__setattr__(self, "y", tuple(y.tolist()))

    def __call__(self, scores) -> np.ndarray:
        return np.interp(np.asarray(scores, dtype=np.float64), self.x, self.y)


ScoreMap = AffineMap | IsotonicMap | Calibration
_KINDS = {cls.kind: cls for cls in (AffineMap, IsotonicMap)}


def kind_of(score_map: ScoreMap) -> str:
    """Names the kind of a score map: `affine`, `isotonic` or `logistic` (a Calibration)."""
    return getattr(score_map, "kind", LOGISTIC)


def class_weights(target, prior: float = 0.5) -> np.ndarray:
    """Gives weights (n,) of trials that sum to 1, the targets' to `prior`; target (n,) bool.

    UserError where a class is empty."""
    target = np.asarray(target, dtype=bool)
    count = int(target.sum())
    if count in (0, target.size):
        raise UserError(f"no {'non-target' if count else 'target'} trials: a score map of both classes needs both")
    return np.where(target, prior / count, (1 - prior) / (target.size - count))


def fit_affine(low, reference, weights=None) -> AffineMap:
    """Fits the AffineMap with the least mean square of reference - map(low).

    low, reference: (n,) scores of the same trials by the two systems. weights: (n,) of the trials, above 0; None: all
    the same. UserError where scores are not finite, the low ones are all equal, or the two do not rise together.
    """
    low, reference, weights = _paired(low, reference, weights)
    centre, level = np.average(low, weights=weights), np.average(reference, weights=weights)
    moved = low - centre
    spread = weights @ moved ** 2
    if not spread > 0 or (low == low[0]).all():
        raise UserError("a score map needs scores that are not all equal")
    slope = float(weights * moved @ (reference - level) / spread)
    if not slope > 0:
        raise UserError("the two systems' scores do not rise together: no map that keeps their order")
    return AffineMap(slope, float(level - slope * centre))


def fit_isotonic(low, reference, weights=None) -> IsotonicMap:
    """Fits the IsotonicMap with the least mean square of reference - map(low), by pool-adjacent-violators.

    Trials of equal `low` count as one with their mean. Inside a pool the map is flat; between the last score of a pool
    and the first of the next it is a straight line. Arguments as in `fit_affine`. UserError where scores are not
    finite.
    """
    from scipy.optimize import isotonic_regression  # here: most workers start without scipy

    low, reference, weights = _paired(low, reference, weights)
    x, where = np.unique(low, return_inverse=True)
    mass = np.bincount(where, weights)
    y = isotonic_regression(np.bincount(where, weights * reference) / mass, weights=mass).x
    y = np.maximum.accumulate(y)  # rounding must not let it fall
    # The ends of the pools are enough: a knot between two equal neighbours lies on their line.
    inner = np.zeros(len(x), dtype=bool)
    inner[1:-1] = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    return IsotonicMap(x[~inner], y[~inner])


FITS = {AffineMap.kind: fit_affine, IsotonicMap.kind: fit_isotonic}


def _paired(low, reference, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, reference = (np.asarray(values, dtype=np.float64).ravel() for values in (low, reference))
    if low.size != reference.size or not low.size:
        raise UserError("a score map needs one score of each trial by both systems, not "
                        f"{low.size} and {reference.size}")
    if not (np.isfinite(low).all() and np.isfinite(reference).all()):
        raise UserError("a score map needs finite scores")
    weights = np.ones(low.size) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if weights.size != low.size or not (weights > 0).all():
        raise ValueError(f"{weights.size} weights for {low.size} trials, all above 0")
    return low, reference, weights


def save_map(score_map: ScoreMap, path) -> None:
    """Writes a score map to JSON file `path`: `kind` and its fields; a Calibration as `Calibration.save` does."""
    write_json(path, score_map.as_dict())


def load_map(path) -> ScoreMap:
    """Reads the score map that `save_map` or `Calibration.save` wrote.

    UserError where the file is missing or neither.
    """
    try:
        about = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; steps/score_analysis.sh makes score maps, steps/calibrate.sh "
                        "calibrations") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a score map: {error}") from None
    return map_from_dict(about, path)


def map_from_dict(about, path) -> ScoreMap:
    """Makes a score map from what `as_dict` gave; UserError, which names file `path`, where it is not one."""
    if not isinstance(about, dict):
        raise UserError(f"{path}: not a score map: no mapping in it")
    about = dict(about)
    kind = about.pop("kind", LOGISTIC)
    if kind == LOGISTIC:
        return Calibration.from_dict(about, path)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UserError(f"{path}: a score map of kind {kind!r}; there are {', '.join(_KINDS)} and {LOGISTIC}")
    told = [value for name in ("slope", "offset") if name in about for value in [about[name]]]
    told += [value for name in ("x", "y") if isinstance(about.get(name), list) for value in about[name]]
    if not all(map(is_number, told)):
        raise UserError(f"{path}: not a score map: slope, offset, x and y must be finite numbers")
    try:
        out = _KINDS[kind](**about)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not a score map: {error}") from None
    if not all(value is None or isinstance(value, str) for value in (out.score, out.mean)):
        raise UserError(f"{path}: not a score map: score and mean must be text")
    return out
