"""Codes and levels for the least output error: each step against the slow one that it stands for."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from svq.quant import output_error
from svq.quant.calibrated import weighted_levels
from svq.quant.levels import uniform_levels
from svq.quant.output_error import (
    DAMPING,
    Fit,
    MomentSums,
    improve,
    nearest,
    prepare,
    quantize_layer,
    refit,
    shrinkage,
    values_of,
    with_feedback,
)

KINDS = list(itertools.product([False, True], [False, True]))  # shared, free


def data(groups=1, size=6, columns=200, seed=0, noise=0.2):
    """Correlated inputs (G, N, P) of a float network, and those of a quantized one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    x = normal(groups, size, size) @ normal(groups, size, columns) + normal(groups, size, 1)
    return x, x + noise * x.std() * normal(groups, size, columns)


def moments(x, y, centred=False):
    sums = MomentSums()
    sums.add(x[None], y[None])
    return sums.moments(centred)


def weights(groups=1, outputs=5, size=6, seed=1):
    return 0.1 * torch.randn(groups, outputs, size, generator=torch.Generator().manual_seed(seed)) + 0.01


def problem(count=4, shared=False, free=True, groups=1, outputs=5, size=6, seed=0, columns=200):
    """A layer's T and S, and levels to start from: k-means levels, or with `free` false some even ones."""
    x, y = data(groups, size, max(columns, 20 * size), seed)
    target, square = prepare(weights(groups, outputs, size, seed + 1), moments(x, y))
    if free:
        levels = weighted_levels(target, square, count, shared)
    else:
        scales = torch.ones(()) if shared else target.abs().amax(-1).view(-1, 1) / 0.3
        levels = torch.linspace(-0.2, 0.2, count) * scales
    levels = levels.to(target).expand(groups * outputs, count).reshape(groups, outputs, count).clone()
    return Fit(target, square, levels, shared, free)


@pytest.mark.parametrize("groups, columns", [(1, 200), (3, 200), (2, 4)])
@pytest.mark.parametrize("centred", [False, True])
def test_target_is_the_least_squares_solution(monkeypatch, groups, columns, centred):
    """The rows T for which T y is nearest to W x, with the weights drawn to W by so many columns more (the damping)."""
    monkeypatch.setattr(output_error, "shrinkage", lambda moments: torch.zeros(groups, dtype=torch.float64))
    x, y = data(groups, 6, columns)
    w = weights(groups)
    target, square = prepare(w, moments(x, y, centred))
    x, y, w = (a.double().numpy() for a in (x, y, w))
    if centred:
        x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    for group in range(groups):
        damping = DAMPING * (y[group] ** 2).mean()
        ridge = np.sqrt(damping * columns) * np.eye(6)
        columns_of_y = np.concatenate([y[group], ridge], 1)
        outputs = np.concatenate([w[group] @ x[group], w[group] @ ridge], 1)
        expected = np.linalg.lstsq(columns_of_y.T, outputs.T, rcond=None)[0].T
        np.testing.assert_allclose(target[group].numpy(), expected, rtol=1e-4, atol=1e-5)
        products = y[group] @ y[group].T / columns
        np.testing.assert_allclose(square[group], products + damping * np.eye(6), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [3, 40, 5000])
def test_shrinkage_is_that_of_the_formula(columns):
    x, y = data(2, 12, columns)
    y = torch.tensor([1.0, 100.0] * 6)[None, :, None] * y  # the unit of an input does not count
    found = moments(x, y, True)
    for share, square in zip(shrinkage(found).tolist(), found.square.numpy()):
        unit = np.sqrt(square.diagonal())
        correlations = square / unit / unit[:, None]
        squares, size = np.trace(correlations @ correlations), 12
        expected = ((1 - 2 / size) * squares + size**2) / ((columns + 1 - 2 / size) * (squares - size**2 / size))
        assert share == pytest.approx(min(1.0, expected), rel=1e-6)
        assert {3: share > 0.5, 40: 0.05 < share < 0.5, 5000: share < 0.01}[columns]
    target, square = prepare(weights(2, 5, 12), found)
    off = ~torch.eye(12, dtype=torch.bool)
    factor = square[:, off] / found.square.float()[:, off]
    torch.testing.assert_close(factor, (1 - shrinkage(found)).float()[:, None].expand_as(factor), rtol=1e-3, atol=0)


