"""Resampled speakers: every weighted sum and error rate against trials written out as often as they were drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svq.backend import metrics
from svq.backend.bootstrap import SpeakerSamples, eer_measure, min_cllr_measure, min_dcf_measure, speaker_bootstrap
from svq.errors import UserError

MEASURES = [eer_measure, min_dcf_measure(0.05, 2.0, 1.0), min_cllr_measure]


def a_list(seed=0, speakers=6, trials=400):
    rng = np.random.default_rng(seed)
    enroll, test = rng.integers(0, speakers, (2, trials))
    target = enroll == test
    score = np.round(rng.normal(size=trials) + 1.5 * target, 1)  # rounded: ties
    return score, target, np.array([f"s{i}" for i in enroll]), np.array([f"s{i}" for i in test])


def copies(samples, r, enroll, test, target):
    """How often each trial occurs in draw r, from the names alone."""
    drawn = dict(zip(np.unique(np.concatenate([enroll, test])), samples.draws[r]))
    return np.array([drawn[a] if same else drawn[a] * drawn[b] for a, b, same in zip(enroll, test, target)])


def test_every_measure_is_that_of_trials_written_out():
    score, target, *sides = a_list()
    samples = SpeakerSamples(target, *sides, 5, seed=3)
    found = samples.ranked(score, MEASURES)
    for r in range(6):
        times = copies(samples, r, *sides, target)
        t, n = (np.repeat(score[kind], times[kind]) for kind in (target, ~target))
        assert found[r] == pytest.approx([metrics.eer(t, n), metrics.min_dcf(t, n, 0.05, 2.0), metrics.min_cllr(t, n)])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99))
def test_sums_are_those_of_trials_written_out(seed, kept):
    _, target, *sides = a_list(seed)
    samples = SpeakerSamples(target, *sides, 4, seed)
    rng = np.random.default_rng(kept)
    rows, values = rng.random(len(target)) < 0.4, rng.normal(size=(len(target), 3))
    slow = [copies(samples, r, *sides, target)[rows] @ values[rows] for r in range(5)]
    assert samples.sums(values[rows], rows) == pytest.approx(np.array(slow))


def test_draws_are_those_of_the_speaker_bootstrap():
    score, target, *sides = a_list(1)
    ours = SpeakerSamples(target, *sides, 50, seed=7).ranked(score, [eer_measure])[:, 0]
    theirs = speaker_bootstrap(score, target, *sides, replicates=50, seed=7)
    assert ours.tolist() == [theirs.value, *theirs.samples]


def test_blocks_of_any_size_give_the_same(monkeypatch):
    score, target, *sides = a_list(2)
    whole = SpeakerSamples(target, *sides, 9)
    expected = whole.ranked(score, MEASURES), whole.sums(score[:, None])
    assert len(list(whole.weights())) == 1
    monkeypatch.setattr("svq.backend.bootstrap._HELD", 2 * whole.cells)
    assert len(list(whole.weights())) == 5
    assert np.array_equal(whole.ranked(score, MEASURES), expected[0])
    assert whole.sums(score[:, None]) == pytest.approx(expected[1])


def test_a_part_without_one_class_has_no_error_rate():
    score, target, *sides = a_list()
    samples = SpeakerSamples(target, *sides, 3)
    assert np.isnan(samples.ranked(score, [eer_measure], ~target)).all()
    assert np.isnan(samples.ranked(score, [eer_measure], np.zeros(len(target), bool))).all()


def test_every_draw_has_both_classes():
    samples = SpeakerSamples([True, False], [0, 0], [0, 1], 300)
    assert (samples.draws > 0).all()  # with two speakers, only the draw of both has


@pytest.mark.parametrize("target, said", [([True, True], "no non-target"), ([False, False], "no target")])
def test_one_class_alone(target, said):
    with pytest.raises(UserError, match=said):
        SpeakerSamples(target, [0, 0], [0, 1], 1)
