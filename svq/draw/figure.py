"""Matplotlib figures as small, themeable, reproducible inline SVG, and pieces that several share.

The page that embeds a figure decides its colours: a figure is drawn in sentinel
colours, and `to_svg` turns each of them into a CSS variable, so one drawing serves
the light theme, the dark theme and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

NUM_SERIES = 8
INK, MUTED, GRID, SURFACE = "#000101", "#000102", "#000103", "#000104"
_SERIES = [f"#0002{i:02x}" for i in range(NUM_SERIES)]
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"}
_VARIABLES.update({colour: f"--s{i}" for i, colour in enumerate(_SERIES)})

# Small on purpose: a figure fills a phone's width without its text becoming tiny.
WIDTH, HEIGHT = 3.9, 3.0

_RC = {
    "svg.fonttype": "none",  # real text: small, searchable, in the page's own font
    "svg.hashsalt": "svq",  # ids depend on the content alone
    "svg.id": None,
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.pad": 5.0,
    "ytick.major.pad": 5.0,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Drawn:
    """A figure. name: of its files. note: how to read it. columns, rows: the numbers that it shows. finding: a sentence
    on what it shows, computed from these."""

    name: str
    title: str
    note: str
    svg: str
    columns: tuple[str, ...]
    rows: list[tuple]
    finding: str = ""


def series(index: int) -> str:
    """Gives the sentinel colour of the index-th system (the palette repeats after eight)."""
    return _SERIES[index % NUM_SERIES]


def rc():
    """Gives the context in which a figure must be both built and saved."""
    return matplotlib.rc_context(_RC)


def panels(rows: int = 1, columns: int = 1, width: float = WIDTH, height: float = HEIGHT, **options):
    """Makes a figure without pyplot's global state; gives it and its axes in reading order. options: of
    `Figure.subplots`."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def caption(axes: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> None:
    """Sets title and labels of a panel in one call; nothing of them is parsed as mathematics."""
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Draws the legend of one panel below the whole figure, in as many columns as there is room for."""
    columns = max(1, int(figure.get_figwidth() / 1.7))
    drawn = figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=8,
                          ncols=columns)
    for text in drawn.get_texts():
        text.set_parse_math(False)


_NAME_SIZE, _NAME_STEP = 7.5, 8.8  # points: letters of a name, from one name to the next


def height_beside(names: int) -> float:
    """Gives the height in inches of a figure with room for so many names one above the other (`names_beside`)."""
    return max(HEIGHT, 0.85 + names * _NAME_STEP / 72)


def names_beside(axes: Axes, marks: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes names in a column to the right of the axes, joined to their marks by lines, so that no two names meet.

    marks: (x, y, name, colour) each, in data coordinates, y on a linear axis. Limits must have been set, and the figure
    be `height_beside(len(marks))` high.
    """
    low, high = axes.get_ylim()
    step = _NAME_STEP / (72 * (axes.figure.get_figheight() - 0.75))
    marks = sorted(marks, key=lambda mark: (mark[1], mark[0], mark[2]))
    places = apart([(y - low) / (high - low) for _, y, _, _ in marks], step)
    for (x, y, name, colour), place in zip(marks, places):
        axes.annotate(name, (x, y), (1.03, place), xycoords="data", textcoords="axes fraction", ha="left", va="center",
                      fontsize=_NAME_SIZE, parse_math=False, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.55, "shrinkA": 1,
                                  "shrinkB": 3.5})


