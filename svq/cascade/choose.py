"""A ladder made ready on development trials: its maps fitted, its threshold fixed, its deltas chosen.

Deltas keep to a limit on flips, EER loss, cost or escalation. A ladder of R rungs has R - 1 of them, tried at all
combinations of a grid. With one gate the grid has a delta between any two distances to the threshold that occur, so the
search is exact; with more gates it has those at fixed shares of the trials, fewer of them the more gates there are (at
most `CELLS` combinations). Every trial falls into one cell of the grid, so flips, escalations and costs of all
combinations are cumulative sums over the cells: one pass over trials. An EER is no such sum, and it can be lost where
no decision flips, far from the threshold: where it is limited, those combinations are tried that no other beats in both
cost and flips, and others spread evenly over all, from the best on.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np

from svq.backend.calibration import fit, mean_text
from svq.backend.embeddings import read_vector
from svq.backend.metrics import eer_threshold
from svq.backend.score_map import FITS, LOGISTIC, save_map
from svq.cascade import LIMITS
from svq.cascade.cost import per_trial, rung_costs, table_of
from svq.cascade.evaluate import Point, Replay
from svq.cascade.ladder import NONE, Ladder, all_to_scale, check_maps, read_map, settle
from svq.config import dump_config
from svq.errors import UserError

GOALS = ("cost", "flips")
CELLS = 1 << 18
_SHARES = np.concatenate([np.arange(0, 0.1, 0.005), np.arange(0.1, 1, 0.02)])
_TRIED, _SPREAD = 400, 200  # EERs computed at most, of combinations that none beats and of others


@dataclasses.dataclass(frozen=True)
class Grid:
    """deltas: (G,) of each gate, the last infinite. flips, harmful, escalation: shares of the trials, cost: the mean
    share of the last rung's, each an array of R - 1 axes, the choices of delta at each gate."""

    deltas: list[np.ndarray]
    flips: np.ndarray
    harmful: np.ndarray
    escalation: np.ndarray
    cost: np.ndarray

    def at(self, place) -> tuple[float, ...]:
        return tuple(float(deltas[i]) for deltas, i in zip(self.deltas, place))


@dataclasses.dataclass(frozen=True)
class Choice:
    """deltas: (R - 1,). flip_rate, harmful_rate, escalation: shares of the trials. cost: share of the last rung's.
    eer_loss: percent absolute, None where it was not asked for."""

    deltas: tuple[float, ...]
    flip_rate: float
    harmful_rate: float
    escalation: float
    cost: float
    eer_loss: float | None = None