@pytest.mark.parametrize("columns", [30, 60, 120, 240, 4000])
def test_few_columns_do_no_harm_on_others(columns):
    """Inputs that are as good as independent: nothing is to be gained, and without shrinkage much is lost."""
    generator = torch.Generator().manual_seed(columns)
    x, others = (torch.randn(1, 120, count, generator=generator) for count in (columns, 4000))
    w = weights(1, 16, 120)
    target, square = prepare(w, moments(x, x))
    start = weighted_levels(w, torch.eye(120)[None], 4, False).float()[None]
    codes, levels = quantize_layer(Fit(target, square, start, False, True))
    off, plain = (((values - w) @ others).square().mean() for values in (values_of(codes, levels),
                                                                         values_of(nearest(w, start), start)))
    assert off < 1.1 * plain


def test_error_is_that_of_the_outputs_but_for_a_constant():
    x, y = data(1, 6, 300)
    w = weights()
    target, _ = prepare(w, moments(x, y))
    square = moments(x, y).square.float()
    fit = Fit(target, square, None, False, True)
    found, expected = [], []
    for seed in range(4):
        q = target + 0.05 * torch.randn(target.shape, generator=torch.Generator().manual_seed(seed))
        found.append(fit.error(q))
        expected.append(float(((q @ y - target @ y)[0].double().square()).mean(1).sum()))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def slow_feedback(fit, group, row):
    """Column after column; those left are set to what is best with those that are quantized, by solving for it."""
    target, square = fit.target[group, row].double().numpy(), fit.square[group].double().numpy()
    levels = fit.levels[group, row].double().numpy()
    order = np.argsort(-fit.square.double().numpy().diagonal(axis1=1, axis2=2).mean(0), kind="stable")
    codes, values, done = np.zeros(len(target), dtype=int), np.zeros(len(target)), []
    for place, i in enumerate(order):
        rest = order[place:]
        pull = (target[done] - values[done]) @ square[np.ix_(done, rest)] if done else np.zeros(len(rest))
        left = target[rest] + np.linalg.solve(square[np.ix_(rest, rest)], pull)
        codes[i] = np.abs(left[0] - levels).argmin()
        values[i] = levels[codes[i]]
        done.append(i)
    return codes


@pytest.mark.parametrize("shared, count", [(False, 4), (True, 4), (False, 16), (False, 64), (True, 64)])
@pytest.mark.parametrize("block", [128, 5])
def test_feedback_is_that_of_the_slow_rendering(monkeypatch, shared, count, block):
    monkeypatch.setattr(output_error, "BLOCK", block)
    fit = problem(count, shared, groups=2, outputs=4, size=24)
    codes = with_feedback(fit)
    expected = [[slow_feedback(fit, group, row) for row in range(4)] for group in range(2)]
    same = (codes.numpy() == np.array(expected)).all(-1)  # in float32 a weight amid two levels may go to the other
    assert same.mean() >= 7 / 8


def slow_improve(fit, codes, group, row):
    """Each column in turn: all its levels tried, the others as they are."""
    target, square = fit.target[group, row].double().numpy(), fit.square[group].double().numpy()
    levels, codes = fit.levels[group, row].double().numpy(), codes[group, row].numpy().copy()
    for i in range(len(codes)):
        errors = []
        for code in range(len(levels)):
            codes[i] = code
            off = levels[codes] - target
            errors.append(off @ square @ off)
        codes[i] = int(np.argmin(errors))
    return codes


@pytest.mark.parametrize("shared, count", [(False, 4), (True, 8), (False, 33), (True, 64)])
@pytest.mark.parametrize("block", [128, 5])
def test_improve_tries_all_levels_of_each_column(monkeypatch, shared, count, block):
    monkeypatch.setattr(output_error, "BLOCK", block)
    fit = problem(count, shared, groups=2, outputs=4, size=40)
    codes = nearest(fit.target, fit.levels)
    found = improve(fit, codes)
    expected = [[slow_improve(fit, codes, group, row) for row in range(4)] for group in range(2)]
    assert (found.numpy() == np.array(expected)).all(-1).mean() >= 7 / 8
    better, error = (fit.error(values_of(x, fit.levels)) for x in (found, codes))
    assert better < error or count > 16 and better <= error


