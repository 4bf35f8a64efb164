"""Rank correlations, their intervals and permutation tests against scipy; distortion and shares against slow loops."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.analysis.layer_measures import (
    change,
    coefficients,
    correlate,
    distortion,
    pair_features,
    permutation_p,
    pooled,
    rank_features,
    share,
)

RANK = [(rank_features, scipy.stats.spearmanr), (pair_features, scipy.stats.kendalltau)]
values = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=12)  # few values: many ties


@pytest.mark.parametrize("features, reference", RANK)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_coefficients_are_those_of_scipy(features, reference, data):
    x = np.array(data.draw(values))
    y = np.array(data.draw(st.lists(st.lists(st.integers(-4, 4).map(float), min_size=len(x), max_size=len(x)),
                                    min_size=1, max_size=3)))
    found = coefficients(features, x, y)
    if len(set(x)) == 1:
        assert np.isnan(found).all()
        return
    expected = [reference(x, row).statistic if len(set(row)) > 1 else np.nan for row in y]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("features, reference", RANK)
@pytest.mark.parametrize("x, y", [
    ([1, 2, 3, 4, 5], [1, 3, 2, 5, 4]), ([1, 2, 2, 4, 5, 6], [3, 3, 1, 2, 6, 5]), ([1, 2, 3], [3, 2, 1])])
def test_small_permutation_tests_are_exact(features, reference, x, y):
    x, y = np.array(x, float), np.array(y, float)
    found = abs(reference(x, y).statistic)
    all_of_them = [abs(reference(x, np.array(order)).statistic) for order in itertools.permutations(y)]
    expected = np.mean([value >= found - 1e-12 for value in all_of_them])
    assert permutation_p(features, x, y, 5040) == pytest.approx(expected)
    assert expected < 1 and expected > 0


@pytest.mark.parametrize("features, reference", RANK)
def test_drawn_permutations_come_near_the_exact_test(features, reference):
    rng = np.random.default_rng(3)
    x = rng.normal(size=12)
    y = x + rng.normal(size=12)
    exact = reference(x, y).pvalue if reference is scipy.stats.kendalltau else scipy.stats.permutation_test(
        (y,), lambda z: scipy.stats.spearmanr(x, z).statistic, permutation_type="pairings", n_resamples=600,
        rng=np.random.default_rng(0)).pvalue
    found = permutation_p(features, x, y, 9999, seed=1)
    assert found == pytest.approx(exact, rel=0.35, abs=0.005)
    assert found == permutation_p(features, x, y, 9999, seed=1) != permutation_p(features, x, y, 9999, seed=2)
    assert permutation_p(features, x, x, 9999) == 1 / 10000
    assert math.isnan(permutation_p(features, np.ones(4), np.arange(4.0), 99))


def test_intervals_are_those_of_a_slow_loop():
    rng = np.random.default_rng(5)
    x = rng.normal(size=9)
    loss = x + rng.normal(size=9)
    samples = loss[:, None] + 0.3 * rng.normal(size=(9, 41))
    samples[:, 7] = 1.0  # a resampling that tells nothing
    found = correlate(x, loss, samples, 99)
    good = [row for row in samples.T if len(set(row)) > 1]
    for name, reference in (("spearman", scipy.stats.spearmanr), ("kendall", scipy.stats.kendalltau)):
        each = [reference(x, row).statistic for row in good]
        coefficient = getattr(found, name)
        assert coefficient.value == pytest.approx(reference(x, loss).statistic)
        assert (coefficient.low, coefficient.high) == pytest.approx(tuple(np.quantile(each, [0.025, 0.975])))
    left = [1 - scipy.stats.spearmanr(x, row).statistic ** 2 for row in good]
    assert found.unexplained == pytest.approx(1 - scipy.stats.spearmanr(x, loss).statistic ** 2)
    assert (found.unexplained_low, found.unexplained_high) == pytest.approx(tuple(np.quantile(left, [0.025, 0.975])))
    pairs = [scipy.stats.spearmanr(samples[:, i], samples[:, i + 1]).statistic for i in range(0, 40, 2) if i != 6]
    assert found.repeatable == pytest.approx(np.mean(pairs))
    nothing = correlate(x, loss, np.empty((9, 0)), 99)
    assert nothing.spearman.value == found.spearman.value and math.isnan(nothing.spearman.low)
    assert math.isnan(nothing.unexplained_low) and math.isnan(nothing.repeatable)


@given(st.lists(st.tuples(st.floats(-10, 10, width=32), st.floats(-10, 10, width=32)), min_size=1, max_size=20),
       st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_distortion_of_parts_adds_up_to_that_of_the_whole(pairs, cut):
    w, q = (torch.tensor(each, dtype=torch.float32) for each in zip(*pairs))
    whole, halves = distortion(w, q), pooled([distortion(w[:cut], q[:cut]), distortion(w[cut:], q[cut:])])
    assert whole.weights == halves.weights == len(pairs)
    assert halves.error == pytest.approx(whole.error, rel=1e-12) and halves.energy == pytest.approx(whole.energy)
    error = math.fsum((float(b) - float(a)) ** 2 for a, b in zip(w, q))
    energy = math.fsum(float(a) ** 2 for a in w)
    assert whole.error == pytest.approx(error)
    if energy > 1e-12 and error > 1e-12:
        assert whole.relative_mse == pytest.approx(error / energy)
        assert whole.sqnr == pytest.approx(10 * math.log10(energy / error))
        assert 10 ** (-halves.sqnr / 10) == pytest.approx(whole.relative_mse)


def test_distortion_of_a_uniform_quantizer_is_that_of_the_textbook():
    """Step D on uniform weights leaves an error of D^2 / 12: 6.02 dB a bit."""
    w = torch.linspace(-1, 1, 200001, dtype=torch.float64)
    for bits in (2, 3, 4):
        step = 2 / 2**bits
        q = ((w / step).floor().clamp(-2**bits / 2, 2**bits / 2 - 1) + 0.5) * step
        assert distortion(w, q).sqnr == pytest.approx(20 * bits * math.log10(2), abs=0.01)
    assert distortion(w, 2 * w).cosine == pytest.approx(1) and distortion(w, -w).cosine == pytest.approx(-1)
    assert distortion(w, w).sqnr == math.inf and math.isnan(distortion(0 * w, w).relative_mse)


@pytest.mark.parametrize("positive, known", [(40, True), (39, True), (38, False)])
def test_shares_only_of_a_loss_that_is_there(positive, known):
    rng = np.random.default_rng(positive)
    whole, kept, origin = 3 + rng.random(40), 2 + rng.random(40), rng.random(40)
    origin[:40 - positive] = whole[:40 - positive] + 1
    found = share(change(3, 2, whole, kept), change(3, 1, whole, origin))
    if not known:
        assert math.isnan(found.value) and math.isnan(found.low)
        return
    ratios = [(a - b) / (a - c) for a, b, c in zip(whole, kept, origin) if a > c]
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))
    assert math.isnan(share(change(1, 2, kept, whole), change(1, 2, kept, whole)).value)
    bare = share(change(3, 2, np.empty(0), np.empty(0)), change(3, 1, np.empty(0), np.empty(0)))
    assert bare.value == 0.5 and math.isnan(bare.low)
