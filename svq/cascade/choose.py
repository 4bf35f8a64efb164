"""The choice of deltas on development trials: for a limit on flips, EER loss, cost or escalation, at any length.

A ladder of R rungs has R - 1 deltas, tried at all combinations of a grid. With one gate the grid has a delta between
any two distances to the threshold that occur, so the search is exact; with more gates it has those at fixed shares of
the trials, fewer of them the more gates there are (at most `CELLS` combinations). Every trial falls into one cell of
the grid, so flips, escalations and costs of all combinations are cumulative sums over the cells: one pass over trials.
An EER is no such sum, and it can be lost where no decision flips, far from the threshold: where it is limited, those
combinations are tried that no other beats in both cost and flips, and others spread evenly over all, from the best on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from svq.cascade import LIMITS
from svq.cascade.gate import settle
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
