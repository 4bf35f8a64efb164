"""Score normalisation against plain loops in float64."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from svq.backend import scoring
from svq.errors import UserError


def brute(vectors, cohort, top_n):
    scores = np.sort(vectors.astype(float) @ cohort.T.astype(float), axis=1)[:, ::-1][:, :top_n]
    return scores.mean(axis=1), scores.std(axis=1)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("top_n", [2, 7, 40, None, 99])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-12)])
def test_statistics_against_a_sort(threads, top_n, dtype, tolerance):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, 8)).astype(dtype)       # more than two blocks
    cohort = rng.normal(size=(40, 8)).astype(dtype)
    expected = brute(vectors, cohort, top_n)
    actual = scoring.cohort_statistics(vectors, cohort, top_n, threads)
    np.testing.assert_allclose(actual[0], expected[0], atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(actual[1], expected[1], atol=tolerance, rtol=10 * tolerance)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 1000))
def test_ties_at_the_edge_of_the_top(size, top_n, seed):
    rng = np.random.default_rng(seed)
    vectors = np.ones((3, 2))
    cohort = rng.integers(0, 3, size=(size, 2)).astype(float)
    expected = brute(vectors, cohort, top_n)
    if expected[1].min() == 0:
        with pytest.raises(UserError, match="all equal"):
            scoring.cohort_statistics(vectors, cohort, top_n)
        return
    actual = scoring.cohort_statistics(vectors, cohort, top_n)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_small_deviation_around_a_large_mean_in_float32():
    rng = np.random.default_rng(1)
    cohort = np.concatenate([np.full((500, 1), 0.9), 0.01 * rng.normal(size=(500, 1))], axis=1).astype(np.float32)
    vectors = np.ones((4, 2), np.float32)
    scores = (vectors @ cohort.T).astype(float)
    np.testing.assert_allclose(scoring.cohort_statistics(vectors, cohort)[1], scores.std(axis=1), rtol=1e-5)


def test_threads_do_not_change_a_bit():
    rng = np.random.default_rng(2)
    vectors, cohort = (rng.normal(size=(n, 16)).astype(np.float32) for n in (1000, 300))
    rows = rng.integers(0, 1000, size=(2, 5000))
    for a, b in zip(scoring.cohort_statistics(vectors, cohort, 20, 1), scoring.cohort_statistics(vectors, cohort, 20, 4)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(scoring.pair_scores(vectors, vectors, *rows, threads=1),
                                  scoring.pair_scores(vectors, vectors, *rows, threads=4))


def test_pair_scores_against_a_loop():
    rng = np.random.default_rng(3)
    enroll, test = rng.normal(size=(50, 6)), rng.normal(size=(70, 6))
    e, t = rng.integers(0, 50, 3000), rng.integers(0, 70, 3000)
    np.testing.assert_allclose(scoring.pair_scores(enroll, test, e, t), [enroll[i] @ test[j] for i, j in zip(e, t)])


def test_normalize_by_hand():
    # (3 - 1) / 2 = 1 from the enrolment side, (3 - 2) / 0.5 = 2 from the test side.
    out = scoring.normalize(np.array([3.0]), [1], [0], (np.array([9.0, 1.0]), np.array([9.0, 2.0])),
                         (np.array([2.0]), np.array([0.5])))
    assert out.tolist() == [1.5]


def test_normalisation_undoes_shift_and_scale_of_the_scores():
    """Scores and cohort scores under the same affine map: the result stays."""
    rng = np.random.default_rng(4)
    x, cohort = rng.normal(size=(30, 5)), rng.normal(size=(40, 5))
    rows = rng.integers(0, 30, size=(2, 100))
    out = []
    for scale, shift in ((1.0, 0.0), (7.0, -3.0)):
        a = np.concatenate([scale * x, np.full((30, 1), shift)], axis=1)
        b, c = (np.concatenate([v, np.ones((len(v), 1))], axis=1) for v in (x, cohort))
        statistics = scoring.cohort_statistics(a, c, 10)
        out.append(scoring.normalize(scoring.pair_scores(a, b, *rows), *rows, statistics, statistics))
    np.testing.assert_allclose(out[0], out[1], atol=1e-9)


def test_degenerate_cohorts():
    x = np.eye(3)
    with pytest.raises(UserError, match="at least 2 cohort scores"):
        scoring.cohort_statistics(x, np.ones((1, 3)))
    with pytest.raises(UserError, match="3 embeddings are all equal"):
        scoring.cohort_statistics(x, np.full((5, 3), 0.3, np.float64), 3)
