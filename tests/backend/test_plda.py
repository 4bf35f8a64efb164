"""PLDA against the Gaussians that it is made of, computed by scipy in float64."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from svq.backend.metrics import eer
from svq.backend.plda import (
    Plda,
    SpeakerStatistics,
    TwoCovariance,
    joint_diagonalize,
    lda,
    oas_intensity,
    shrink,
    train,
)
from svq.errors import UserError


def random_covariance(rng, dim, scale=1.0):
    a = rng.normal(size=(dim, 2 * dim))
    return scale * a @ a.T / (2 * dim)


def sample(rng, counts, mean, between, within):
    """Vectors and speaker numbers drawn from the model."""
    voice = rng.multivariate_normal(mean, between, size=len(counts))
    group = np.repeat(np.arange(len(counts)), counts)
    return voice[group] + rng.multivariate_normal(np.zeros(len(mean)), within, size=len(group)), group


def joint_log_density(vectors, mean, between, within):
    """Log density of a speaker's vectors, as one Gaussian over all of them."""
    n = len(vectors)
    covariance = np.kron(np.ones((n, n)), between) + np.kron(np.eye(n), within)
    return multivariate_normal(np.tile(mean, n), covariance).logpdf(np.concatenate(vectors))


@pytest.fixture
def gaussians():
    rng = np.random.default_rng(0)
    return rng, rng.normal(size=4), random_covariance(rng, 4, 2.0), random_covariance(rng, 4)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_llr_equals_the_ratio_of_gaussian_densities(gaussians, n):
    rng, mean, between, within = gaussians
    transform, psi = joint_diagonalize(between, within, 1e-9)
    model = Plda(np.zeros(4), np.eye(4), mean, transform, psi)
    for _ in range(5):
        enroll, test = rng.normal(0, 2, size=(n, 4)), rng.normal(0, 2, size=(1, 4))
        expected = (joint_log_density(np.concatenate([enroll, test]), mean, between, within)
                    - joint_log_density(enroll, mean, between, within)
                    - joint_log_density(test, mean, between, within))
        actual = model.enroll_side(enroll.mean(axis=0, keepdims=True), np.array([n])) @ model.test_side(test).T
        assert actual.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_llr_of_single_utterances_is_symmetric(gaussians):
    rng, mean, between, within = gaussians
    model = Plda(np.zeros(4), np.eye(4), mean, *joint_diagonalize(between, within, 1e-9))
    x = rng.normal(size=(6, 4))
    scores = model.enroll_side(x) @ model.test_side(x).T
    np.testing.assert_allclose(scores, scores.T, atol=1e-10)


def test_joint_diagonalisation(gaussians):
    _, _, between, within = gaussians
    transform, psi = joint_diagonalize(between, within, 1e-9)
    np.testing.assert_allclose(transform @ within @ transform.T, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(transform @ between @ transform.T, np.diag(psi), atol=1e-10)
    assert (np.diff(psi) <= 0).all()


def test_statistics_do_not_depend_on_blocks(gaussians):
    rng, mean, between, within = gaussians
    x, group = sample(rng, [1, 4, 2, 7], mean, between, within)
    one = SpeakerStatistics.collect([(x, group)], 4)
    many = SpeakerStatistics.collect([(x[i:i + 3], group[i:i + 3]) for i in range(0, len(x), 3)], 4)
    deviation = x - np.array([x[group == s].mean(axis=0) for s in range(4)])[group]
    np.testing.assert_allclose(one.within, deviation.T @ deviation, atol=1e-10)
    for name in ("counts", "means", "within"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), atol=1e-10)


def test_log_likelihood_equals_the_gaussian_densities(gaussians):
    rng, mean, between, within = gaussians
    x, group = sample(rng, [1, 3, 2, 5], mean, between, within)
    expected = sum(joint_log_density(x[group == s], mean, between, within) for s in range(4))
    statistics = SpeakerStatistics.collect([(x, group)], 4)
    assert TwoCovariance(mean, between, within).log_likelihood(statistics) == pytest.approx(expected, rel=1e-10)