def apart(wanted: Sequence[float], step: float) -> list[float]:
    """Gives places as near as can be (least squares) to the rising ones `wanted`, at least `step` apart, and within 0
    to 1 where there is room for all."""
    blocks: list[list[float]] = []  # sum of what its members want of the first, how many
    for index, place in enumerate(wanted):
        blocks.append([place - index * step, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + last[0], blocks[-1][1] + last[1]]
    starts = [total / count for total, count in blocks for _ in range(int(count))]
    room = 1 - (len(wanted) - 1) * step
    return [min(max(start, 0.0), max(room, 0.0)) + index * step for index, start in enumerate(starts)]


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Gives a figure as an `<svg>` element for an HTML page.

    name: prefix of every id in it, unique within the page.
    label: the description read out by a screen reader.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # An inline <style> would leak into the whole page; the page's CSS has the rule.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = _prefix_ids(text, name)
    text = re.sub(r"(?<=[\s\"])font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"font-family: [^;\"]*;?\s*", "", text)
    for sentinel, variable in _VARIABLES.items():
        text = text.replace(sentinel, f"var({variable})")
    view_box = re.search(r'viewBox="[^"]*"', text).group(0)
    head = f'<svg role="img" aria-label="{_attribute(label)}" {view_box}>'
    text = head + text[text.index(">") + 1 :]
    return re.sub(r">\s+<", "><", text).strip()


def _prefix_ids(text: str, name: str) -> str:
    """Drop the ids nothing refers to; make the others unique in the page."""
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    used = {first or second for first, second in used}

    def mend(match):
        return f' id="{name}-{match.group(1)}"' if match.group(1) in used else ""

    text = re.sub(r'\sid="([^"]*)"', mend, text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    return re.sub(r"url\(#", f"url(#{name}-", text)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


_BINS = 60


# The first is of the eight series with colours of their own; where colours come again, dashes tell them apart.
_DASHED = ((4, 1.6), (1.3, 1.3), (7, 1.6, 1.3, 1.6), (7, 1.3, 1.3, 1.3, 1.3, 1.3))
_SOLID = ((), (11, 1.2), (11, 1.2, 3, 1.2), (11, 1.2, 3, 1.2, 3, 1.2))


def dashes(dashed: bool, index: int = 0) -> tuple[float, ...]:
    """Gives the lengths of marks and gaps of the index-th series' line, empty for an unbroken one."""
    chosen = _DASHED if dashed else _SOLID
    return chosen[index // NUM_SERIES % len(chosen)]


def dash(dashed: bool, index: int = 0):
    """Gives the line style of the index-th series (`dashes`) for matplotlib."""
    lengths = dashes(dashed, index)
    return (0, lengths) if lengths else "solid"


def nice_ticks(count: int, integer: bool = False) -> MaxNLocator:
    """Gives a locator of ticks at 1, 2 or 5 times a power of ten, with at most `count` intervals between them."""
    return MaxNLocator(count, steps=[1, 2, 5, 10], integer=integer)


def edges_of(low: float, high: float, bins: int = _BINS) -> np.ndarray:
    """Gives the edges (bins + 1,) of equal bins from low to high with a margin; the two may be equal."""
    room = max(high - low, 1e-6 * max(abs(low), abs(high), 1.0))
    return np.linspace(low - 0.02 * room, high + 0.02 * room, bins + 1)


def weight_histogram(weights, values) -> tuple[np.ndarray, np.ndarray]:
    """Counts nearly all `weights` (n,) in bins that hold all of `values`, too: gives counts (bins,) and edges (bins +
    1,).

    The bins of a layer of a hundred weights are wider: sixty would show its gaps.
    """
    # A few far weights would press the rest into one spike: 0.2 % at either end may leave the frame.
    low, high = np.quantile(weights, [0.002, 0.998])
    bins = min(_BINS, 2 * int(np.sqrt(len(weights))))
    return np.histogram(weights, edges_of(min([low, *values]), max([high, *values]), bins))


def draw_histogram(axes, heights, edges) -> None:
    """Draws a grey histogram, in which coloured levels can stand, and sets the limits that fit it.

    heights: (bins,). edges: (bins + 1,).
    """
    axes.stairs(heights, edges, fill=True, color=MUTED, alpha=0.30, linewidth=0)
    axes.stairs(heights, edges, color=MUTED, linewidth=1.0)
    axes.set_ylim(0, 1.12 * (heights.max() or 1))
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(visible=False)
