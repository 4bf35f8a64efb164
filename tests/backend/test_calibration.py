"""Calibration and speaker bootstrap."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from svq.backend import metrics
from svq.backend.bootstrap import speaker_bootstrap
from svq.backend.calibration import Calibration, fit, objective
from svq.errors import UserError


def gaussian_scores(seed=0, n=20_000):
    """True log-likelihood ratios of N(1, 2) against N(-1, 2): llr = s; then a = 0.1, b = 3."""
    rng = np.random.default_rng(seed)
    return 0.1 * rng.normal(1, np.sqrt(2), n) + 0.3, 0.1 * rng.normal(-1, np.sqrt(2), 4 * n) + 0.3


@pytest.mark.parametrize("prior", [0.5, 0.1, 0.01])
def test_true_ratios_are_recovered(prior):
    target, nontarget = gaussian_scores()
    found = fit(target, nontarget, prior)
    assert found.slope == pytest.approx(10, rel=0.06) and found.offset == pytest.approx(-3, rel=0.08)
    llr = found(target), found(nontarget)
    assert metrics.cllr(*llr) < metrics.min_cllr(*llr) + 0.01


def test_fit_is_the_minimum_of_its_objective():
    """Against a grid around it: without the penalty's pull, no neighbour is better."""
    target, nontarget = gaussian_scores(1, 300)
    found = fit(target, nontarget, 0.2, penalty=1e-12)
    best = objective(found.slope, found.offset, target, nontarget, 0.2)
    for ds in (-0.05, 0, 0.05):
        for do in (-0.02, 0, 0.02):
            assert objective(found.slope + ds, found.offset + do, target, nontarget, 0.2) >= best - 1e-12


@given(st.floats(0.01, 100), st.floats(-50, 50))
def test_scaled_scores_give_the_same_ratios(scale, shift):
    target, nontarget = gaussian_scores(2, 50)
    one, other = fit(target, nontarget), fit(scale * target + shift, scale * nontarget + shift)
    np.testing.assert_allclose(other(scale * target + shift), one(target), atol=1e-3)


def test_separated_scores_stay_finite():
    found = fit([1.0, 1.1], [0.0, -0.1, 0.05])
    assert 0 < found.slope < 100
    llr = found([1.0, 1.1]), found([0.0, -0.1])
    assert llr[0].min() > 1 > -1 > llr[1].max() and np.abs(np.concatenate(llr)).max() < 50


def test_reversed_scores_keep_their_order_and_warn():
    lines = []
    found = fit([0.0, 0.1, 0.2], [1.0, 1.1, 0.9], warn=lines.append)
    assert found.slope > 0 and len(lines) == 1


def test_calibration_keeps_the_eer():
    target, nontarget = gaussian_scores(3, 500)
    found = fit(target, nontarget)
    assert metrics.eer(found(target), found(nontarget)) == metrics.eer(target, nontarget)


@pytest.mark.parametrize("target, nontarget, prior, message", [
    ([], [1.0], 0.5, "no target trials"), ([1.0], [np.inf], 0.5, "finite"),
    ([1.0], [1.0], 0.5, "not all equal"), ([1.0], [0.0], 1.0, "between 0 and 1")])
def test_degenerate_fits(target, nontarget, prior, message):
    with pytest.raises(UserError, match=message):
        fit(target, nontarget, prior)


def test_calibration_survives_disk(tmp_path):
    Calibration(2.5, -1.0, 0.1).save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == Calibration(2.5, -1.0, 0.1)
    for text in ("[]", "{}", '{"slope": 1}', '{"slope": -1, "offset": 0}', '{"slope": NaN, "offset": 0}',
                 '{"slope": 1, "offset": 0, "x": 1}'):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(UserError, match="not a calibration"):
            Calibration.load(tmp_path / "c.json")
    with pytest.raises(UserError, match="missing"):
        Calibration.load(tmp_path / "none.json")


def speaker_trials(rng, speakers, per_speaker=4):
    """Scores in which a speaker's trials share an effect: trials are far from independent."""
    ease = rng.normal(0, 1, speakers)
    e, t = np.meshgrid(np.arange(speakers), np.arange(speakers), indexing="ij")
    enroll, test = np.repeat(e.ravel(), per_speaker), np.repeat(t.ravel(), per_speaker)
    same = enroll == test
    score = np.where(same, 2.0, 0.0) + ease[enroll] + 0.3 * rng.normal(size=len(enroll))
    return score, same, enroll, test


def test_bootstrap_against_copied_trials():
    """One replicate, recomputed by copying each trial as often as its speakers were drawn."""
    rng = np.random.default_rng(0)
    score, same, enroll, test = speaker_trials(rng, 6)
    score = score.round(1)      # ties
    seen = speaker_bootstrap(score, same, enroll, test, replicates=3, seed=5)
    draws = np.random.default_rng(5)
    for value in seen.samples:
        count = np.bincount(draws.integers(0, 6, 6), minlength=6)
        target = np.concatenate([[s] * count[e] for s, k, e in zip(score, same, enroll) if k])
        nontarget = np.concatenate([[s] * (count[e] * count[t])
                                    for s, k, e, t in zip(score, same, enroll, test) if not k])
        assert value == pytest.approx(metrics.eer(target, nontarget), abs=1e-12)
    assert seen.value == metrics.eer(score[same], score[~same])


def test_bootstrap_interval_has_the_width_of_repeated_experiments():
    """New draws of speakers scatter about as widely as the bootstrap says."""
    values = []
    for seed in range(60):
        score, same, *_ = speaker_trials(np.random.default_rng(seed), 25, 1)
        values.append(metrics.eer(score[same], score[~same]))
    widths = []
    for seed in range(5):
        found = speaker_bootstrap(*speaker_trials(np.random.default_rng(seed), 25, 1), replicates=200)
        assert found.low <= found.value <= found.high
        widths.append(found.samples.std())
    assert 0.6 < np.mean(widths) / np.std(values) < 1.7


def test_bootstrap_takes_names_and_repeats_itself():
    score, same, enroll, test = speaker_trials(np.random.default_rng(0), 5)
    names = np.array(["ann", "bob", "cyd", "dee", "eve"])
    one = speaker_bootstrap(score, same, enroll, test, replicates=20)
    two = speaker_bootstrap(score, same, names[enroll], names[test], replicates=20)
    np.testing.assert_array_equal(one.samples, two.samples)


def test_bootstrap_draws_again_without_both_classes():
    """One target trial and one non-target trial, of three speakers: most draws lack one of them."""
    found = speaker_bootstrap([1.0, 0.0], [True, False], ["a", "b"], ["a", "c"], replicates=30)
    assert (found.samples == 0).all()
    with pytest.raises(UserError, match="no non-target"):
        speaker_bootstrap([1.0], [True], ["a"], ["a"])