def test_em_never_lowers_the_likelihood_and_stops_at_a_maximum(gaussians):
    rng, mean, between, within = gaussians
    x, group = sample(rng, rng.integers(1, 6, size=200), mean, between, within)
    statistics = SpeakerStatistics.collect([(x, group)], 200)
    model = TwoCovariance.start(statistics)
    trace = [model.step(statistics) for _ in range(1000)]
    assert (np.diff(trace) >= -1e-8).all() and trace[-1] > trace[0]
    best = model.log_likelihood(statistics)
    for name in ("mean", "between", "within"):      # no small change of a parameter does better
        value = getattr(model, name)
        for _ in range(10):
            nudge = rng.normal(size=value.shape) * 1e-2
            setattr(model, name, value + (nudge + nudge.T if value.ndim == 2 else nudge))
            assert model.log_likelihood(statistics) < best + 1e-6
        setattr(model, name, value)


def test_em_recovers_the_model(gaussians):
    rng, mean, between, within = gaussians
    x, group = sample(rng, rng.integers(2, 8, size=4000), mean, between, within)
    statistics = SpeakerStatistics.collect([(x, group)], 4000)
    model = TwoCovariance.start(statistics)
    for _ in range(20):
        model.step(statistics)
    np.testing.assert_allclose(model.mean, mean, atol=0.1)
    assert np.linalg.norm(model.between - between) < 0.08 * np.linalg.norm(between)
    assert np.linalg.norm(model.within - within) < 0.04 * np.linalg.norm(within)


def test_lda_finds_the_speaker_directions():
    """Speakers differ in two of six dimensions, noise is strongest in the others."""
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(60), 10)
    x = rng.normal(size=(600, 6)) * [1, 5, 5, 1, 5, 5]
    x[:, [0, 3]] += rng.normal(0, 3, size=(60, 2))[group]
    statistics = SpeakerStatistics.collect([(x, group)], 60)
    projection = lda(statistics, 2)
    outside = np.linalg.norm(projection[[1, 2, 4, 5]]) / np.linalg.norm(projection)
    assert projection.shape == (6, 2) and outside < 0.1
    np.testing.assert_allclose(projection.T @ statistics.within @ projection / 600, np.eye(2), atol=1e-8)


def training_data(rng, speakers=30, dim=12):
    x, group = sample(rng, [6] * speakers, np.full(dim, 0.5), np.eye(dim), 0.5 * np.eye(dim))
    return x.astype(np.float32), group


@pytest.mark.parametrize("speakers, told", [(30, 1), (130, 6)])
def test_trained_model_tells_speakers_apart_and_survives_disk(tmp_path, speakers, told):
    """From few speakers by shrunk moments, from many by EM, with a line for each iteration."""
    rng = np.random.default_rng(2)
    x, group = training_data(rng, speakers)
    lines = []
    model = train(lambda: [(x, group)], speakers, lda_dim=8, iterations=5, report=lines.append)
    assert len(lines) == told and model.lda.shape == (12, 8)
    y, other = training_data(rng)
    p = model.process(y)
    np.testing.assert_allclose(np.linalg.norm(p, axis=1), np.sqrt(8))
    scores = model.enroll_side(p) @ model.test_side(p).T
    same = other[:, None] == other
    np.fill_diagonal(scores, np.nan)
    assert np.nanmean(scores[same]) > 1 > -1 > np.nanmean(scores[~same])
    model.save(tmp_path / "plda.safetensors")
    back = Plda.load(tmp_path / "plda.safetensors")
    np.testing.assert_array_equal(back.enroll_side(back.process(y)), model.enroll_side(p))
    first = (tmp_path / "plda.safetensors").read_bytes()
    train(lambda: [(x, group)], speakers, lda_dim=8, iterations=5).save(tmp_path / "plda.safetensors")
    assert (tmp_path / "plda.safetensors").read_bytes() == first


def test_fewer_speakers_than_lda_dimensions():
    """The speakers tell four directions apart; which of the others to leave out the data do not say."""
    x, group = sample(np.random.default_rng(3), [2] * 5, np.zeros(40), np.eye(40), np.eye(40))
    lines = []
    model = train(lambda: [(x, group)], 5, lda_dim=20, report=lines.append)
    assert len(model.psi) == 40 and lines[0] == "LDA to 40 dimensions, not 20: 40 values, 5 speakers"


def equal_error_rate(scores, group):
    same, pairs = group[:, None] == group, np.triu_indices(len(group), 1)
    return eer(scores[pairs][same[pairs]], scores[pairs][~same[pairs]])


DIM, FALLING = 64, 1 / np.arange(1, 65)
SHAPES = {"equal variances": (np.ones(DIM), np.full(DIM, 2.0)),
          "falling alike": (FALLING * 13, FALLING ** 0.5 * 12),
          "speakers in ten directions": (np.arange(DIM) < 10, np.full(DIM, 0.3)),
          "loud channels": (np.ones(DIM), np.where(np.arange(DIM) < 4, 40.0, 1.0))}


