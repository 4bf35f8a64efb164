"""Drift, flips, costs and reliability against trials that are written out as often as their speakers were drawn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.analysis.score_measures import costs, drift, flip_shares, flipped, flips, reliability_bins
from svq.backend import metrics
from svq.backend.bootstrap import SpeakerSamples

THRESHOLD = 0.6


@pytest.fixture(scope="module")
def place():
    """Samples of five speakers' trials, float scores, quantized scores, and a subset."""
    rng = np.random.default_rng(5)
    enroll, test = rng.integers(0, 5, (2, 300))
    target = enroll == test
    reference = rng.normal(size=300) + 1.5 * target
    score = 0.8 * reference + 0.1 + rng.normal(0, 0.4, 300)
    return SpeakerSamples(target, enroll, test, 4, seed=2), reference, score, rng.random(300) < 0.7


def written_out(samples, draw, *columns):
    """Every trial as often as draw number `draw` weighs it: target, then the columns."""
    weight = np.concatenate(list(samples.weights()))[draw][samples.cell].astype(int)
    return [np.repeat(column, weight) for column in (samples.target, *columns)]


@pytest.mark.parametrize("draw", range(5))
def test_drift(place, draw):
    samples, reference, score, rows = place
    found = drift(samples, score, reference, rows)
    target, q, f, kept = written_out(samples, draw, score, reference, rows)
    for name, part in (("target", target & kept), ("nontarget", ~target & kept)):
        moved = (q - f)[part]
        slow = {"bias": moved.mean(), "spread": moved.std(), "rms": np.sqrt(np.mean(moved ** 2)),
                "slope": np.polyfit(f[part], q[part], 1)[0]}
        for measure, value in slow.items():
            assert found[f"{measure}_{name}"][draw] == pytest.approx(value), (measure, name)


def test_a_draw_of_one_trial_has_no_slope():
    """However often it was drawn: rounding must not make a line of it."""
    rng, target = np.random.default_rng(0), np.arange(8) < 5
    enroll, test = [0, 1, 2, 3, 4, 0, 2, 1], [0, 1, 2, 3, 4, 1, 3, 4]
    samples, reference, rows = SpeakerSamples(target, enroll, test, 500), rng.normal(size=8), np.arange(8) < 7
    found = drift(samples, reference + rng.normal(size=8), reference, rows)["slope_nontarget"]
    trials = sum(samples.draws[:, a] * samples.draws[:, b] > 0 for a, b in ((0, 1), (2, 3)))
    assert (np.isnan(found) == (trials < 2)).all() and 0 < (trials == 1).sum()


@pytest.mark.parametrize("draw", range(5))
def test_flips(place, draw):
    samples, reference, score, rows = place
    found = flips(samples, score, reference, THRESHOLD, rows)
    target, q, f, kept = (column.tolist() for column in written_out(samples, draw, score, reference, rows))
    counts, sizes = {}, {True: 0, False: 0}
    for is_target, low, full in ((t, a, b) for t, a, b, k in zip(target, q, f, kept) if k):
        sizes[is_target] += 1
        was, now = (full >= THRESHOLD) == is_target, (low >= THRESHOLD) == is_target
        if was != now:
            key = "harmful" if was else "beneficial", is_target
            counts[key] = counts.get(key, 0) + 1
    for kind in ("harmful", "beneficial"):
        both = [counts.get((kind, side), 0) for side in (True, False)]
        assert found[kind][draw] == pytest.approx(100 * sum(both) / sum(sizes.values()))
        assert found[f"{kind}_target"][draw] == pytest.approx(100 * both[0] / sizes[True])
        assert found[f"{kind}_nontarget"][draw] == pytest.approx(100 * both[1] / sizes[False])


