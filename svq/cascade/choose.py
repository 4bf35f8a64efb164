"""Makes a ladder ready on development trials: fits its maps, fixes its threshold and chooses its deltas.

The deltas keep to limits on flips, EER loss, cost or escalation. A ladder of R rungs has R - 1 of them; all
combinations of a grid are tried. With one gate the grid has a delta between any two distances to the threshold that
occur, so the search is exact. With more gates it has deltas at fixed shares of the trials, and fewer of them the more
gates there are (at most `CELLS` combinations).

Every trial falls into one cell of the grid, so flips, escalations and costs of all combinations are cumulative sums
over the cells: one pass over trials. An EER is no such sum, and it can grow where no decision flips, far from the
threshold. Where it is limited, two kinds of combinations are tried, the best first: those that no other beats in both
cost and flips, and some spread evenly over all.
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
    """All combinations of deltas and what each gives. deltas: (G,) for each of the R - 1 gates, rising, the last
    infinite. flips, harmful, escalation: shares of the trials. cost: as a share of the last rung's. These four are
    arrays of R - 1 axes, one for each gate."""

    deltas: list[np.ndarray]
    flips: np.ndarray
    harmful: np.ndarray
    escalation: np.ndarray
    cost: np.ndarray

    def at(self, place) -> tuple[float, ...]:
        """Gives the deltas at a place of the grid, one for each rung but the last."""
        return tuple(float(deltas[i]) for deltas, i in zip(self.deltas, place))


@dataclasses.dataclass(frozen=True)
class Choice:
    """A combination of deltas (R - 1,) and what it gives. flip_rate, harmful_rate, escalation: shares of the trials.
    cost: as a share of the last rung's. eer_loss: percent absolute, None where it was not asked for."""

    deltas: tuple[float, ...]
    flip_rate: float
    harmful_rate: float
    escalation: float
    cost: float
    eer_loss: float | None = None


def grid_of(values, threshold: float, target, cost) -> Grid:
    """Computes flips, harmful flips, escalation and cost for all combinations of deltas that are to be tried.

    values: (R, n) of all rungs on the common scale; target: (n,) bool; cost: (R, n) of each trial at each rung alone.
    """
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
    """Gives the deltas to try at a gate, rising from 0 to infinity.

    They lie between the distances that occur, so no development trial lies exactly at one, where rounding would decide.
    """
    distinct = np.unique(distance[np.isfinite(distance)])
    between = distinct[:-1] + np.diff(distinct) / 2
    if gates > 1 and len(between):
        most = max(2, int(CELLS ** (1 / gates)) - 2)
        at = np.searchsorted(distinct, np.quantile(distance, _spread(_SHARES, most), method="lower"))
        between = between[np.unique(np.minimum(at, len(between) - 1))]
    return np.unique(np.concatenate([[0.0], between, [np.inf]]))


def _through(cell, deltas, rung: int, weight) -> np.ndarray:
    """Adds up the weight of the trials that reach `rung`, for every combination: the sum over cells at or below it."""
    shape = [len(delta) for delta in deltas]
    if rung == 0:
        return np.full(shape, float(np.sum(weight)))
    flat = np.ravel_multi_index(cell[:rung], shape[:rung])
    summed = np.bincount(flat, weight, int(np.prod(shape[:rung]))).reshape(shape[:rung])
    for axis in range(rung):
        summed = summed.cumsum(axis=axis)
    return np.broadcast_to(summed.reshape(shape[:rung] + [1] * (len(shape) - rung)), shape)


def _settled(cell, deltas, rung: int, weight) -> np.ndarray:
    """Adds up the weight of the trials that a gate settles: those that reach its rung but not the next."""
    left = _through(cell, deltas, rung, weight) - _through(cell, deltas, rung + 1, weight)
    return np.maximum(left, 0)  # a difference of equal sums of floats


