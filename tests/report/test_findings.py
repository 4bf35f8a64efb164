"""Sentences above figures: true of one system, of ties, of missing figures."""

import math

import numpy as np
import pytest

from svq.report import findings
from svq.report.collect import Report
from svq.report.plots import Calibrated, Reliability
from svq.report.quant_plots import Allocation, Point
from svq.report.results import Row

NAN = float("nan")


@pytest.mark.parametrize("values, said", [
    ([], "EER: nothing is known."),
    ([("a", NAN)], "EER: nothing is known."),
    ([("a", 5.0)], "EER: 5.00 % (a)."),
    ([("a", 5.001), ("b", 5.004)], "EER: 5.00 % (all 2)."),
    ([("b", 6.0), ("a", 5.0), ("c", NAN)], "EER: from 5.00 % (a) to 6.00 % (b)."),
    ([("d", 6.0), ("a", 5.0), ("c", 6.001)], "EER: from 5.00 % (a) to 6.00 % (c and d)."),
    ([("z", -1.0), ("a", math.inf)], "EER: from -1.00 % (z) to inf % (a)."),
])
def test_spread(values, said):
    assert findings.spread("EER", values, ".2f", " %") == said


def test_names():
    assert [findings.names_of("abcdefg"[:n]) for n in (1, 2, 3, 4, 5)] == ["a", "a and b", "a, b and c", "a, b, c and d",
                                                                          "a, b, c and 2 others"]


def test_scores_calibration_and_reliability():
    assert findings.scores(np.array([3.0, 1.0]), np.array([-1.0, 1.0]), 0.5).startswith("The means of the two classes are 2.0 standard")
    assert "are 1 apart" in findings.scores(np.ones(3), np.zeros(3), 0.5)
    assert findings.calibration([Calibrated(0, "a", 1, 0.3, 0.1)]) == "Cllr after calibration, above the least possible: 0.200 bits (a)."
    curves = [Reliability(1, False, np.array([0.1, 0.9]), np.array([0.1, 0.8])), Reliability(0, False, np.array([0.5]), np.array([0.5]))]
    assert findings.reliability(curves, ["a", "b"]) == "Farthest from the diagonal: where b states 0.90, 0.80 are targets."
    assert findings.reliability(curves[1:], ["a", "b"]).startswith("No point")


def test_training_levels_and_bits():
    curves = {"epoch": np.array([1.0, 2]), "loss": np.array([5.0, 6]), "accuracy": np.array([0.5, 0.25])}
    assert findings.training(curves) == "Loss from 5 to 6, accuracy from 50.0 % to 25.0 % at epoch 2."
    assert findings.training({name: values[:1] for name, values in curves.items()}) == "Loss 5, accuracy 50.0 % at epoch 1."
    assert findings.levels([-2.0, 0, 1, 3], [-1.0, 1, 1]) == "2 levels; 50.0 % of the weights lie beyond the outer ones."
    said = findings.bits_by_layer(["a", "b"], [Allocation("x", 2.5, [4, 1], None), Allocation("y", 3, [3, 3], None)])
    assert said == "x, bits: from 1 (b) to 4 (a)."


def test_frontier():
    points = [Point("K", name, False, 4.0, mb, eer, low, eer + 1) for name, mb, eer, low in
              (("a", 0.2, 5.0, 4.0), ("b", 0.1, 5.0, 4.0), ("c", 0.1, NAN, NAN))]
    assert findings.frontier(points, []) == "Lowest EER: of 3 quantized, 5.00 % (4.00 to 6.00) in 0.1 MB by b."
    assert findings.frontier(points[2:], []) == "No EER is known."
    assert findings.frontier(points[:1], points[1:2]).endswith("of 1 float, 5.00 % (4.00 to 6.00) in 0.1 MB by b.")


def report_of(eers, sizes, known=True):
    """A report of systems a, b, ... on one list, whose EERs vary alike."""
    rows = [Row(name, "test", "cosine", "none", eer, 0.1, 0.1, 0.1, 4.0, size, 5, 0.1, 0.1, eer - 1 if known else NAN,
                eer + 1 if known else NAN, 5, 50) for name, eer, size in zip("abcdefgh", eers, sizes)]
    luck = np.random.default_rng(0).normal(0, 0.4, 200)
    own = np.random.default_rng(1).normal(0, 0.02, (len(rows), 200))
    samples = {row: {"eer": row.eer + luck + each} for row, each in zip(rows, own)} if known else {}
    return Report("t", rows, "cosine", "none", {}, {}, {}, {}, samples=samples)


MB = 1_000_000


@pytest.mark.parametrize("eers, sizes, known, headline, size", [
    ([5.0], [MB], True, "test: a has an EER of 5.00 % (4.00 to 6.00).", "a: EER 5.00 % in 1.00 MB."),
    ([5.0], [MB], False, "test: a has an EER of 5.00 %.", "a: EER 5.00 % in 1.00 MB."),
    ([5.0, 5.0], [MB, MB // 2], True, "test: a and b have the lowest EER, 5.00 %.",
     "The smallest file that cannot be told from the lowest EER (5.00 %, a, 1.00 MB) is b's: 5.00 %, 0.50 MB."),
    ([5.0, 7.0], [MB, MB // 2], True, "test: a has the lowest EER, 5.00 % (4.00 to 6.00); all others are told from it.",
     "a has the lowest EER, 5.00 % in 1.00 MB; every smaller file has a higher one, and is told from it."),
    ([5.0, 7.0], [MB, 2 * MB], True, "test: a has the lowest EER, 5.00 % (4.00 to 6.00); all others are told from it.",
     "a has the lowest EER, 5.00 % in 1.00 MB; no file is smaller."),
    ([5.0, 5.01, 7.0], [MB, MB // 2, MB // 4], True, "test: a has the lowest EER, 5.00 % (4.00 to 6.00); b cannot be told from it.",
     "The smallest file that cannot be told from the lowest EER (5.00 %, a, 1.00 MB) is b's: 5.01 %, 0.50 MB."),
    ([5.0, 5.01], [MB, MB // 2], True, "test: a has the lowest EER, 5.00 % (4.00 to 6.00); no other system can be told from it.",
     "The smallest file that cannot be told from the lowest EER (5.00 %, a, 1.00 MB) is b's: 5.01 %, 0.50 MB."),
    ([5.0, 7.0], [MB, MB // 2], False, "test: a has the lowest EER, 5.00 %; without intervals nothing says whether that is more than chance.",
     "The lowest EER is 5.00 % (a, 1.00 MB); the smallest file is b's: 7.00 %, 0.50 MB."),
    ([NAN, NAN], [MB, MB], True, "test: no EER is known.", "test: no EER is known."),
])
def test_headline_and_size(eers, sizes, known, headline, size):
    report = report_of(eers, sizes, known)
    assert findings.headline(report, "test") == headline
    assert findings.size(report, "test") == size
