"""The search for the nearest level, and the scale of least squares."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svq.quant.levels import apot_levels, kmeans_levels, pot_levels, uniform_levels
from svq.quant.nearest import FEW, PIECE, SOME, bucketize, count_below, least_squares_scale, look_up, midpoints

finite = st.floats(-4, 4, width=32)
rows_of_thresholds = st.integers(1, 40).flatmap(
    lambda count: st.lists(st.lists(finite, min_size=count, max_size=count).map(sorted), min_size=1, max_size=4))


@given(rows_of_thresholds, st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_bucketize_is_exactly_the_search(thresholds, seed, unit):
    thresholds = (torch.tensor(thresholds) * unit).float()
    random = torch.randn(len(thresholds), 5000, generator=torch.Generator().manual_seed(seed)) * 3 * unit
    up, down = torch.tensor(float("inf")), torch.tensor(-float("inf"))
    odd = torch.tensor([0.0, -0.0, 3e38, -3e38, float("inf"), -float("inf")]).expand(len(thresholds), -1)
    x = torch.cat([random, thresholds, thresholds.nextafter(up), thresholds.nextafter(down), odd], 1)
    expected = torch.searchsorted(thresholds, x, out_int32=True)
    torch.testing.assert_close(bucketize(x, thresholds), expected, rtol=0, atol=0)


@pytest.mark.parametrize("rows, columns", [(1, 2 * PIECE + 77), (700, 200), (3, PIECE + 1)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_bucketize_on_real_thresholds_over_many_pieces(bits, rows, columns):
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(bits)) * 0.02
    thresholds = midpoints(torch.from_numpy(kmeans_levels(x.numpy(), bits, per_channel=True)).float())
    expected = [np.searchsorted(t, row, side="left") for t, row in zip(thresholds.numpy(), x.numpy())]
    np.testing.assert_array_equal(bucketize(x, thresholds).numpy(), expected)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_bucketize_between_powers_of_two(bits):
    """Half of their thresholds share a cell of an even grid."""
    levels = torch.from_numpy(pot_levels(bits)).float()
    thresholds = midpoints(levels)[None]
    x = torch.cat([torch.randn(9000, generator=torch.Generator().manual_seed(bits)), levels, thresholds[0],
                   torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e38, float("inf"), -float("inf")])])[None]
    expected = np.searchsorted(thresholds[0].numpy(), x[0].numpy(), side="left")
    np.testing.assert_array_equal(bucketize(x, thresholds)[0].numpy(), expected)


@pytest.mark.parametrize("count", [1, 3, 15])
def test_a_weight_that_is_no_number_does_not_crash_the_search(count):
    x = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    x[1, 7] = float("nan")
    assert 0 <= int(bucketize(x, torch.linspace(-1, 1, count).expand(2, -1))[1, 7]) <= count


@given(st.permutations(range(4)), st.booleans(), st.integers(2, 20))
def test_any_memory_layout_gives_the_same_codes_and_values(order, per_channel, count):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(5, 3, 2, 4, generator=generator)
    table = torch.randn(5, count, generator=generator).sort(1).values
    table = table if per_channel else table[0]
    turned = w.permute(order).contiguous().permute([order.index(d) for d in range(4)])
    assert torch.equal(turned, w)
    codes = count_below(turned, midpoints(table))
    expected = [count_below(channel, midpoints(table[i] if per_channel else table)) for i, channel in enumerate(w)]
    assert torch.equal(codes, torch.stack(expected))
    values = look_up(table, codes)
    rows = table[:, None].expand(5, 24, count) if per_channel else table.expand(5, 24, count)
    assert torch.equal(values.flatten(1), rows.gather(2, codes.flatten(1).long()[..., None])[..., 0])


def error(w, levels, alpha):
    return float((w[:, None] - alpha * levels).abs().amin(1).square().sum())


@pytest.mark.parametrize("shape", ["normal", "heavy"])
@pytest.mark.parametrize("level_set", [uniform_levels, pot_levels, apot_levels])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_scale_is_near_the_best_of_all(level_set, bits, shape):
    random = np.random.default_rng(bits)
    w = torch.from_numpy(random.normal(size=1500) if shape == "normal" else random.standard_t(3, size=1500)) * 0.02
    levels = torch.from_numpy(level_set(bits))
    alpha = least_squares_scale(w, levels)
    tried = min(error(w, levels, a) for a in torch.linspace(0.002, 1.1, 1000, dtype=torch.float64) * w.abs().max())
    assert error(w, levels, alpha) <= 1.05 * tried


def test_scale_of_one_bit_is_the_mean_magnitude():
    w = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(least_squares_scale(w, torch.tensor([-1.0, 1.0]).double()), w.abs().mean())


def test_scale_of_a_channel_is_that_of_the_channel_alone_whatever_its_unit():
    w = torch.randn(4, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w = w * torch.tensor([1e-6, 0.02, 3.0, 0.0]).double().view(4, 1, 1, 1)
    levels = torch.from_numpy(uniform_levels(3))
    together = least_squares_scale(w, levels, per_channel=True)
    torch.testing.assert_close(together, torch.stack([least_squares_scale(channel, levels) for channel in w]))
    assert together[3] == 1


@pytest.mark.parametrize("place, width, sampled", [((0, 0), 64, FEW), ((1, 2), 64, FEW), ((1, 1), 192, SOME)])
def test_scale_of_many_weights_is_tried_on_some_of_every_position_in_a_kernel(place, width, sampled):
    w = torch.randn(width, width, 3, 3, generator=torch.Generator().manual_seed(0))
    w[:, :, *place] *= 20
    assert w.numel() > sampled and w.numel() % 9 == 0
    levels, flat = torch.from_numpy(uniform_levels(3)).float(), w.flatten()
    tried = min(error(flat, levels, a) for a in torch.linspace(0.05, 1.1, 60) * w.abs().max())
    assert error(flat, levels, least_squares_scale(w, levels)) <= 1.02 * tried
