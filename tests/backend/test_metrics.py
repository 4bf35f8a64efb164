"""Error rates and costs against brute force over every threshold."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from svq.backend import metrics
from svq.errors import UserError

# Few distinct values, infinities among them: ties and empty gaps are the rule, not the exception.
tied = st.sampled_from([-np.inf, -2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0, np.inf])
scores = st.lists(tied | st.floats(-10, 10), min_size=1, max_size=30)


def brute_points(target, nontarget):
    """Rates at every score as a threshold, counted one trial at a time; then 'reject all'."""
    points = []
    for threshold in sorted(set(target) | set(nontarget)):
        points.append((sum(s < threshold for s in target) / len(target),
                       sum(s >= threshold for s in nontarget) / len(nontarget)))
    return points + [(1.0, 0.0)]


def brute_eer(target, nontarget):
    """Walks the polyline of operating points and solves each piece for p_miss = p_fa."""
    points = brute_points(target, nontarget)
    for (m0, f0), (m1, f1) in zip(points, points[1:]):
        if m0 - f0 <= 0 <= m1 - f1:
            # m0 + x (m1 - m0) = f0 + x (f1 - f0)
            x = (f0 - m0) / ((m1 - m0) - (f1 - f0))
            return m0 + x * (m1 - m0)
    raise AssertionError("the curve runs from (0, 1) to (1, 0)")


@given(scores, scores)
def test_eer_against_brute_force(target, nontarget):
    assert metrics.eer(target, nontarget) == pytest.approx(brute_eer(target, nontarget), abs=1e-12)


@given(scores, scores, st.sampled_from([0.01, 0.05, 0.5, 0.9]))
def test_min_dcf_against_brute_force(target, nontarget, p):
    expected = min(p * m + (1 - p) * f for m, f in brute_points(target, nontarget)) / min(p, 1 - p)
    assert metrics.min_dcf(target, nontarget, p) == pytest.approx(expected, abs=1e-12)


@given(scores, scores, st.sampled_from([0.01, 0.05, 0.5, 0.9]))
def test_act_dcf_against_brute_force(target, nontarget, p):
    threshold = -np.log(p / (1 - p))
    # At the threshold itself rounding of the log may fall either way.
    if any(abs(s - threshold) < 1e-9 for s in target + nontarget):
        return
    miss = sum(s < threshold for s in target) / len(target)
    alarm = sum(s >= threshold for s in nontarget) / len(nontarget)
    expected = (p * miss + (1 - p) * alarm) / min(p, 1 - p)
    actual = metrics.act_dcf(target, nontarget, p)
    assert actual == pytest.approx(expected, abs=1e-12)
    assert actual >= metrics.min_dcf(target, nontarget, p) - 1e-12


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20),
       st.lists(st.floats(-30, 30), min_size=1, max_size=20))
def test_cllr_against_its_definition(target, nontarget):
    expected = 0.5 * (np.mean([np.log2(1 + np.exp(-s)) for s in target])
                      + np.mean([np.log2(1 + np.exp(s)) for s in nontarget]))
    assert metrics.cllr(target, nontarget) == pytest.approx(expected, rel=1e-9)
    assert metrics.min_cllr(target, nontarget) <= metrics.cllr(target, nontarget) + 1e-9


def brute_pav(target, nontarget):
    """Isotonic posteriors by the min-max formula over all pairs of bounds (Barlow et al. 1972)."""
    values = sorted(set(target) | set(nontarget))
    t = np.array([target.count(v) for v in values], dtype=float)
    n = np.array([nontarget.count(v) for v in values], dtype=float)
    rate = lambda i, j: t[i:j + 1].sum() / (t[i:j + 1] + n[i:j + 1]).sum()
    last = len(values) - 1
    return t, n, [max(min(rate(i, j) for j in range(k, last + 1)) for i in range(k + 1)) for k in range(last + 1)]


@settings(max_examples=60)
@given(st.lists(tied | st.floats(-4, 4), min_size=1, max_size=10),
       st.lists(tied | st.floats(-4, 4), min_size=1, max_size=10))
def test_min_cllr_against_brute_force(target, nontarget):
    t, n, posterior = brute_pav(target, nontarget)
    expected = 0.0
    for k, p in enumerate(posterior):
        prior_odds = len(target) / len(nontarget)
        if t[k]:
            expected += 0.5 * t[k] / len(target) * np.log2(1 + (1 - p) / p * prior_odds)
        if n[k]:
            expected += 0.5 * n[k] / len(nontarget) * np.log2(1 + p / (1 - p) / prior_odds)
    assert metrics.min_cllr(target, nontarget) == pytest.approx(expected, abs=1e-9)


@given(scores, scores)
def test_only_the_order_of_scores_counts(target, nontarget):
    both = np.unique(target + nontarget)
    ranks = [np.searchsorted(both, s).astype(float) for s in (target, nontarget)]
    for measure in (metrics.eer, metrics.min_cllr, lambda t, n: metrics.min_dcf(t, n, 0.05)):
        assert measure(*ranks) == pytest.approx(measure(target, nontarget), abs=1e-12)


@given(scores, scores)
def test_swapping_and_negating_the_classes_keeps_the_eer(target, nontarget):
    assert metrics.eer(-np.array(nontarget), -np.array(target)) == pytest.approx(
        metrics.eer(target, nontarget), abs=1e-12)


def test_known_values():
    assert metrics.eer([1.0], [0.0]) == 0.0
    assert metrics.eer([0.0], [1.0]) == 1.0
    assert metrics.eer([0.0], [0.0]) == 0.5           # all tied: the line from (0, 1) to (1, 0)
    assert metrics.eer([1, 2, 3, 4], [-1, 0, 1.5, 0.5]) == 0.25
    assert metrics.min_dcf([0.0], [1.0], 0.01) == 1.0
    assert metrics.cllr([0.0], [0.0]) == 1.0
    assert metrics.cllr([-np.inf], [0.0]) == np.inf
    assert metrics.min_cllr([2.0, 3.0], [0.0, 1.0]) == 0.0


def test_eer_of_two_gaussians():
    """Equal variances, means d apart: EER = Phi(-d / 2)."""
    from scipy.stats import norm
    rng = np.random.default_rng(0)
    target, nontarget = rng.normal(2, 1, 200_000), rng.normal(0, 1, 200_000)
    assert metrics.eer(target, nontarget) == pytest.approx(norm.cdf(-1), abs=2e-3)
    # The scores' own log-likelihood ratio is 2 s - 2: already calibrated.
    llr = [2 * s - 2 for s in (target, nontarget)]
    assert metrics.cllr(*llr) == pytest.approx(metrics.min_cllr(*llr), abs=2e-3)


@given(scores, scores)
def test_det_corners_draw_the_same_curve(target, nontarget):
    fa, miss, _ = metrics.det_curve(target, nontarget, corners_only=False)
    corner_fa, corner_miss, thresholds = metrics.det_curve(target, nontarget)
    assert len(corner_fa) <= len(fa) and thresholds[-1] == np.inf
    assert (corner_fa[0], corner_miss[0], corner_fa[-1], corner_miss[-1]) == (1, 0, 0, 1)
    # Along the curve miss - fa rises strictly, so it tells where each dropped point lies.
    along = corner_miss - corner_fa
    np.testing.assert_allclose(np.interp(miss - fa, along, corner_miss), miss, atol=1e-12)
    np.testing.assert_allclose(np.interp(miss - fa, along, corner_fa), fa, atol=1e-12)


@pytest.mark.parametrize("measure", [metrics.eer, metrics.min_cllr, metrics.cllr, metrics.det_curve])
@pytest.mark.parametrize("target, nontarget, word", [
    ([], [1.0], "no target trials"), ([1.0], [], "no non-target trials"), ([np.nan], [1.0], "NaN")])
def test_degenerate_input_is_one_clear_line(measure, target, nontarget, word):
    with pytest.raises(UserError, match=word):
        measure(target, nontarget)


def test_a_prior_outside_0_1_is_refused():
    with pytest.raises(UserError, match="prior"):
        metrics.min_dcf([1.0], [0.0], 1.0)