@pytest.mark.parametrize("draw", range(5))
def test_net_flips_are_the_rise_of_the_half_total_error_rate(place, draw):
    samples, reference, score, _ = place
    target, q, f = written_out(samples, draw, score, reference)
    rate = [50 * (np.mean(s[target] < THRESHOLD) + np.mean(s[~target] >= THRESHOLD)) for s in (q, f)]
    found = flips(samples, score, reference, THRESHOLD, np.ones(300, bool))
    assert found["net"][draw] == pytest.approx(rate[0] - rate[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.floats(-2, 2))
def test_a_flip_is_harmful_or_beneficial_and_changes_the_decision(seed, threshold):
    rng = np.random.default_rng(seed)
    target, reference, score = rng.random(50) < 0.5, rng.normal(size=50), rng.normal(size=50)
    harmful, beneficial = flipped(target, score, reference, threshold)
    assert not (harmful & beneficial).any()
    assert ((harmful | beneficial) == ((score >= threshold) != (reference >= threshold))).all()


def test_shares_of_flips_add_up(place):
    samples, reference, score, rows = place
    one, other = (flip_shares(samples, score, reference, THRESHOLD, part) for part in (rows, ~rows))
    for kind in ("harmful_share", "beneficial_share"):
        assert one[kind] + other[kind] == pytest.approx(np.full(5, 100.0))


@pytest.mark.parametrize("draw", range(5))
def test_costs(place, draw):
    samples, reference, _, rows = place
    found = costs(samples, reference, 0.2, 3.0, 1.0, rows)
    target, llr, kept = written_out(samples, draw, reference, rows)
    sides = llr[target & kept], llr[~target & kept]
    assert found["cllr"][draw] == pytest.approx(metrics.cllr(*sides))
    assert found["actdcf"][draw] == pytest.approx(metrics.act_dcf(*sides, 0.2, 3.0, 1.0))


def test_identical_scores_neither_drift_nor_flip(place):
    samples, reference, _, rows = place
    found = drift(samples, reference, reference, rows) | flips(samples, reference, reference, 0.1, rows)
    for name, values in found.items():
        assert values.tolist() == [1.0 if name.startswith("slope") else 0.0] * 5, name


def test_a_shift_and_a_stretch_are_told_apart(place):
    samples, reference, _, rows = place
    shifted, stretched = (drift(samples, score, reference, rows) for score in (reference + 0.25, 2 * reference))
    assert shifted["bias_target"] == pytest.approx(np.full(5, 0.25))
    assert shifted["spread_target"] == pytest.approx(np.zeros(5), abs=1e-7)
    assert shifted["slope_nontarget"] == pytest.approx(np.ones(5))
    assert stretched["slope_nontarget"] == pytest.approx(np.full(5, 2.0))


def test_nothing_to_average_is_not_a_number(place):
    samples, reference, score, _ = place
    found = flips(samples, score, reference, 0.0, samples.target)
    assert np.isnan(found["harmful_nontarget"]).all() and not np.isnan(found["harmful_target"]).any()


def test_reliability_bins_by_hand():
    target = np.array([True, True, True, False, False, False])
    llr = np.array([1.5, 1.7, -0.5, 1.6, -0.4, -9.0])
    samples = SpeakerSamples(target, [0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0], 0)
    bins = reliability_bins(samples, llr)
    assert [(point.targets, point.nontargets) for point in bins] == [(0, 1), (1, 1), (2, 1)]
    assert [point.observed for point in bins] == pytest.approx([math.log(0.5 / 1.5), 0, math.log(2.5 / 1.5)])
    assert [point.stated for point in bins] == pytest.approx([-9, -0.45, 1.6])
    assert all(math.isnan(point.low) for point in bins)


def test_true_log_likelihood_ratios_lie_on_the_diagonal():
    rng = np.random.default_rng(0)
    target = np.arange(40000) < 20000
    llr = 2 * (rng.normal(size=40000) + 2 * target) - 2  # of N(2, 1) against N(0, 1)
    speakers = rng.integers(0, 50, (2, 40000))
    speakers[1, target] = speakers[0, target]
    for point in reliability_bins(SpeakerSamples(target, *speakers, 50), llr):
        if min(point.targets, point.nontargets) > 200:
            assert point.observed == pytest.approx(point.stated, abs=0.2)
            assert point.low < point.observed < point.high
