"""k-means on a line against all partitions and a slow search, and the promise that KMQAT starts near the optimum."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svq.quant import QuantConfig, quantize_
from svq.quant.api import float_weight
from svq.quant.levels import CELLS_OF_ONE, LARGEST_SEARCH, SortedRows, kmeans_levels, lloyd, optimal_levels
from tests.quant.clusters import error, search


def scatter(values, weights):
    """The weighted squared error about the weighted mean."""
    total = weights.sum()
    return float((weights * (values - (weights * values).sum() / total) ** 2).sum()) if total else 0.0


def least_of_all_partitions(values, count, weights):
    """The least error over all ways to cut the sorted values into `count` runs or fewer."""
    order = np.argsort(values)
    values, weights, least = values[order], weights[order], np.inf
    for cuts in itertools.combinations_with_replacement(range(len(values) + 1), count - 1):
        runs = itertools.pairwise([0, *cuts, len(values)])
        least = min(least, sum(scatter(values[a:b], weights[a:b]) for a, b in runs if a < b))
    return least


def draws(kind, shape, seed=0):
    generator = np.random.default_rng(seed)
    found = generator.standard_normal(shape) if kind == "gauss" else generator.standard_t(3, shape)
    return (0.02 * found).astype(np.float32)


small = st.integers(1, 7).flatmap(lambda size: st.lists(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 3)), min_size=size, max_size=size), min_size=1, max_size=3))


@given(small, st.integers(1, 4), st.sampled_from([1e-20, 1e-3, 1.0, 1e12]), st.sampled_from([0, 0.3, -1e3]),
       st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_no_partition_of_few_values_is_better(rows, count, unit, shift, weighted, dtype):
    values = ((np.array(rows)[..., 0] + shift) * unit).astype(dtype)
    weights = np.array(rows)[..., 1].astype(np.float64) if weighted else None
    levels = optimal_levels(values, count, weights)
    assert levels.shape == (len(values), count) and levels.dtype == np.float64 and (np.diff(levels) >= 0).all()
    for i, row in enumerate(values.astype(np.float64)):
        counts = np.ones(len(row)) if weights is None else weights[i]
        best = least_of_all_partitions(row, count, counts)
        assert error(row, levels[i], counts) <= best + 1e-11 * scatter(row, counts) + 1e-25 * unit**2
        assert row.min() - 1e-9 * unit <= levels[i, 0] and levels[i, -1] <= row.max() + 1e-9 * unit


@pytest.mark.parametrize("shape", [(1, CELLS_OF_ONE), (1, 300), (7, 24)])
@pytest.mark.parametrize("weighted", [False, True])
def test_up_to_so_many_values_the_optimum_is_exact(shape, weighted):
    values = draws("t3", shape).astype(np.float64)
    weights = np.random.default_rng(1).exponential(size=shape).round(1) if weighted else None
    for count in (2, 4, 8, 16):
        levels = optimal_levels(values, count, weights)
        for i, row in enumerate(values):
            counts = None if weights is None else weights[i]
            assert error(row, levels[i], counts) == pytest.approx(search(row, count, counts)[-1], rel=1e-9)


@pytest.mark.parametrize("kind", ["gauss", "t3"])
def test_of_more_values_it_is_almost_met(kind):
    values = draws(kind, 1500)
    best = search(values, 16)
    for bits in (1, 2, 3, 4):
        assert error(values, optimal_levels(values[None], 2**bits)[0]) <= 1.001 * best[2**bits - 1]


@pytest.fixture(scope="module", params=["gauss", "t3"])
def layer(request):
    """Weights (256, 256), and the least errors known of 1 to 16 levels for all of them.

    A slow search over some 2600 places, each extreme value between two, and from there Lloyd's algorithm by the book.
    """
    values = draws(request.param, (256, 256), seed=3)
    flat = np.sort(values.ravel().astype(np.float64))
    cuts = np.unique(np.concatenate([np.arange(300), np.arange(0, flat.size, 32), flat.size - np.arange(301)]))
    groups = np.split(flat, cuts[1:-1])
    means, sizes = np.array([group.mean() for group in groups]), np.diff(cuts)
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return values, [within + found for found in search(means, 16, sizes.astype(np.float64))]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_of_a_layer_are_within_a_thousandth_of_the_best(layer, bits):
    values, best = layer
    assert error(values.ravel(), optimal_levels(values.reshape(1, -1), 2**bits)[0]) <= 1.001 * best[2**bits - 1]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_kmqat_starts_within_a_twentieth_of_the_best_codebook(layer, bits, per_channel):
    """What is promised of `quantize_` before any training, a codebook for each layer or channel."""
    values, best = layer
    net = nn.Sequential(nn.Linear(256, 256, bias=False))
    net[0].weight.data = torch.from_numpy(values.copy())
    quantize_(net, QuantConfig("kmqat", bits, per_channel=per_channel))
    with torch.no_grad():
        off = (net[0].weight.double() - float_weight(net[0]).double()).square().sum(1)
    if per_channel:
        some = range(0, 256, 8)
        least = sum(search(values[i], 2**bits)[-1] for i in some)
        assert float(off[list(some)].sum()) <= 1.05 * least
        assert float(off.sum()) <= best[2**bits - 1]
    else:
        assert float(off.sum()) <= 1.05 * best[2**bits - 1]


@pytest.mark.parametrize("shape, count", [((1, 5000), 4), ((1, 5000), 16), ((5, 700), 8), ((1, 5000), 100)])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_cut_can_be_bettered_alone(shape, count, weighted):
    """The fixed point of Lloyd's algorithm: each level is the mean of the values that are nearest to it."""
    values = draws("t3", shape).astype(np.float64)
    weights = np.random.default_rng(2).exponential(size=shape) if weighted else np.ones(shape)
    levels = optimal_levels(values, count, weights if weighted else None)
    for row, counts, found in zip(values, weights, levels):
        code = np.searchsorted((found[1:] + found[:-1]) / 2, row)
        sums, masses = (np.bincount(code, x, count) for x in (row * counts, counts))
        np.testing.assert_allclose(found, sums / masses, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 2**20), st.sampled_from([300, 2000]), st.integers(2, 6), st.sampled_from([1, 3]))
