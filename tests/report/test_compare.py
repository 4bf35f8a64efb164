"""Paired differences of EER over the same resampled speakers."""

import subprocess
import sys

import numpy as np
import pytest

from svq.backend.bootstrap import speaker_bootstrap
from tests.report import fake


@pytest.fixture
def scored(tmp_path):
    """Trials of 12 speakers and three systems: a, one a little better, one that is a again."""
    trials = fake.write_set(tmp_path / "data" / "test", "trials")
    same = np.array([t[2] for t in trials])
    base = np.where(same, 1.5, 0) + np.random.default_rng(0).normal(size=len(trials))
    noise = np.random.default_rng(1).normal(size=len(trials))
    for name, scores in (("a", base), ("b", base + 0.4 * same + 0.1 * noise), ("a-s2", base)):
        fake.write_scores(tmp_path / "exp" / name / "scores" / "test" / "cosine_none.score", trials, scores)
    return tmp_path, trials


def compare(folder, *options, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "svq.bin.compare", "--exp", folder / "exp", "--trials", folder / "data" / "test" / "trials",
         "--scores", "cosine_none", "--replicates", "60", *options], text=True, capture_output=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def values(line):
    return [float(word) for word in line.split("\t")[2:]]


def test_differences_are_those_of_the_separate_bootstraps(scored):
    folder, trials = scored
    out = folder / "table.tsv"
    lines = compare(folder, "b:a", "a:a-s2", "--out", out).splitlines()
    assert out.read_text().splitlines() == lines
    samples = {}
    for name in ("a", "b"):
        path = folder / "exp" / name / "scores" / "test" / "cosine_none.score"
        score = [float(line.split()[2]) for line in path.read_text().splitlines()]
        sides = [[t[i].split("-")[0] for t in trials] for i in (0, 1)]
        samples[name] = speaker_bootstrap(score, [t[2] for t in trials], *sides, replicates=60)
    difference = 100 * (samples["b"].samples - samples["a"].samples)
    low, high = np.quantile(difference, [0.025, 0.975])
    expected = [100 * samples["b"].value, 100 * samples["a"].value, 100 * (samples["b"].value - samples["a"].value),
                low, high, np.mean(difference < 0)]
    np.testing.assert_allclose(values(lines[1]), expected, atol=6e-4)
    assert values(lines[2])[2:] == [0, 0, 0, 0]


def test_a_side_of_several_systems_is_their_mean(scored):
    lines = compare(scored[0], "b:a", "b,a:a", "a,a-s2:b").splitlines()
    assert values(lines[2])[2] == pytest.approx(values(lines[1])[2] / 2, abs=1e-3)
    assert values(lines[3])[:2] == values(lines[1])[1::-1]


@pytest.mark.parametrize("pair, told", [("a", "SYSTEM:SYSTEM"), ("a:", "SYSTEM:SYSTEM"), ("a:c", "stages 7 and 8 make it")])
def test_bad_pairs_are_one_line(scored, pair, told):
    error = compare(scored[0], pair, status=1)
    assert told in error and len(error.splitlines()) == 1