def grid_of(values, threshold: float, target, cost) -> Grid:
    """values: (R, n) of all rungs; target: (n,) bool; cost: (R, n) of each trial at each rung alone."""
    values, cost = np.asarray(values, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    gates, n = len(values) - 1, values.shape[1]
    distances = np.abs(values[:-1] - threshold)
    deltas = [_candidates(distance, gates) for distance in distances]
    cell = [np.searchsorted(delta, distance) for delta, distance in zip(deltas, distances)]
    accepted = values >= threshold
    wrong = accepted != target
    parts = {"flips": [], "harmful": [], "escalation": [], "cost": []}
    for rung in range(gates + 1):
        flips = accepted[rung] != accepted[-1]
        here = lambda weight: _settled(cell, deltas, rung, weight)  # noqa: E731
        if rung < gates:
            parts["flips"].append(here(flips))
            parts["harmful"].append(here(flips & wrong[rung]))
        if rung == 1:
            parts["escalation"].append(_through(cell, deltas, rung, np.ones(n)))
        parts["cost"].append(_through(cell, deltas, rung, cost[rung]))
    total = {name: sum(arrays) for name, arrays in parts.items()}
    return Grid(deltas, total["flips"] / n, total["harmful"] / n, total["escalation"] / n,
                total["cost"] / cost[-1].sum())


def _candidates(distance: np.ndarray, gates: int) -> np.ndarray:
    """Rising deltas to try at a gate, from 0 to infinity, between the distances that occur: no trial that the choice
    was made on lies at its delta, where rounding would decide."""
    distinct = np.unique(distance[np.isfinite(distance)])
    between = distinct[:-1] + np.diff(distinct) / 2
    if gates > 1 and len(between):
        most = max(2, int(CELLS ** (1 / gates)) - 2)
        at = np.searchsorted(distinct, np.quantile(distance, _spread(_SHARES, most), method="lower"))
        between = between[np.unique(np.minimum(at, len(between) - 1))]
    return np.unique(np.concatenate([[0.0], between, [np.inf]]))


def _through(cell, deltas, rung: int, weight) -> np.ndarray:
    """Weight of the trials that get to `rung`, for every combination: the sum over cells at or below it."""
    shape = [len(delta) for delta in deltas]
    if rung == 0:
        return np.full(shape, float(np.sum(weight)))
    flat = np.ravel_multi_index(cell[:rung], shape[:rung])
    summed = np.bincount(flat, weight, int(np.prod(shape[:rung]))).reshape(shape[:rung])
    for axis in range(rung):
        summed = summed.cumsum(axis=axis)
    return np.broadcast_to(summed.reshape(shape[:rung] + [1] * (len(shape) - rung)), shape)


def _settled(cell, deltas, rung: int, weight) -> np.ndarray:
    """Weight of the trials that are settled at a gate: that get to it, and not to the next rung."""
    left = _through(cell, deltas, rung, weight) - _through(cell, deltas, rung + 1, weight)
    return np.maximum(left, 0)  # a difference of equal sums of floats


def choose(grid: Grid, limits: Mapping[str, float], goal: str | None = None,
           eer_loss: Callable[[tuple[float, ...]], float] | None = None) -> Choice:
    """The combination within all limits that is best by the goal, and among equals by the other goal.

    limits: of LIMITS; shares, but eer_loss in percent absolute. goal: cost (cheapest) or flips (fewest); None: cost
    where errors are limited, flips where only costs are. eer_loss: a function of deltas.
    UserError where no combination keeps to the limits.
    """
    unknown = [name for name in limits if name not in LIMITS]
    if unknown or not limits or goal not in (None, *GOALS):
        raise UserError(f"limits are any of {', '.join(LIMITS)}, goals {' and '.join(GOALS)}; not "
                        f"{', '.join(unknown) or goal or 'none'}")
    errors = any(name in limits for name in ("flip_rate", "harmful_rate", "eer_loss"))
    goal = goal or ("cost" if errors else "flips")
    fits = np.ones(grid.cost.shape, dtype=bool)
    for name, array in (("flip_rate", grid.flips), ("harmful_rate", grid.harmful), ("escalation", grid.escalation),
                        ("cost", grid.cost)):
        if name in limits:
            fits &= array <= limits[name] * (1 + 1e-12) + 1e-15  # sums of floats
            if not fits.any():
                raise UserError(f"no deltas keep to {name} {limits[name]:g} with the other limits; the least {name} of "
                                f"all is {array.min():.4g}")
    places = np.argwhere(fits)
    cost, flips = grid.cost[fits], grid.flips[fits]
    first, second = (cost, flips) if goal == "cost" else (flips, cost)
    # Small deltas before large ones where all is equal.
    order = np.lexsort((*places.T[::-1], second, first))
    if "eer_loss" not in limits:
        return _choice(grid, places[order[0]])
    for i in _to_try(order, second):
        loss = eer_loss(grid.at(places[i]))
        if loss <= limits["eer_loss"]:
            return dataclasses.replace(_choice(grid, places[i]), eer_loss=loss)
    raise UserError(f"no deltas keep to eer_loss {limits['eer_loss']:g} % with the other limits; allow more of one")


def _to_try(order: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of places in the order of one goal those whose EER is computed, in that order: what is better by the other goal
    than all before, some of the rest, and the last place of all, which escalates the most."""
    values = second[order]
    best = np.minimum.accumulate(np.concatenate([[np.inf], values[:-1]]))
    tried = [_spread(np.flatnonzero(values < best), _TRIED), _spread(np.arange(len(order)), _SPREAD)]
    return order[np.unique(np.concatenate([*tried, [order.argmax()]]))]


def _spread(items: np.ndarray, most: int) -> np.ndarray:
    """All, or at most so many of them at equal distances, the first and the last too."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(int)]


def _choice(grid: Grid, place) -> Choice:
    place = tuple(place)
    return Choice(grid.at(place), float(grid.flips[place]), float(grid.harmful[place]), float(grid.escalation[place]),
                  float(grid.cost[place]))


def by_hand(values, threshold: float, target, cost, deltas) -> Choice:
    """What these deltas give, counted trial by trial: what the grid's sums must equal."""
    values, cost = np.asarray(values, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    rung, n = settle(values, threshold, deltas), values.shape[1]
    accepted = values[rung, np.arange(n)] >= threshold
    flips = accepted != (values[-1] >= threshold)
    spent = sum(cost[r, rung >= r].sum() for r in range(len(values)))
    return Choice(tuple(map(float, deltas)), float(flips.mean()), float((flips & (accepted != target)).mean()),
                  float((rung > 0).mean()), float(spent / cost[-1].sum()))


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