def test_a_round_of_lloyd_never_raises_the_error(seed, size, count, rows):
    values = draws("t3", (rows, size), seed)
    levels = np.sort(np.random.default_rng(seed).choice(values, (count,), axis=1).astype(np.float64), axis=1)
    for row, start, end in zip(values, levels, lloyd(SortedRows(values), levels)):
        assert error(row, end) <= error(row, start) * (1 + 1e-6)


KINDS = {
    "gauss": lambda rng, size: rng.standard_normal(size), "t3": lambda rng, size: rng.standard_t(3, size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size), "exponential": lambda rng, size: rng.exponential(size=size),
    "two heaps": lambda rng, size: rng.choice([-1.0, 1.0], size) + 0.05 * rng.standard_normal(size),
    "sparse": lambda rng, size: rng.standard_normal(size) * (rng.uniform(size=size) < 0.1),
    "few values": lambda rng, size: rng.integers(-3, 4, size) / 7,
    "lognormal": lambda rng, size: rng.choice([-1.0, 1.0], size) * rng.lognormal(sigma=2, size=size),
    "edges": lambda rng, size: np.where(rng.uniform(size=size) < 0.002, rng.uniform(-1, 1, size),
                                        rng.choice([-1.0, 1.0], size)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_no_other_levels_are_better(kind, bits):
    values = KINDS[kind](np.random.default_rng(4), 20000).astype(np.float32)
    found = error(values, optimal_levels(values[None], 2**bits)[0])
    low, high = values.min(), values.max()
    others = [kmeans_levels(values, bits, partition, retention)
              for partition in ("width", "count") for retention in (0.9, 1.0)]
    others.append(low + (np.arange(2**bits) + 0.5) / 2**bits * (high - low))
    assert found <= min(error(values, levels) for levels in others) * (1 + 1e-9)


@pytest.mark.parametrize("far", [1e6, -1e6])
@pytest.mark.parametrize("kind", ["gauss", "t3"])
@pytest.mark.parametrize("count", [3, 7, 15, 63, 127])
def test_a_far_outlier_costs_no_more_than_one_level(kind, far, count):
    values = draws(kind, 1 << 16, seed=5)
    alone = error(values, optimal_levels(values[None], count)[0])
    values[77] = 0.02 * far
    assert error(values, optimal_levels(values[None], count + 1)[0]) <= (1.001 if count < 32 else 1.05) * alone


@pytest.mark.parametrize("far", [1e6, -1e6])
@pytest.mark.parametrize("count", [3, 7, 15])
def test_nor_does_it_in_a_channel(far, count):
    values = draws("gauss", (64, 576), seed=6)
    alone = sum(map(error, values, optimal_levels(values, count)))
    values[:, 3] = 0.02 * far
    assert sum(map(error, values, optimal_levels(values, count + 1))) <= 1.03 * alone


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_weights_that_are_on_levels_already_stay(rows, bits):
    generator = np.random.default_rng(bits)
    table = np.sort(generator.standard_normal((rows, 2**bits)).astype(np.float32), axis=1)
    codes = np.concatenate([np.tile(np.arange(2**bits), (rows, 1)), generator.integers(0, 2**bits, (rows, 3000))],
                           axis=1)
    values = np.take_along_axis(table, codes, axis=1)
    levels = optimal_levels(values, 2**bits)
    if rows == 1 and bits < 7:
        np.testing.assert_allclose(levels, table, rtol=0, atol=1e-9)
    # Of levels that lie very close, cells in few places or in many rows may miss one.
    assert sum(map(error, values, levels)) < 0.2 * values.size * 2.72 / 4**bits


@pytest.mark.parametrize("size", [1, 2, 9, 15, 16])
def test_of_fewer_values_than_levels_all_are_levels(size):
    values = draws("t3", (5, size))
    levels = optimal_levels(values, 16)
    for row, found in zip(values.astype(np.float64), levels):
        assert set(row) <= set(found)
        assert (np.diff(found) > 0).all() or size == 1
    assert (optimal_levels(np.full((2, size), 0.3, np.float32), 16) == np.float32(0.3)).all()


def test_many_equal_values_repeat_levels():
    values = np.repeat([-2.0, 0.0, 0.5], 400)[None]
    levels = optimal_levels(values, 8)[0]
    assert error(values[0], levels) == 0 and set(levels) == {-2.0, 0.0, 0.5}
    assert (optimal_levels(np.zeros((1, 3000), np.float32), 4) == 0).all()


@pytest.mark.parametrize("rows, size", [(1, 400), (1, 3000), (6, 30), (6, 900)])
def test_weights_that_are_whole_count_values_so_often(rows, size):
    values = draws("gauss", (rows, size), seed=8).astype(np.float64)
    times = np.random.default_rng(8).integers(0, 4, (rows, size))
    times[:, -1] += 3 * size - times.sum(1)  # the same number of values in all rows
    repeated = np.stack([np.repeat(row, count) for row, count in zip(values, times)])
    one, other = optimal_levels(values, 8, times.astype(np.float64)), optimal_levels(repeated, 8)
    for i in range(rows):
        first, second = error(values[i], one[i], times[i]), error(repeated[i], other[i])
        assert first <= 1.01 * second and second <= 1.01 * first


@pytest.mark.parametrize("count", [4, 16, LARGEST_SEARCH, 256])
def test_rows_are_independent_and_may_come_in_any_number(count):
    values = draws("t3", (300, 40), seed=9)
    together = optimal_levels(values, count)
    np.testing.assert_array_equal(together[:2], optimal_levels(values[:2], count))
    np.testing.assert_array_equal(together[::-1], optimal_levels(values[::-1].copy(), count))
    np.testing.assert_allclose(optimal_levels(values * 1024, count), together * 1024, rtol=1e-12)