def choose(grid: Grid, limits: Mapping[str, float], goal: str | None = None,
           eer_loss: Callable[[tuple[float, ...]], float] | None = None) -> Choice:
    """Chooses the combination within all limits that is best by the goal, and among equals by the other goal.

    limits: by name, any of LIMITS; shares, but eer_loss in percent absolute. goal: cost (cheapest) or flips (fewest);
    None: cost where errors are limited, flips where only costs are. eer_loss: computes the EER loss of deltas, needed
    where it is limited. UserError for unknown limits or goals, and where no combination keeps to the limits.
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
    # Among equals in both, small deltas come before large ones.
    order = np.lexsort((*places.T[::-1], second, first))
    if "eer_loss" not in limits:
        return _choice(grid, places[order[0]])
    for i in _to_try(order, second):
        loss = eer_loss(grid.at(places[i]))
        if loss <= limits["eer_loss"]:
            return dataclasses.replace(_choice(grid, places[i]), eer_loss=loss)
    raise UserError(f"no deltas keep to eer_loss {limits['eer_loss']:g} % with the other limits; allow more of one")


def _to_try(order: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Selects the places whose EER is computed, in `order`, that of one goal.

    These are the places that are better by the other goal than all before them, some of the rest, and the very last
    place, which escalates the most.
    """
    values = second[order]
    best = np.minimum.accumulate(np.concatenate([[np.inf], values[:-1]]))
    tried = [_spread(np.flatnonzero(values < best), _TRIED), _spread(np.arange(len(order)), _SPREAD)]
    return order[np.unique(np.concatenate([*tried, [order.argmax()]]))]


def _spread(items: np.ndarray, most: int) -> np.ndarray:
    """Gives all items, or `most` of them at equal distances, the first and the last among them."""
    if len(items) <= most:
        return items
    return items[np.linspace(0, len(items) - 1, most).round().astype(int)]


def _choice(grid: Grid, place) -> Choice:
    place = tuple(place)
    return Choice(grid.at(place), float(grid.flips[place]), float(grid.harmful[place]), float(grid.escalation[place]),
                  float(grid.cost[place]))


def by_hand(values, threshold: float, target, cost, deltas) -> Choice:
    """Counts trial by trial what these deltas give, as a check of the grid's sums.

    values: (R, n) on the common scale; target: (n,) bool; cost: (R, n) of each trial at each rung alone; deltas:
    (R - 1,).
    """
    values, cost = np.asarray(values, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    rung, n = settle(values, threshold, deltas), values.shape[1]
    accepted = values[rung, np.arange(n)] >= threshold
    flips = accepted != (values[-1] >= threshold)
    spent = sum(cost[r, rung >= r].sum() for r in range(len(values)))
    return Choice(tuple(map(float, deltas)), float(flips.mean()), float((flips & (accepted != target)).mean()),
                  float((rung > 0).mean()), float(spent / cost[-1].sum()))


def fit_maps(ladder: Ladder, scores, target) -> list:
    """Fits or reads the map of every rung; gives a list, with None for a rung without one.

    A map is fitted where the ladder names a kind and read where it names a file. scores: (R, n) of development trials;
    target: (n,) bool. UserError for scores that no map can be fitted to, and for an unreadable map or mean embedding.
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
    """Writes into the map which score it takes, so that the live cascade subtracts the same mean embedding."""
    if rung.mean is None:
        return score_map.of(ladder.score)
    return score_map.of(ladder.score, mean_text(None if rung.mean == NONE else read_vector(rung.mean)))


def threshold_of(ladder: Ladder, last, target) -> float:
    """Computes the ladder's threshold on the common scale: that of an EER, Bayes' one, or the one that it states.

    last: (n,) values of the last rung on development trials, on the common scale; target: (n,) bool.
    """
    return eer_threshold(last[target], last[~target]) if ladder.operating.eer else ladder.threshold()


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A ladder made ready by `prepare`: with its deltas and threshold, its maps, the replay of the development list,
    and the choice of deltas."""

    ladder: Ladder
    maps: list
    replay: Replay
    choice: Choice


def prepare(ladder: Ladder, listed, limits: dict[str, float], goal: str | None = None) -> Fitted:
    """Fits the maps of a ladder and chooses its threshold and deltas on the development trials `listed`, a TrialList.

    limits, goal, errors: see svq.cascade.choose.choose.
    """
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
    """Writes <rung>.map.json of every rung that has a map and, last, ladder.yaml into `folder`; gives that path."""
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
