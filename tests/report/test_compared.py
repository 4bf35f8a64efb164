"""What is told apart, what a system is measured against, and measures of resampled speakers against plain ones."""

import numpy as np
import pytest

from svq.backend.bootstrap import SpeakerSamples, min_dcf_measure
from svq.backend.metrics import cllr
from svq.names import Names
from svq.report.compared import Against, against, best_by_interval, best_of, change
from svq.report.replicates import cllr_samples, min_dcf_samples

NAN = float("nan")
LUCK = np.random.default_rng(0).normal(0, 1, 200)
NOISE = np.random.default_rng(1).normal(0, 0.01, 200)


@pytest.mark.parametrize("values, samples, expected", [
    ([5.0, 5.005, 6.0], [5 + LUCK, 5.005 + LUCK + NOISE, 6 + LUCK], {0, 1}),  # all intervals overlap by far
    ([6.0, 5.0], [6 + LUCK, 5 + LUCK], {1}),
    ([5.0, 5.0], [5 + LUCK, 5 + LUCK], set()),                  # ties: all would be marked
    ([5.0, 5.001], [5 + LUCK, 5 + LUCK[::-1]], set()),
    ([5.0], [5 + LUCK], set()),
    ([], [], set()),
    ([5.0, 6.0], [5 + LUCK, None], set()),
    ([5.0, 6.0], [LUCK[:0], LUCK[:0]], set()),
    ([NAN, 5.0, 6.0], [None, 5 + LUCK, 6 + LUCK], {1}),
    ([0.0, 0.0, 1.0], [0 * LUCK, 0 * LUCK, 1 + 0 * LUCK], {0, 1}),
    ([5.0, 6.0], [5 + LUCK, np.full(200, NAN)], set()),         # nothing is known of the difference
])
def test_best_of(values, samples, expected):
    assert best_of(values, samples) == expected


def test_best_by_interval():
    assert best_by_interval([(5, 4, 6), (5.9, 5, 7), (7, 6.5, 8)]) == {0, 1}
    assert best_by_interval([(5, 4, 6), (6, 5, 7)]) == best_by_interval([(5, 4, 6)]) == best_by_interval([]) == set()
    assert best_by_interval([(5, NAN, NAN), (9, 8, 10)]) == set()


def test_change():
    found = change(6.0, 6 + 0.1 * LUCK, 5.0, 5 + 0.1 * LUCK)
    assert found.percent == pytest.approx(20) and found.low < 20 < found.high and found.told == "worse"
    assert change(5.0, 5 + 0.1 * LUCK, 6.0, 6 + 0.1 * LUCK).told == "better"
    assert change(5.001, 5.001 + LUCK + NOISE, 5.0, 5 + LUCK).told == "same"
    assert change(9.0, None, 5.0, None).told == "same"
    zero = change(0.5, np.full(9, 0.5), 0.0, np.zeros(9))
    assert np.isnan(zero.percent) and zero.told == "worse"


NAMES = Names(frozenset({"float", "kmqat4", "best2"}))
BITS = {"net": 32.0, "net_kmqat4": 4.0, "net_kmqat4-s2": 4.0, "net_kmqat4-ptq": 4.0, "net_kmqat4-int8": 8.0, "net-int8": 8.0}
CONTROLS = {"net_float": 32.0, "net_float-int8": 8.0}


@pytest.mark.parametrize("system, controls, expected", [
    ("net", {}, None),
    ("net_float", CONTROLS, None),
    ("net_kmqat4", {}, Against("net", finetuned=True)),
    ("net_kmqat4", CONTROLS, Against("net_float")),
    ("net_kmqat4-s2", CONTROLS, Against("net_float")),
    ("net_kmqat4-s2", CONTROLS | {"net_float-s2": 32.0}, Against("net_float-s2")),
    ("net_kmqat4-ptq", CONTROLS, Against("net")),
    ("net_kmqat4-int8", CONTROLS, Against("net_float")),
    ("net-int8", CONTROLS, Against("net")),
    ("net_float-int8", CONTROLS, Against("net_float")),
    ("net_kmqat4", {"net_float": 4.0}, Against("net", finetuned=True)),  # called so, and no float system
])
def test_against(system, controls, expected):
    assert against(system, BITS | controls, NAMES, {}) == expected


def test_against_nothing():
    assert against("net_kmqat4", {"net_kmqat4": 4.0}, NAMES, {}) is None


def test_a_control_that_was_finetuned_otherwise_is_called_so():
    control = {"epochs": 2, "data": {"crop_seconds": 2.0, "num_workers": 1}, "quant": None, "seed": 1, "distill": None}
    alike = control | {"data": {"crop_seconds": 2.0, "num_workers": 8}, "quant": {"bits": 4}, "seed": 2}
    other = alike | {"distill": {"embedding_weight": 10.0}, "epochs": 4}

    def said(settings):
        return against("net_kmqat4", BITS | CONTROLS, NAMES, {"net_float": control, "net_kmqat4": settings}).said

    assert said(alike) == "against net_float"
    assert said(other) == "against net_float, finetuned otherwise: epochs, distill"


@pytest.fixture(scope="module")
def drawn():
    speakers = np.repeat(np.arange(12), 6)
    enroll, test = np.triu_indices(len(speakers), 1)
    first, second = speakers[enroll], speakers[test]
    return SpeakerSamples(first == second, first, second, 60, seed=3)


@pytest.mark.parametrize("gap, digits", [(4.0, 9), (1.0, 9), (2.0, 1), (0.0, 0)])
@pytest.mark.parametrize("p_target", [0.01, 0.05, 0.5])
def test_min_dcf_of_resampled_speakers_is_that_of_all_thresholds(drawn, gap, digits, p_target):
    """Also with many ties, and with separations at which the tail of non-target trials is too short."""
    score = np.round(np.random.default_rng(0).normal(gap * drawn.target, 1), digits)
    found = min_dcf_samples(drawn, score[drawn.target], score[~drawn.target], p_target)
    expected = drawn.ranked(score, [min_dcf_measure(p_target)])[1:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_min_dcf_where_one_speaker_has_all_high_scores(drawn):
    """Where that speaker is not drawn, the threshold is far below the usual ones."""
    score = np.random.default_rng(0).normal(2 * drawn.target, 1)
    of_first = drawn.cell >= drawn.draws.shape[1]
    of_first[of_first] = drawn.sides[0][drawn.cell[of_first] - drawn.draws.shape[1]] == 0
    score[of_first] += 100
    found = min_dcf_samples(drawn, score[drawn.target], score[~drawn.target], 0.01)
    np.testing.assert_allclose(found, drawn.ranked(score, [min_dcf_measure(0.01)])[1:, 0], rtol=1e-12)


def test_cllr_of_resampled_speakers(drawn):
    llr = np.random.default_rng(0).normal(3 * drawn.target - 1.5, 2)
    found = cllr_samples(drawn, llr[drawn.target], llr[~drawn.target])
    weights = np.concatenate(list(drawn.weights()))[1:][:, drawn.cell].astype(int)
    expected = [cllr(np.repeat(llr[drawn.target], w[drawn.target]), np.repeat(llr[~drawn.target], w[~drawn.target])) for w in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
