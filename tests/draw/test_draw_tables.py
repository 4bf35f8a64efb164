"""Tables of pages, and names beside the marks of a figure."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svq.draw import figure as fig
from svq.draw.tables import Cell, Head, card, html_table


def cells(text):
    return [re.findall(r'<td data-h="([^"]*)"[^>]*>(.*?)</td>', row) for row in re.findall(r"<tr[^>]*>(<td.*?)</tr>", text)]


def test_intervals_stand_below_their_figures():
    text = html_table(["system", "EER (%)", "95 %", "drift", "95 %"], [["a", "5.0", "4 to 6", "0.1 (0.0 to 0.2)", "-"],
                                                                      ["<b>", "-", "-", "4 → 2 (85 %)", "-"]], 1)
    assert cells(text) == [[("system", "a"), ("EER (%)", "5.0<small>4 to 6</small>"), ("drift", "0.1<small>0.0 to 0.2</small>")],
                           [("system", "&lt;b&gt;"), ("EER (%)", "-"), ("drift", "4 → 2 (85 %)")]]
    assert text.count("<th") - text.count("<thead") == 3


def test_groups_of_columns():
    heads = [Head("system"), Head("bits"), *(Head(text, group) for group in ("dev", "test & all") for text in ("EER", "Cllr"))]
    text = card(heads, [[Cell("a"), *(Cell(str(i), best=i == 2) for i in range(5))]] * 2, {1})
    assert re.findall(r'<th class="group" colspan="(\d)">(.*?)</th>', text) == [("2", "dev"), ("2", "test &amp; all")]
    assert re.findall(r'<th data-c="(\d)"', text.split("</tr>")[0]) == ["0", "1"] and text.count('rowspan="2"') == 2
    assert cells(text)[0][4] == ("test &amp; all: EER", "3")
    assert text.count('class="edge"') == 2 * 2 + 2 and text.count('class="best"') == 2 and text.count("<tr class=break>") == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.001, 0.2))
def test_names_are_apart(wanted, step):
    wanted = sorted(wanted)
    found = fig.apart(wanted, step)
    assert all(b - a >= step - 1e-9 for a, b in itertools.pairwise(found))
    if (len(wanted) - 1) * step <= 1:
        assert min(found) >= 0 and max(found) <= 1 + 1e-9
    if all(b - a >= step for a, b in itertools.pairwise(wanted)) and (len(wanted) - 1) * step <= 1:
        np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_names_beside_marks_do_not_meet(count):
    """All marks at one place; the texts' places in the drawing are read back."""
    with fig.rc():
        figure, (axes,) = fig.panels(height=fig.height_beside(count))
        axes.set(xlim=(0, 1), ylim=(4, 4.5))
        fig.names_beside(axes, [(0.5, 4.2, f"system{i}", fig.INK) for i in range(count)])
        text = fig.to_svg(figure, "x", "x")
    lines = re.findall(r"<text[^>]*(?:y=\"|translate\(\S+ )([\d.]+)[^>]*>system\d+<", text)
    height = float(re.search(r'viewBox="0 0 \S+ ([\d.]+)"', text)[1])
    places = sorted(map(float, lines))
    assert len(places) == count and all(b - a > 7.5 for a, b in itertools.pairwise(places))
    assert places[0] > 5 and places[-1] < height


def test_lines_of_one_colour_have_different_dashes():
    styles = [(fig.series(i), fig.dash(dashed, i)) for i in range(32) for dashed in (False, True)]
    assert len(set(styles)) == len(styles) and fig.dash(False, 7) == "solid"
