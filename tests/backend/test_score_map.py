"""Maps of low-bit scores to float scores: least squares, order, files."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from svq.backend.calibration import Calibration
from svq.backend.score_map import AffineMap, IsotonicMap, class_weights, fit_affine, fit_isotonic, kind_of
from svq.backend.score_map import load_map, save_map
from svq.errors import UserError

SCORES = arrays(np.float64, st.integers(1, 40), elements=st.integers(-20, 20).map(lambda n: n / 10))


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    low = np.round(rng.normal(0.3, 0.2, 500), 2)  # rounded: ties
    return low, 0.1 + 0.8 * low + rng.normal(0, 0.05, 500)


def test_affine_is_the_least_squares_line(pair):
    slope, offset = np.polyfit(*pair, 1)
    found = fit_affine(*pair)
    assert found.slope == pytest.approx(slope, rel=1e-10)
    assert found.offset == pytest.approx(offset, rel=1e-10)
    assert found([1.0, 2.0]) == pytest.approx([slope + offset, 2 * slope + offset])


def test_weights_count_trials_more_than_once(pair):
    low, reference = pair
    times = np.random.default_rng(1).integers(1, 4, len(low))
    many = np.repeat(low, times), np.repeat(reference, times)
    line, repeated = fit_affine(low, reference, times), fit_affine(*many)
    assert (line.slope, line.offset) == pytest.approx((repeated.slope, repeated.offset))
    assert fit_isotonic(low, reference, times)(low) == pytest.approx(fit_isotonic(*many)(low))


def test_class_weights():
    assert class_weights([True, False, False, False], 0.4) == pytest.approx([0.4, 0.2, 0.2, 0.2])
    with pytest.raises(UserError, match="no target trials"):
        class_weights([False])


def test_affine_recovers_an_exact_line():
    low = np.array([0.0, 0.5, 2.0])
    found = fit_affine(low, 3 * low - 1)
    assert (found.slope, found.offset) == pytest.approx((3.0, -1.0))


def slow_isotonic(x, y):
    """Value at each distinct x: max over starts of min over ends of the mean between (Robertson et al., 1988, 1.4)."""
    knots = np.unique(x)
    mean = lambda a, b: y[(x >= a) & (x <= b)].mean()
    return np.array([max(min(mean(a, b) for b in knots[knots >= k]) for a in knots[knots <= k]) for k in knots])


@settings(max_examples=40, deadline=None)
@given(SCORES, st.integers(0, 999))
def test_isotonic_is_the_least_squares_fit_that_never_falls(low, seed):
    reference = np.random.default_rng(seed).normal(size=len(low)) + low
    found = fit_isotonic(low, reference)
    assert found(np.unique(low)) == pytest.approx(slow_isotonic(low, reference), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(SCORES, SCORES)
def test_isotonic_keeps_the_order_and_is_constant_outside(low, asked):
    found = fit_isotonic(low, np.sin(7 * low) + low)
    mapped = found(np.sort(asked))
    assert (np.diff(mapped) >= 0).all()
    assert found([-np.inf, np.inf]).tolist() == [found.y[0], found.y[-1]]


def test_isotonic_is_a_straight_line_between_pools():
    found = fit_isotonic([0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 2.0, 2.0])
    assert (found.x, found.y) == ((0, 1, 2, 3), (0.5, 0.5, 2, 2))
    assert found([-9, 0.5, 1.5, 9]) == pytest.approx([0.5, 0.5, 1.25, 2])


def test_flat_pieces_hold_their_ends_alone():
    found = fit_isotonic(np.arange(9.0), [0, 3, 3, 3, 3, 3, 3, 3, 5])
    assert found.x == (0, 1, 7, 8)


def test_isotonic_fits_the_development_trials_at_least_as_well_as_the_line(pair):
    low, reference = pair
    error = [np.mean((fit(low, reference)(low) - reference) ** 2) for fit in (fit_isotonic, fit_affine)]
    assert error[0] <= error[1]


@pytest.mark.parametrize("fit", [fit_affine, fit_isotonic])
@pytest.mark.parametrize("low, reference, said", [
    ([1.0, 2.0], [1.0], "2 and 1"), ([], [], "0 and 0"), ([1.0, np.nan], [1.0, 2.0], "finite"),
    ([1.0, 2.0], [1.0, np.inf], "finite")])
def test_what_cannot_be_fitted(fit, low, reference, said):
    with pytest.raises(UserError, match=said):
        fit(low, reference)


@pytest.mark.parametrize("low, reference, said", [([1.0, 1.0], [1.0, 2.0], "all equal"),
                                                 ([1.0, 2.0], [2.0, 1.0], "rise together")])
def test_no_line(low, reference, said):
    with pytest.raises(UserError, match=said):
        fit_affine(low, reference)


@pytest.mark.parametrize("made", [AffineMap(0.1 + 0.2, -1 / 3), IsotonicMap([0.1, 0.3], [1 / 3, 1 / 3]),
                                  AffineMap(2, 1, "cosine_none", "none"), Calibration(15.9, -8.4, 0.5, "cosine_none")])
def test_what_is_saved_is_loaded(tmp_path, made):
    save_map(made, tmp_path / "map.json")
    found = load_map(tmp_path / "map.json")
    assert found == made
    assert kind_of(found) == kind_of(made) in ("affine", "isotonic", "logistic")


def test_the_file_names_its_kind(tmp_path):
    save_map(AffineMap(2, 1), tmp_path / "map.json")
    assert json.loads((tmp_path / "map.json").read_text()) == {"kind": "affine", "slope": 2.0, "offset": 1.0}


def test_a_calibration_stays_one(tmp_path):
    save_map(Calibration(2.0, 1.0), tmp_path / "map.json")
    assert Calibration.load(tmp_path / "map.json") == Calibration(2.0, 1.0)


@pytest.mark.parametrize("text, said", [
    ("{", "not a score map"), ("[]", "no mapping"), ('{"kind": "cubic"}', "kind 'cubic'"),
    ('{"kind": []}', r"kind \[\]"),
    ('{"kind": "affine", "slope": -1, "offset": 0}', "slope positive"),
    ('{"kind": "affine", "slope": 1}', "offset"),
    ('{"kind": "affine", "slope": null, "offset": 0}', "not a score map"),
    ('{"kind": "isotonic", "x": [1, 0], "y": [0, 1]}', "x must rise"),
    ('{"kind": "isotonic", "x": [0, 1], "y": [1, 0]}', "not fall"),
    ('{"kind": "isotonic", "x": [0, 1], "y": [1]}', "one length"),
    ('{"kind": "isotonic", "x": ["a"], "y": [1]}', "not a score map"),
    ('{"kind": "affine", "slope": 1, "offset": 0, "score": 3}', "must be text"),
    ('{"slope": 0, "offset": 0}', "slope positive")])
def test_what_is_no_map(tmp_path, text, said):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_map(path)
    assert str(path) in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        load_map(tmp_path / "map.json")
