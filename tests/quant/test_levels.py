"""Levels against slow renderings of the paper, with exact fractions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from svq.quant.levels import (
    apot_levels,
    kmeans_levels,
    pot_levels,
    rescale_asymmetric,
    rescale_symmetric,
    uniform_levels,
)
from tests.quant.clusters import error, search


def kept_of(weights, retention):
    """Section III-B, step 1: the sorted weights without the tails."""
    ordered = sorted(Fraction(w) for w in weights)
    tail = round(len(ordered) * (1.0 - retention) / 2.0)
    return ordered[tail:len(ordered) - tail]


def slow_widths(kept, count):
    """Step 1: cut the range evenly. Step 2: each interval's mean, or its centre if empty."""
    low, width = kept[0], (kept[-1] - kept[0]) / count
    levels = []
    for i in range(count):
        left, right = low + i * width, low + (i + 1) * width
        last = i == count - 1
        inside = [w for w in kept if left <= w and (w < right or last)]
        levels.append(sum(inside) / len(inside) if inside else (left + right) / 2)
    return levels


def slow_counts(kept, count):
    """Step 1 read in the other way: as many weights in each part, up to one; of few weights some count twice."""
    parts = [kept[i * len(kept) // count:(i + 1) * len(kept) // count] or [kept[i * len(kept) // count]]
             for i in range(count)]
    return [sum(part) / len(part) for part in parts]


SLOW = {"width": slow_widths, "count": slow_counts}
PARTITIONS = [*SLOW, "lloyd"]

# Multiples of 2^-16: interval edges are exact in float64, so that ties at an edge agree with the fractions.
weights = st.lists(st.integers(-2**18, 2**18).map(lambda i: i / 2**16), min_size=1, max_size=300)


def slow_levels(values, bits, partition, retention):
    return np.array([float(level) for level in SLOW[partition](kept_of(values, retention), 2**bits)])


@given(weights, st.integers(1, 8), st.sampled_from([*SLOW]), st.sampled_from([1.0, 0.9, 0.8]))
def test_levels_are_those_of_the_paper(values, bits, partition, retention):
    levels = kmeans_levels(np.array(values), bits, partition, retention)
    np.testing.assert_allclose(levels, slow_levels(values, bits, partition, retention), rtol=1e-12, atol=1e-12)


@given(weights, st.integers(1, 4), st.sampled_from([1.0, 0.9, 0.8]))
def test_levels_of_lloyd_leave_the_least_squared_error(values, bits, retention):
    levels = kmeans_levels(np.array(values), bits, "lloyd", retention)
    kept = np.array([float(w) for w in kept_of(values, retention)])
    assert error(kept, levels) <= search(kept, 2**bits)[-1] * (1 + 1e-9) + 1e-18 * len(kept)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("retention", [1.0, 0.9, 0.8])
@pytest.mark.parametrize("partition", PARTITIONS)
def test_levels_of_bell_shaped_weights(partition, bits, retention):
    values = np.random.default_rng(bits).normal(0.001, 0.02, (20, 15, 3, 3)).astype(np.float32)
    levels = kmeans_levels(values, bits, partition, retention)
    if partition != "lloyd":
        expected = slow_levels(values.ravel().tolist(), bits, partition, retention)
        np.testing.assert_allclose(levels, expected, rtol=1e-9, atol=1e-12)
    elif bits == 3:
        kept = np.array([float(w) for w in kept_of(values.ravel().tolist(), retention)])
        assert error(kept, levels) <= 1.002 * search(kept, 2**bits)[-1]
    assert levels.shape == (2**bits,) and (np.diff(levels) > 0).all()
    assert np.quantile(values, (1 - retention) / 2 - 1e-3 if retention < 1 else 0) <= levels[0]


@pytest.mark.parametrize("partition, retention", [("width", 0.9), ("count", 0.9), ("lloyd", 1.0)])
def test_what_is_kept_unless_said(partition, retention):
    values = np.random.default_rng(0).standard_t(3, 2000)
    np.testing.assert_array_equal(kmeans_levels(values, 3, partition), kmeans_levels(values, 3, partition, retention))
    assert (kmeans_levels(values, 3) == kmeans_levels(values, 3, "lloyd", 1.0)).all()


@given(weights, st.integers(1, 8), st.sampled_from(PARTITIONS), st.floats(0.01, 1.0))
def test_levels_ascend_and_stay_among_the_weights(values, bits, partition, retention):
    levels = kmeans_levels(np.array(values), bits, partition, retention)
    assert (np.diff(levels) >= 0).all()
    assert min(values) <= levels[0] and levels[-1] <= max(values)


def test_outliers_do_not_stretch_the_levels():
    values = np.concatenate([np.linspace(-1, 1, 1000), [-50.0, 50.0]])
    for partition in PARTITIONS:
        assert np.abs(kmeans_levels(values, 4, partition, 0.9)).max() < 1
    assert np.abs(kmeans_levels(values, 4, "width", 1.0)).max() == 50
    levels = kmeans_levels(values, 4)
    assert levels[[0, -1]].tolist() == [-50, 50] and np.diff(levels[1:-1]).max() < 0.15


def test_an_empty_interval_gets_its_centre():
    np.testing.assert_allclose(kmeans_levels(np.array([0.0, 0.1, 4.0]), 2, "width", 1.0), [0.05, 1.5, 2.5, 4.0])


@pytest.mark.parametrize("partition", PARTITIONS)
def test_equal_weights_give_equal_levels(partition):
    np.testing.assert_array_equal(kmeans_levels(np.full(10, 0.3), 3, partition), np.full(8, 0.3))
    np.testing.assert_array_equal(kmeans_levels(np.zeros(1), 1, partition), np.zeros(2))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_tiny_layer_keeps_its_middle(partition):
    np.testing.assert_array_equal(kmeans_levels(np.array([-9.0, 1, 2, 9]), 1, partition, 0.001), [1, 2])


@given(weights, st.integers(1, 8))
def test_symmetric_rescaling_keeps_zero_and_proportions(values, bits):
    levels = kmeans_levels(np.array(values), bits)
    scaled, alpha = rescale_symmetric(levels)
    assume(np.abs(levels).max() > 0)
    assert np.abs(scaled).max() == 1 and alpha > 0
    np.testing.assert_allclose(scaled * alpha, levels, rtol=1e-15, atol=0)


def test_zeros_keep_scale_one():
    scaled, alpha = rescale_symmetric(np.zeros(4))
    assert alpha == 1.0 and not scaled.any()


@pytest.mark.parametrize("partition", [*SLOW])
def test_a_channel_has_the_levels_it_would_have_alone(partition):
    values = np.random.default_rng(3).normal(0, [[0.02], [0.5], [0.1], [0]], (4, 90)).reshape(4, 10, 3, 3)
    for bits in range(1, 9):
        together = kmeans_levels(values, bits, partition, 0.9, per_channel=True)
        np.testing.assert_array_equal(together, [kmeans_levels(channel, bits, partition, 0.9) for channel in values])


def test_of_lloyd_they_may_be_a_little_worse():
    """Many rows are searched less finely than one."""
    values = np.random.default_rng(3).normal(0, [[0.02], [0.5], [0.1], [0]], (4, 90)).reshape(4, 10, 3, 3)
    for bits in range(1, 9):
        together = sum(map(error, values.reshape(4, -1), kmeans_levels(values, bits, per_channel=True)))
        assert together <= 1.1 * sum(error(channel.ravel(), kmeans_levels(channel, bits)) for channel in values)


@given(weights, st.integers(1, 8))
def test_asymmetric_rescaling_is_eq_6_and_undone_by_alpha_and_centre(values, bits):
    levels = kmeans_levels(np.array(values), bits)
    scaled, alpha, centre = rescale_asymmetric(levels)
    np.testing.assert_allclose(alpha * scaled + centre, levels, rtol=1e-14, atol=1e-14)
    assert alpha > 0 and (np.diff(scaled) >= 0).all()
    low, high = levels[0], levels[-1]
    if high > low:
        np.testing.assert_allclose(scaled, (levels - low) / (high - low) * 2 - 1, rtol=0, atol=1e-9)
        assert scaled[0] == -1 and scaled[-1] == 1


def both_signs(magnitudes):
    return sorted({sign * Fraction(m) for m in magnitudes for sign in (-1, 1)} | {Fraction(0)})


def powers(*exponents):
    return [Fraction(0), *(Fraction(1, 2**e) for e in exponents)]


# Li et al.'s terms: the exponents of every summand that may also be 0, by bits.
APOT_TERMS = {
    2: [powers(1)],
    3: [powers(1, 2, 3)],
    4: [powers(1, 2, 4), powers(3)],
    5: [powers(1, 3, 5), powers(2, 4, 6)],
    6: [powers(1, 3, 6), powers(2, 4, 7), powers(5)],
    7: [powers(1, 4, 7), powers(2, 5, 8), powers(3, 6, 9)],
    8: [powers(1, 4, 8), powers(2, 5, 9), powers(3, 6, 10), powers(7)],
}


@pytest.mark.parametrize("bits", range(2, 9))
def test_fixed_levels_are_those_of_equations_1_to_3(bits):
    half = 2 ** (bits - 1)
    uniform = both_signs(Fraction(i, half - 1) for i in range(1, half))
    # Eq. 2 without its smallest magnitude, 2^(-2^(n-1) + 1), for which n bits have no code.
    pot = both_signs(Fraction(1, 2**i) for i in range(half - 1))
    sums = [sum(terms) for terms in itertools.product(*APOT_TERMS[bits])]
    apot = both_signs(total / max(sums) for total in sums)
    for levels, expected in [(uniform_levels, uniform), (pot_levels, pot), (apot_levels, apot)]:
        assert len(expected) == 2**bits - 1
        np.testing.assert_allclose(levels(bits), [float(level) for level in expected], rtol=1e-15, atol=0)


def test_levels_of_four_bits_written_out():
    steps = np.array([1, 2, 3, 4, 6, 8, 10]) / 10
    np.testing.assert_allclose(apot_levels(4)[8:], steps, rtol=1e-15)
    np.testing.assert_array_equal(pot_levels(4)[8:], 2.0 ** np.arange(-6, 1))
    np.testing.assert_array_equal(uniform_levels(4) * 7, np.arange(-7, 8))


@pytest.mark.parametrize("levels", [uniform_levels, pot_levels, apot_levels])
def test_one_bit_has_both_signs_and_no_zero(levels):
    assert levels(1).tolist() == [-1, 1]