@pytest.mark.parametrize("shared", [False, True])
def test_refit_is_a_linear_least_squares(shared):
    fit = problem(4, shared, groups=2, outputs=5, size=40)
    codes = nearest(fit.target, fit.levels)
    levels = refit(fit, codes)
    rows = list(itertools.product(range(2), range(5)))
    roots = [np.linalg.cholesky(fit.square[group].double().numpy()).T for group in range(2)]
    designs = [roots[g] @ np.eye(4)[codes[g, o].numpy()] for g, o in rows]
    sides = [roots[g] @ fit.target[g, o].double().numpy() for g, o in rows]
    if shared:
        expected = [np.linalg.lstsq(np.concatenate(designs), np.concatenate(sides), rcond=None)[0]] * len(rows)
    else:
        expected = [np.linalg.lstsq(design, side, rcond=None)[0] for design, side in zip(designs, sides)]
    ordered = (np.diff(expected) >= 0).all(1)
    assert ordered.mean() > 0.7
    np.testing.assert_allclose(levels.flatten(0, 1).numpy()[ordered], np.array(expected)[ordered], rtol=0, atol=2e-3)
    assert torch.equal(levels.flatten(0, 1)[~ordered], fit.levels.flatten(0, 1)[~ordered])


def with_random_codes(fit, seed):
    """Sorted weights have sorted codes: with such, levels keep their order more often than with any."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(fit.levels.shape[-1], fit.target.shape, generator=generator)
    noise = 0.03 * torch.randn(fit.target.shape, generator=generator)
    return codes if seed % 2 else nearest(fit.target + noise, fit.levels)


@pytest.mark.parametrize("shared, free", KINDS)
@pytest.mark.parametrize("count, size, groups", [(2, 3, 1), (4, 9, 6), (16, 30, 2), (8, 150, 1)])
def test_no_step_raises_the_error(shared, free, count, size, groups):
    fit = problem(count, shared, free, groups, 4, size)
    for seed in range(6):
        codes = with_random_codes(fit, seed)
        error = fit.error(values_of(codes, fit.levels))
        better = fit.error(values_of(improve(fit, codes), fit.levels))
        refitted = refit(fit, codes)
        assert better <= error * (1 + 1e-5)
        assert fit.error(values_of(codes, refitted)) <= error * (1 + 1e-5)
        assert (refitted.diff(dim=-1) >= 0).all()
        assert not shared or (refitted == refitted[:1, :1]).all()


@pytest.mark.parametrize("shared, free", KINDS)
@pytest.mark.parametrize("count, size, groups", [(2, 3, 1), (4, 9, 6), (16, 30, 2), (8, 150, 1), (4, 300, 1),
                                                 (64, 100, 1)])
def test_all_steps_are_better_than_the_nearest_levels(shared, free, count, size, groups):
    total, plain = 0.0, 0.0
    for seed in range(3):
        fit = problem(count, shared, free, groups, 4, size, seed)
        codes, levels = quantize_layer(fit)
        assert codes.shape == fit.target.shape and levels.shape == fit.levels.shape
        assert 0 <= int(codes.min()) and int(codes.max()) < count
        error = fit.error(values_of(codes, levels))
        before = fit.error(values_of(nearest(fit.target, fit.levels), fit.levels))
        assert error <= before * (1 + 1e-5)
        if not free:
            factor = levels / fit.levels
            torch.testing.assert_close(factor, factor[..., :1].expand_as(factor), rtol=1e-5, atol=0)
        total, plain = total + error, plain + before
    assert total < (1.0 if size < 9 else 0.7 if count < 64 else 1.0) * plain


def least_of_all_codes(fit):
    """One row: the least error over all codes, with the best levels, or the best scale of these, for each."""
    target, root = fit.target[0, 0].double().numpy(), np.linalg.cholesky(fit.square[0].double().numpy()).T
    levels, least = fit.levels[0, 0].double().numpy(), np.inf
    for codes in itertools.product(range(len(levels)), repeat=len(target)):
        ones = np.eye(len(levels))[list(codes)]
        design = root @ (ones if fit.free else ones @ levels[:, None])
        solution = np.linalg.lstsq(design, root @ target, rcond=None)[0]
        if fit.free or solution[0] >= 0:
            least = min(least, float(((design @ solution - root @ target) ** 2).sum()))
    return least


@pytest.mark.parametrize("free, count, size, equal, factor", [(True, 2, 4, 0.85, 1.2), (True, 2, 3, 0.85, 1.15),
                                                              (False, 2, 4, 0.8, 1.15), (False, 3, 4, 0.5, 1.3)])
def test_tiny_rows_are_close_to_the_best_of_all_codes(free, count, size, equal, factor):
    met, found, best = [], 0.0, 0.0
    for seed in range(60):
        fit = problem(count, False, free, 1, 1, size, seed)
        codes, levels = quantize_layer(fit)
        error, least = fit.error(values_of(codes, levels)), least_of_all_codes(fit)
        assert error >= least * (1 - 1e-4) - 1e-9
        met.append(error <= 1.01 * least + 1e-9)
        found, best = found + error, best + least
    assert np.mean(met) >= equal and found <= factor * best


def degenerate():
    x, y = data(1, 12, 300)
    same = x[:, :1].expand(-1, 12, -1)
    yield "constant inputs", torch.full((1, 12, 50), 3.0), torch.full((1, 12, 50), 3.0)
    yield "zero inputs", torch.zeros(1, 12, 50), torch.zeros(1, 12, 50)
    yield "zeros in the quantized network", x, torch.zeros_like(y)
    yield "zeros in the float network", torch.zeros_like(x), y
    yield "one column", x[..., :1], y[..., :1]
    yield "all inputs alike", same, same
    yield "a dead input", *(torch.cat([a[:, :11], 0 * a[:, 11:]], 1) for a in (x, y))
    yield "one input of far more power", *(torch.cat([a[:, :11], 1e6 * a[:, 11:]], 1) for a in (x, y))
    yield "tiny", 1e-15 * x, 1e-15 * y
    yield "huge", 1e12 * x, 1e12 * y
    yield "large means", x + 1e5, y + 1e5


@pytest.mark.parametrize("name, x, y", list(degenerate()), ids=lambda x: x if isinstance(x, str) else "")
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("shared, free", KINDS)
def test_inputs_that_say_little_give_finite_weights(name, x, y, centred, shared, free):
    w = weights(1, 4, 12)
    target, square = prepare(w, moments(x, y, centred))
    assert target.isfinite().all() and square.isfinite().all()
    levels = weighted_levels(target, square, 4, shared) if free else torch.from_numpy(uniform_levels(2)) * 0.1
    fit = Fit(target, square, levels.to(w).expand(4, -1)[None].clone(), shared, free)
    codes, levels = quantize_layer(fit)
    values = values_of(codes, levels)
    assert values.isfinite().all() and (levels.diff(dim=-1) >= 0).all()
    assert fit.error(values) <= fit.error(values_of(nearest(target, fit.levels), fit.levels)) * (1 + 1e-4)
    if name in ("zero inputs", "constant inputs") and (centred or name == "zero inputs"):
        torch.testing.assert_close(target, w)  # nothing is known but the weights
        assert float((values - w).square().mean()) < float(w.square().mean())


def test_weights_that_are_equal_or_zero_stay():
    x, y = data(1, 6, 300)
    for value in (0.0, 0.3, -0.3):
        target, square = torch.full((1, 3, 6), value), prepare(weights(1, 3), moments(x, y))[1]
        levels = weighted_levels(target, square, 4, False).to(target)[None]
        codes, levels = quantize_layer(Fit(target, square, levels, False, True))
        torch.testing.assert_close(values_of(codes, levels), target, rtol=1e-4, atol=1e-6)


def test_levels_weigh_an_input_by_its_power():
    """An input of much power gets a level for itself."""
    x = torch.randn(1, 8, 4000, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 100
    target, square = prepare(weights(1, 3, 8), moments(x, x))
    plain = weighted_levels(target, torch.eye(8)[None], 3, False)
    weighed = weighted_levels(target, square, 3, False)
    distances = [(found.float() - target[0, :, :1]).abs().amin(1) for found in (plain, weighed)]
    assert distances[1].max() < 0.02 and distances[1].mean() < distances[0].mean()


@pytest.mark.parametrize("shared, free", KINDS)
def test_the_same_data_give_the_same_codes(shared, free):
    fit = problem(8, shared, free, 2, 4, 150)
    one, other = quantize_layer(fit), quantize_layer(dataclasses.replace(fit, levels=fit.levels.clone()))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
