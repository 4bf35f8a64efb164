"""Which rung settles a trial, whatever the deltas; what that is worth, against the plain metrics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from svq.backend import metrics
from svq.backend.bootstrap import SpeakerSamples, speaker_bootstrap
from svq.cascade.evaluate import MEASURES, Point, measured
from svq.cascade.ladder import pure, random_rungs, reached, settle, settled_values

number = st.floats(-5, 5, width=16)  # coarse: ties with the threshold and with a delta do occur
delta = st.one_of(st.floats(0, 5, width=16), st.just(np.inf))
ladders = st.integers(2, 4).flatmap(lambda rungs: st.tuples(
    arrays(np.float64, (rungs, 12), elements=number), number, st.lists(delta, min_size=rungs - 1, max_size=rungs - 1)))


@given(ladders)
def test_identical_systems_decide_as_the_last(ladder):
    values, threshold, deltas = ladder
    values = np.repeat(values[-1:], len(values), axis=0)
    kept = settled_values(values, settle(values, threshold, deltas))
    assert ((kept >= threshold) == (values[-1] >= threshold)).all()


@given(ladders, st.data())
def test_escalation_is_monotone_in_every_delta(ladder, data):
    values, threshold, deltas = ladder
    which = data.draw(st.integers(0, len(deltas) - 1))
    wider = list(deltas)
    wider[which] += data.draw(st.floats(0, 3, width=16))
    narrow, wide = (reached(settle(values, threshold, d), len(values)) for d in (deltas, wider))
    assert (wide >= narrow).all()


@given(ladders)
def test_as_a_loop_over_trials(ladder):
    values, threshold, deltas = ladder
    for i, rung in enumerate(settle(values, threshold, deltas)):
        expected = next((r for r, d in enumerate(deltas) if abs(values[r, i] - threshold) > d), len(deltas))
        assert rung == expected


@given(ladders, st.integers(0, 3))
def test_the_control_escalates_as_many(ladder, seed):
    values, threshold, deltas = ladder
    rung = settle(values, threshold, deltas)
    drawn = random_rungs(rung, len(values), np.random.default_rng(seed))
    assert np.bincount(drawn, minlength=9).tolist() == np.bincount(rung, minlength=9).tolist()


def test_ends_of_delta():
    values = np.array([[-np.inf, 0.0, 1.0, np.nan, np.inf], [0, 0, 0, 0, 0]])
    assert settle(values, 0.0, [0.0]).tolist() == [0, 1, 0, 1, 0]
    assert settle(values, 0.0, [np.inf]).tolist() == [1] * 5
    assert pure(2, 3, 1).tolist() == [[False, False], [True, True], [False, False]]
    with pytest.raises(ValueError, match="2 deltas for 2 rungs"):
        settle(values, 0.0, [1, 2])


@pytest.mark.parametrize("point", [Point(0.05, 1.0, 2.0, metrics.bayes_threshold(0.05, 1, 2)),
                                   Point(0.1, 1, 1, 0.3, True)])
def test_measures_are_those_of_the_metrics(point):
    rng = np.random.default_rng(1)
    speakers = rng.integers(0, 8, (2, 400))
    target = speakers[0] == speakers[1]
    values, reference = (rng.normal(2.0 * target, 1.5).round(1) for _ in range(2))
    found = measured(SpeakerSamples(target, *speakers, 30, seed=3), values, reference, point)
    row = dict(zip(MEASURES, found[0]))
    parts = values[target], values[~target]
    costs = point.p_target, point.c_miss, point.c_fa
    assert row["eer"] == pytest.approx(100 * metrics.eer(*parts))
    assert row["mindcf"] == pytest.approx(metrics.min_dcf(*parts, *costs))
    expected = (np.mean(parts[0] < point.threshold) + np.mean(parts[1] >= point.threshold) if point.eer
                else metrics.act_dcf(*parts, *costs))
    assert row["actdcf"] == pytest.approx(expected)
    flips = (values >= point.threshold) != (reference >= point.threshold)
    right = (reference >= point.threshold) == target
    assert row["flips"] == pytest.approx(100 * flips.mean())
    assert row["harmful"] == pytest.approx(100 * (flips & right).mean())
    assert row["beneficial"] == pytest.approx(row["flips"] - row["harmful"])
    resampled = speaker_bootstrap(values, target, *speakers, replicates=30, seed=3)
    np.testing.assert_allclose(found[1:, 0], 100 * resampled.samples)
