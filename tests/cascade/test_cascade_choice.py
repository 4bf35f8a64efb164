"""Deltas chosen on a grid: its sums against a count trial by trial, its choice against all combinations."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.cascade.choose import by_hand, choose, grid_of
from svq.errors import UserError


def example(seed: int, rungs: int, n: int = 60):
    """values (R, n) whose noise falls from rung to rung, labels, cost (R, n)."""
    rng = np.random.default_rng(seed)
    target = rng.random(n) < 0.4
    clean = np.where(target, 1.5, -1.5) + rng.normal(size=n)
    noise = np.linspace(1.2, 0, rungs)[:, None] * rng.normal(size=(rungs, n))
    cost = np.array([1.0, 2, 4, 16])[:rungs, None] * rng.uniform(1, 2, n)
    return (8 * (clean + noise)).round() / 8, target, cost  # exact floats, with ties


def every(grid):
    return itertools.product(*(range(len(delta)) for delta in grid.deltas))


@given(st.integers(0, 20), st.integers(2, 3))
def test_the_sums_of_the_grid_are_those_of_the_trials(seed, rungs):
    values, target, cost = example(seed, rungs)
    grid = grid_of(values, 0.25, target, cost)
    places = list(every(grid))
    for i in np.random.default_rng(seed).integers(0, len(places), 12):
        place = places[i]
        found = by_hand(values, 0.25, target, cost, grid.at(place))
        assert grid.flips[place] == pytest.approx(found.flip_rate, abs=1e-12)
        assert grid.harmful[place] == pytest.approx(found.harmful_rate, abs=1e-12)
        assert grid.escalation[place] == pytest.approx(found.escalation)
        assert grid.cost[place] == pytest.approx(found.cost)


def test_four_rungs_too():
    values, target, cost = example(5, 4)
    grid = grid_of(values, 0.0, target, cost)
    for place in list(every(grid))[::997]:
        found = by_hand(values, 0.0, target, cost, grid.at(place))
        assert (grid.flips[place], grid.cost[place]) == pytest.approx((found.flip_rate, found.cost), abs=1e-12)


@pytest.mark.parametrize("limits, goal", [
    ({"flip_rate": 0.05}, None), ({"harmful_rate": 0.02}, None), ({"cost": 0.75}, None), ({"escalation": 0.3}, None),
    ({"cost": 0.7, "escalation": 0.5}, "flips"), ({"flip_rate": 0.1, "escalation": 0.6}, "flips")])
@pytest.mark.parametrize("rungs", [2, 3])
def test_no_combination_within_the_limits_is_better(limits, goal, rungs):
    values, target, cost = example(3, rungs)
    grid = grid_of(values, 0.25, target, cost)
    found = choose(grid, limits, goal)
    assert all(getattr(found, name) <= limit + 1e-12 for name, limit in limits.items())
    places = list(every(grid))[::1 if rungs == 2 else 7]
    all_of_them = [by_hand(values, 0.25, target, cost, grid.at(place)) for place in places]
    rivals = [each for each in all_of_them if all(getattr(each, k) <= v for k, v in limits.items())]
    assert rivals
    by_cost = (goal or ("cost" if "flip_rate" in limits or "harmful_rate" in limits else "flips")) == "cost"
    key = (lambda c: (c.cost, c.flip_rate)) if by_cost else (lambda c: (c.flip_rate, c.cost))
    best = min(map(key, rivals))
    assert key(found)[0] <= best[0] + 1e-12


def test_one_gate_is_searched_exactly():
    """Between two neighbouring distances nothing changes: the grid holds all that can happen."""
    values, target, cost = example(8, 2)
    grid = grid_of(values, 0.25, target, cost)
    seen = {tuple(np.abs(values[0] - 0.25) > delta) for delta in np.linspace(0, 8, 4001)}
    assert seen <= {tuple(np.abs(values[0] - 0.25) > delta) for delta in grid.deltas[0]}


def test_eer_loss_takes_the_cheapest_that_keeps_to_it():
    values, target, cost = example(4, 2)
    grid = grid_of(values, 0.25, target, cost)
    loss = lambda deltas: 10 * by_hand(values, 0.25, target, cost, deltas).flip_rate  # noqa: E731
    found = choose(grid, {"eer_loss": 0.5}, eer_loss=loss)
    assert found.eer_loss == loss(found.deltas) <= 0.5
    fewer = choose(grid, {"flip_rate": 0.05})
    assert found.cost == pytest.approx(fewer.cost)


@pytest.mark.parametrize("rungs, goal", [(2, None), (2, "flips"), (3, "cost")])
def test_eer_can_be_lost_where_nothing_flips(rungs, goal):
    """Far from the threshold no decision changes, but what is settled there has a low-bit value."""
    values, target, cost = example(4, rungs)
    grid = grid_of(values, 0.25, target, cost)
    without = choose(grid, {"flip_rate": 0.0}).deltas[0]
    least = max(grid.deltas[0][-4], without + 0.01)  # only above this the EER is kept
    found = choose(grid, {"eer_loss": 0.05}, goal, lambda deltas: 0.0 if deltas[0] >= least else 1.0)
    assert found.deltas[0] >= least
    if rungs == 2:
        assert found.deltas[0] == min(delta for delta in grid.deltas[0] if delta >= least)
    sure = choose(grid, {"eer_loss": 0.0}, goal, lambda deltas: 0.0 if np.isinf(deltas).all() else 1.0)
    assert sure.deltas == (np.inf,) * (rungs - 1)


@pytest.mark.parametrize("limits, words", [
    ({"cost": 0.01}, "no deltas keep to cost 0.01"), ({"eer": 1}, "not eer"), ({}, "not none"),
    ({"eer_loss": -1.0}, "no deltas keep to eer_loss")])
def test_limits_that_cannot_be(limits, words):
    values, target, cost = example(3, 2)
    with pytest.raises(UserError, match=words):
        choose(grid_of(values, 0.25, target, cost), limits, eer_loss=lambda deltas: 0.0)
