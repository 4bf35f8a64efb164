"""A ladder made ready on development trials: its maps fitted, its threshold and its deltas fixed."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from svq.backend.calibration import fit, mean_text
from svq.backend.embeddings import read_vector
from svq.backend.metrics import eer_threshold
from svq.backend.score_map import FITS, LOGISTIC, save_map
from svq.cascade import LIMITS
from svq.cascade.accounting import per_trial, table_of
from svq.cascade.choose import Choice, choose, grid_of
from svq.cascade.cost import rung_costs
from svq.cascade.evaluate import Replay
from svq.cascade.ladder import NONE, Ladder, all_to_scale, check_maps, read_map
from svq.cascade.measures import Point
from svq.config import dump_config
from svq.errors import UserError


def fit_maps(ladder: Ladder, scores, target) -> list:
    """The map of every rung, fitted where the ladder names a kind, read where it names a file.

    scores: (R, n) of development trials; target: (n,) bool. UserError for scores that no map can be fitted on, a map
    or mean embedding that is unreadable.
    """
    found = []
    for rung, own in zip(ladder.rungs, scores):
        if rung.map == NONE:
            found.append(None)
        elif rung.map in (LOGISTIC, *FITS):
            found.append(_of(_fitted(rung, own, scores[-1], target), ladder, rung))
        else:
            found.append(read_map(rung, ladder.score))
    check_maps(ladder, found)
    return found


def _fitted(rung, own, last, target):
    try:
        return fit(own[target], own[~target]) if rung.map == LOGISTIC else FITS[rung.map](own, last)
    except UserError as error:
        raise UserError(f"rung {rung.name}: no {rung.map} map of its scores in {rung.scores}: {error}") from None


def _of(score_map, ladder: Ladder, rung):
    """The map, saying whose score it takes, so that the live cascade subtracts the same mean embedding."""
    if rung.mean is None:
        return score_map.of(ladder.score)
    return score_map.of(ladder.score, mean_text(None if rung.mean == NONE else read_vector(rung.mean)))


def threshold_of(ladder: Ladder, last, target) -> float:
    """last: (n,) values of the last rung on development trials, on the common scale."""
    return eer_threshold(last[target], last[~target]) if ladder.operating.eer else ladder.threshold()


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What `prepare` made. replay: of the development list."""

    ladder: Ladder
    maps: list
    replay: Replay
    choice: Choice


def prepare(ladder: Ladder, listed, limits: dict[str, float], goal: str | None = None) -> Fitted:
    """Fits and chooses on a TrialList; see svq.cascade.choose.choose for limits, goal and errors."""
    scores = listed.scores(ladder)
    maps = fit_maps(ladder, scores, listed.target)
    values = all_to_scale(maps, scores)
    threshold = threshold_of(ladder, values[-1], listed.target)
    table = table_of(rung_costs(ladder.rungs, listed.frames), listed.frames)
    replay = Replay(listed, values, table, Point.of(ladder.operating, threshold), ladder.names)
    grid = grid_of(values, threshold, listed.target, per_trial(listed, table))
    last = replay.eer([np.inf] * (len(values) - 1))
    eer_loss = lambda deltas: replay.eer(deltas) - last  # noqa: E731
    chosen = choose(grid, limits, goal, eer_loss)
    chosen = dataclasses.replace(chosen, eer_loss=eer_loss(chosen.deltas))
    rungs = [dataclasses.replace(rung, delta=delta) for rung, delta in zip(ladder.rungs, (*chosen.deltas, None))]
    said = {"on": listed.path, "limits": dict(limits), "goal": goal}
    said |= {name: getattr(chosen, name) for name in LIMITS}
    operating = dataclasses.replace(ladder.operating, threshold=threshold)
    return Fitted(dataclasses.replace(ladder, rungs=tuple(rungs), operating=operating, chosen=said), maps, replay,
                  chosen)


def save(folder, fitted: Fitted) -> str:
    """Writes <folder>/<rung>.map.json of every rung that has a map and, last, <folder>/ladder.yaml; gives its path."""
    rungs = []
    for rung, score_map in zip(fitted.ladder.rungs, fitted.maps):
        if score_map is not None:
            name = f"{rung.name}.map.json"  # beside the ladder: the folder can be moved
            save_map(score_map, os.path.join(folder, name))
            # A map that carries the mean embedding says which: its file can stay behind.
            rung = dataclasses.replace(rung, map=name, mean=None if score_map.mean else rung.mean)
        rungs.append(rung)
    path = os.path.join(folder, "ladder.yaml")
    dump_config(dataclasses.replace(fitted.ladder, rungs=tuple(rungs)), path)
    return path
