"""Selection of blocks: as good as trying every set, within the budget, and clear where there is nothing to choose."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.bits.selection import (
    Selection,
    exact_within_bytes,
    exact_within_loss,
    greedy_within_bytes,
    greedy_within_loss,
    knapsack,
)
from svq.errors import UserError

losses = st.one_of(st.just(0.0), st.floats(-0.5, 2), st.floats(1e-4, 1e-2))


def masks(count):
    return (np.array(mask) for mask in itertools.product((False, True), repeat=count))


def problem(loss, floats, quantized, odd=0):
    """Blocks of these bytes; a header that depends a little on the set, by `odd`, and is filled up to 8 bytes."""
    floats, quantized = np.array(floats), np.array(quantized)

    def file_bytes(mask):
        own = int(np.where(mask, quantized, floats).sum())
        return own + -(-(200 + odd * len(str(own)) + 3 * int(mask.sum())) // 8) * 8

    return Selection(tuple(f"b{i}" for i in range(len(loss))), np.array(loss), file_bytes)


@st.composite
def problems(draw, most=6):
    count = draw(st.integers(1, most))
    pick = lambda each: draw(st.lists(each, min_size=count, max_size=count))  # noqa: E731
    floats = pick(st.integers(40, 5000))
    # Codebooks may take more than a small layer in float.
    quantized = [draw(st.one_of(st.integers(1, size), st.integers(size, size + 200))) for size in floats]
    return problem(pick(losses), floats, quantized, draw(st.integers(0, 5)))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(-1, 1e4), st.one_of(st.just(0.0), st.floats(1e-3, 1e5))), min_size=1, max_size=7),
       st.floats(0, 3e5))
def test_the_knapsack_is_as_good_as_the_best_of_all(items, capacity):
    values, weights = np.array(items).T
    found = knapsack(values, weights, capacity)
    best = max(values[mask].sum() for mask in masks(len(items)) if weights[mask].sum() <= capacity)
    assert weights[found].sum() <= capacity + 1e-9
    assert values[found].sum() >= best - 1e-6 * max(1.0, abs(values).max())


@settings(max_examples=60)
@given(problems(), st.floats(0, 1))
def test_exact_bytes_are_met_with_the_least_loss_of_all(case, share):
    everything = case.file_bytes(np.zeros(len(case.blocks), bool))
    target = int(case.smallest + share * max(0, everything - case.smallest))
    fitting = [mask for mask in masks(len(case.blocks)) if mask.any() and case.file_bytes(mask) <= target]
    try:
        found = exact_within_bytes(case, target)
    except UserError:  # only where floats fit, or nothing does
        assert everything <= target or not fitting
        return
    assert case.file_bytes(found) <= target
    assert case.total(found) <= min(case.total(mask) for mask in fitting) + 1e-6


@settings(max_examples=60)
@given(problems(), st.floats(0, 2))
def test_the_loss_budget_is_met_with_the_fewest_bytes_of_all(case, most):
    fitting = [mask for mask in masks(len(case.blocks)) if mask.any() and case.total(mask) <= most]
    saves = [mask for mask in fitting if (case.saved[mask] > 0).all()]
    try:
        found = exact_within_loss(case, most)
    except UserError:
        assert not saves
        return
    assert case.total(found) <= most + 1e-9
    fewest = min(case.file_bytes(mask) for mask in fitting)
    assert case.file_bytes(found) <= fewest + 16 * len(case.blocks)  # the header's part, rounded up block by block


def last(steps):
    mask = None
    for _, _, mask in steps:
        pass
    return mask


@settings(max_examples=60)
@given(problems(), st.floats(0, 2))
def test_greedy_keeps_the_loss_budget_and_is_maximal(case, most):
    try:
        found = last(greedy_within_loss(case, most))
    except UserError:
        found = np.zeros(len(case.blocks), bool)
    assert case.total(found) <= most + 1e-9
    for i in np.flatnonzero(~found):  # nothing more fits
        assert case.saved[i] <= 0 or case.total(found) + case.loss[i] > most
    best = max((case.saved[mask].sum() for mask in masks(len(case.blocks)) if case.total(mask) <= most + 1e-9),
               default=0)
    assert case.saved[found].sum() <= best
    # Half of the optimum at least, with the better of greedy and the best single block: the textbook's bound.
    single = max((case.saved[i] for i in range(len(case.blocks)) if case.loss[i] <= most + 1e-9), default=0)
    assert 2 * max(case.saved[found].sum(), single) >= best


@settings(max_examples=60)
@given(problems(), st.floats(0, 1))
def test_greedy_meets_the_bytes_and_is_never_better_than_the_best(case, share):
    everything = case.file_bytes(np.zeros(len(case.blocks), bool))
    target = int(case.smallest + share * max(0, everything - case.smallest))
    try:
        found = last(greedy_within_bytes(case, target))
    except UserError:
        assert everything <= target or not found_by_force(case, target)
        return
    assert case.file_bytes(found) <= target
    assert case.total(found) >= min(case.total(mask) for mask in found_by_force(case, target)) - 1e-9
    for i in np.flatnonzero(found):
        put_back = found.copy()
        put_back[i] = False
        assert case.loss[i] == 0 or case.file_bytes(put_back) > target


def found_by_force(case, target):
    return [mask for mask in masks(len(case.blocks)) if case.file_bytes(mask) <= target]


@pytest.mark.parametrize("loss", [[3, 1, 2, 5, 4], [0.1, 0.1, 0.2, 0.3, 0.1]])
def test_where_blocks_are_alike_in_size_greedy_is_exact(loss):
    case = problem(loss, [1000] * 5, [250] * 5)
    for most in (0.15, 0.35, 1, 3, 7, 11):
        sizes = set()
        for solve in (lambda: exact_within_loss(case, most), lambda: last(greedy_within_loss(case, most))):
            try:
                sizes.add(case.file_bytes(solve()))
            except UserError:
                sizes.add(None)
        assert len(sizes) == 1
    for target in range(case.smallest, case.file_bytes(np.zeros(5, bool)), 200):
        assert case.total(exact_within_bytes(case, target)) == pytest.approx(
            case.total(last(greedy_within_bytes(case, target))))


def test_greedy_goes_by_what_is_measured():
    """The sum of single losses says that both fit; together they do not."""
    case = problem([0.1, 0.1, 0.3], [1000, 900, 800], [100, 100, 100])
    assert last(greedy_within_loss(case, 0.2)).tolist() == [True, True, False]
    joint = lambda mask: 0.5 if mask[0] and mask[1] else case.total(mask)  # noqa: E731
    steps = list(greedy_within_loss(case, 0.4, joint))
    assert [(block, taken) for block, taken, _ in steps] == [(0, True), (1, False), (2, True)]
    assert steps[-1][2].tolist() == [True, False, True]


def test_a_loss_below_zero_counts_as_none():
    case = problem([-1.0, 0.5], [1000, 1000], [100, 100])
    assert case.loss.tolist() == [0.0, 0.5]
    assert exact_within_loss(case, 0.4).tolist() == [True, False]  # not 0.5 - 1


@pytest.mark.parametrize("solve, words", [
    (lambda case: exact_within_loss(case, 0.01), "a loss of at most 0.01 leaves every block in float"),
    (lambda case: last(greedy_within_loss(case, 0.01)), "nothing is quantized; raise it"),
    (lambda case: exact_within_bytes(case, 100), "a file of 100 bytes cannot be met"),
    (lambda case: last(greedy_within_bytes(case, 100)), "raise the target or take fewer bits"),
    (lambda case: exact_within_bytes(case, 10**6), "has room for every block in float"),
    (lambda case: last(greedy_within_bytes(case, 10**6)), "lower the target"),
])
def test_budgets_that_leave_no_choice_are_errors(solve, words):
    with pytest.raises(UserError, match=words) as error:
        solve(problem([0.1, 0.5], [1000, 1000], [100, 100]))
    assert "\n" not in str(error.value)