@pytest.mark.parametrize("counts", [[2, 2], [5, 5], [2] * 20, [5] * 20, [1] * 30 + [9] * 8, [5] * 100], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_few_utterances_score_other_speakers_about_as_well_as_the_cosine(shape, counts):
    rng = np.random.default_rng(5)
    mean, (between, within) = rng.normal(size=DIM), map(np.diag, SHAPES[shape])
    x, group = sample(rng, counts, mean, between, within)
    y, other = sample(rng, [4] * 60, mean, between, within)
    model = train(lambda: [(x, group)], len(counts), lda_dim=128)
    p, unit = model.process(y), (y - x.mean(axis=0)) / np.linalg.norm(y - x.mean(axis=0), axis=1, keepdims=True)
    scores = model.enroll_side(p) @ model.test_side(p).T
    assert np.abs(scores).max() < 1000
    assert equal_error_rate(scores, other) < 1.1 * equal_error_rate(unit @ unit.T, other) + 0.005


def test_from_plenty_of_data_a_model_is_that_of_em_alone():
    """The rule of few data does not reach it: moments, EM, both covariances diagonal, step by step."""
    rng = np.random.default_rng(6)
    x, group = training_data(rng, 130)
    model = train(lambda: [(x, group)], 130, iterations=3)
    raw = SpeakerStatistics.collect([(x, group)], 130)
    first = Plda(x.mean(axis=0, dtype=float), lda(raw, 12), np.zeros(12), np.eye(12), np.ones(12))
    statistics = SpeakerStatistics.collect([(first.process(x), group)], 130)
    gaussians = TwoCovariance.start(statistics)
    for _ in range(3):
        gaussians.step(statistics)
    psi = joint_diagonalize(gaussians.between, gaussians.within, 1e-6)[1]
    np.testing.assert_allclose(model.psi, psi, rtol=1e-9)


def test_shrinkage_recovers_equal_variances_and_lets_strong_directions_stand():
    rng = np.random.default_rng(7)
    flat, steep = rng.normal(size=(10, 40)), rng.normal(size=(4000, 4)) * [9, 3, 1, 1]
    assert oas_intensity(flat.T @ flat / 10, 10) > 0.9
    intensity = oas_intensity(steep.T @ steep / 4000, 4000)
    assert 0 < intensity < 0.01
    np.testing.assert_allclose(shrink(np.diag([3.0, 1.0]), 0.5), np.diag([2.5, 1.5]))


@pytest.mark.parametrize("counts", [[1, 1, 1], [5]])
def test_too_few_speakers_or_utterances(counts):
    x, group = sample(np.random.default_rng(4), counts, np.zeros(3), np.eye(3), np.eye(3))
    with pytest.raises(UserError, match="at least 2 speakers"):
        train(lambda: [(x, group)], len(counts))


COPIED = np.repeat(np.random.default_rng(8).normal(size=(20, 6)) + 5, 3, axis=0)
ALIKE = np.tile(np.random.default_rng(9).normal(size=(3, 6)), (20, 1))


@pytest.mark.parametrize("x, lda_dim, message", [
    (COPIED, 0, "copies of one another"), (np.ones((60, 6)), 0, "copies of one another"),
    (ALIKE, 0, "differ no more than the utterances"), (ALIKE + COPIED, 1, "one dimension"),
    (COPIED[:, :1] + ALIKE[:, :1], 0, "one dimension")])
def test_data_without_a_model_are_refused(x, lda_dim, message):
    with pytest.raises(UserError, match=message):
        train(lambda: [(x.astype(np.float32), np.repeat(np.arange(20), 3))], 20, lda_dim)


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a PLDA model"):
        Plda.load(tmp_path / "x")
    with pytest.raises(UserError, match="missing"):
        Plda.load(tmp_path / "y")
    from safetensors.numpy import save_file
    save_file({"a": np.zeros(1)}, tmp_path / "z")
    with pytest.raises(UserError, match="not a PLDA model of format"):
        Plda.load(tmp_path / "z")
    model = Plda(np.zeros(3), np.eye(3), np.zeros(3), np.eye(3), np.ones(3))
    with pytest.raises(UserError, match="4 values for a PLDA of 3"):
        model.process(np.ones((1, 4)))
