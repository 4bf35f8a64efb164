"""Pieces of figures that several pages share: ticks, dashes, histograms."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

from svq.draw import figure as fig

_BINS = 60


def dash(dashed: bool):
    return (0, (4, 1.6)) if dashed else "solid"


def nice_ticks(count: int, integer: bool = False) -> MaxNLocator:
    """At most `count` intervals of 1, 2 or 5 times a power of ten."""
    return MaxNLocator(count, steps=[1, 2, 5, 10], integer=integer)


def edges_of(low: float, high: float, bins: int = _BINS) -> np.ndarray:
    """Edges of equal bins from low to high with a margin; safe when the two are equal."""
    room = max(high - low, 1e-6 * max(abs(low), abs(high), 1.0))
    return np.linspace(low - 0.02 * room, high + 0.02 * room, bins + 1)


def weight_histogram(weights, values) -> tuple[np.ndarray, np.ndarray]:
    """Counts (bins,) and edges (bins + 1,) over nearly all `weights` (n,) and all of `values`.

    The bins of a layer of a hundred weights are wider: sixty would show its gaps.
    """
    # A few far weights would press the rest into one spike: 0.2 % at either end may leave the frame.
    low, high = np.quantile(weights, [0.002, 0.998])
    bins = min(_BINS, 2 * int(np.sqrt(len(weights))))
    return np.histogram(weights, edges_of(min([low, *values]), max([high, *values]), bins))


def draw_histogram(axes, heights, edges) -> None:
    """A grey histogram for coloured levels to stand in, and the frame that fits it."""
    axes.stairs(heights, edges, fill=True, color=fig.MUTED, alpha=0.30, linewidth=0)
    axes.stairs(heights, edges, color=fig.MUTED, linewidth=1.0)
    axes.set_ylim(0, 1.12 * (heights.max() or 1))
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(visible=False)
