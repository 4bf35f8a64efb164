"""The knee of curves whose knee is known, and the share of resampled curves that agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.analysis.score_measures import find_knee, knee_index

VALUES = st.lists(st.floats(0, 50), min_size=3, max_size=8)


@pytest.mark.parametrize("bits, values, knee", [
    ([1, 2, 3, 4], [20, 6, 5.5, 5.2], 1),
    ([2, 3, 4], [9, 5.5, 5.2], 1),
    ([1, 2, 4, 8], [30, 18, 5, 4.9], 2),
    ([1, 2, 3, 4], [8, 6, 4, 2], None),      # a straight line
    ([1, 2, 3, 4], [8, 7.9, 7.5, 2], None),  # bent the other way
    ([1, 2, 3], [5, 4, 5], None),            # does not fall from one end to the other
    ([1, 2, 3], [5, 5, 5], None),
    ([2, 4], [9, 5], None),
    ([], [], None)])
def test_known_curves(bits, values, knee):
    assert knee_index(bits, values) == knee


@given(VALUES)
def test_the_knee_is_the_point_farthest_from_the_chord(values):
    """By the distance between a point and a line through two points of the unit square."""
    values = np.round(values, 3)
    found = knee_index(range(len(values)), values)
    if not values[0] > values[-1]:
        assert found is None
        return
    x, y = np.linspace(0, 1, len(values)), (values - values[-1]) / (values[0] - values[-1])
    distance = np.stack([x, y - 1], axis=1) @ np.full(2, -np.sqrt(0.5))  # from (0, 1), along the normal that looks down
    if distance[1:-1].max() < 1e-9:
        assert found is None
    else:
        assert distance[found] == pytest.approx(distance.max())


@given(VALUES, st.floats(0.1, 10), st.floats(-5, 5))
def test_units_do_not_matter(values, scale, shift):
    values = np.round(values, 2)
    bits = 2.0 ** np.arange(len(values))
    first, other = knee_index(bits, values), knee_index(3 * bits, scale * values + shift)
    if first != other:  # only where two points are equally far
        with_one = [knee_index(bits, values + noise) for noise in 1e-9 * np.eye(len(values))]
        assert other in with_one or first is None or other is None


def test_the_share_of_curves_that_agree():
    curves = {1: [9, 9, 9, 9], 2: [5, 5, 5, 8.9], 3: [4.9, 4.9, 8.9, 5], 4: [4.8, 4.8, 4.8, 4.8]}
    knee = find_knee({bits: np.array(values, float) for bits, values in curves.items()})
    assert (knee.bits, knee.below, knee.agree) == (2, 1, pytest.approx(2 / 3))


def test_no_knee_and_no_resamplings():
    knee = find_knee({1: np.array([1.0]), 2: np.array([2.0])})
    assert knee.bits is None and np.isnan(knee.agree)
