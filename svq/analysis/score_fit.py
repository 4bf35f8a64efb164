"""What a score analysis fits on the development list: calibrations, maps to float scores, the threshold, the bins."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from svq.analysis.score_config import RAW, ScoreAnalysisConfig
from svq.analysis.score_lists import ScoredList, distance_edges, score_file
from svq.backend import calibration
from svq.backend.metrics import bayes_threshold, eer_threshold
from svq.backend.score_map import FITS, AffineMap, ScoreMap, class_weights
from svq.errors import UserError


@dataclass
class Fitted:
    """What the development list gave.

    calibrations: system -> Calibration. maps: system -> scale -> map to the reference's scores. threshold: a score of
    the reference. edges: distances from it, see distance_edges. notes: warnings of the fits.
    """

    calibrations: dict[str, calibration.Calibration]
    maps: dict[str, dict[str, ScoreMap]]
    threshold: float
    edges: np.ndarray
    notes: list[str] = field(default_factory=list)

    def scale(self, system: str, name: str, score) -> np.ndarray:
        """(n,) scores of a system on a scale, to be set against the reference's."""
        return score if name == RAW else self.maps[system][name](score)


def fit(dev: ScoredList, config: ScoreAnalysisConfig) -> Fitted:
    """Calibrations, maps and the threshold, from the development list. They say of which score they are, and where
    steps/calibrate.sh has written which mean embedding was subtracted, that too."""
    reference = config.parsed[0].name
    target = dev.samples.target
    weights = class_weights(target, config.prior)
    calibrations, maps, notes = {}, {}, []
    for name, score in dev.scores.items():
        path = score_file(config, name, dev.name)
        said = config.scores, _saved_mean(config, name, dev.name)
        try:
            found = calibration.fit(score[target], score[~target], config.prior,
                                    warn=lambda line, path=path: notes.append(f"{path}: {line}."))
            maps[name] = {kind: make(score, dev.scores[reference], weights).of(*said) for kind, make in FITS.items()}
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        calibrations[name] = found.of(*said)
        maps[name]["logistic"] = by_calibrations(calibrations[name], calibrations[reference])
    score = dev.scores[reference]
    if config.operating_point == "eer":
        threshold = eer_threshold(score[target], score[~target])
    else:
        own = calibrations[reference]
        threshold = (bayes_threshold(config.p_target, config.c_miss, config.c_fa) - own.offset) / own.slope
    return Fitted(calibrations, maps, threshold, distance_edges(score, threshold), notes)


def by_calibrations(low: calibration.Calibration, reference: calibration.Calibration) -> AffineMap:
    """The score of the reference that has the log-likelihood ratio of a low-bit score."""
    shift = (low.offset - reference.offset) / reference.slope
    return AffineMap(low.slope / reference.slope, shift, low.score, low.mean)


def _saved_mean(config, system: str, dev: str) -> str | None:
    path = score_file(config, system, dev, "calibration.json")
    saved = calibration.Calibration.load(path) if path.is_file() else None
    return saved.mean if saved is not None and saved.score == config.scores else None
