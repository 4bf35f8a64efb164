"""The table of block sensitivities in Markdown, and as a figure."""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter

from svq.bits.block_sensitivity import ALL, COLUMNS, FLOAT, BlockRow
from svq.draw import figure as fig
from svq.draw.figure import Drawn
from svq.draw.tables import markdown_table

_HEADS = ("quantized", "what it is", "weights", "saved (bytes)", "file (bytes)", "EER (%)", "to float", "95 % interval",
          "minDCF(0.01)", "to float", "95 % interval", "drift", "95th percentile")
_NAMES = {FLOAT: "nothing (float)", ALL: "all"}
_ROW_HEIGHT, _WIDTH = 0.19, 6.4  # inches


def markdown(rows: Sequence[BlockRow], note: str = "") -> str:
    """Makes the Markdown table of block sensitivities, with a line for each row; `note` goes below."""
    table = markdown_table(_HEADS, [_cells(row) for row in rows], left=2)
    below = ("Drift: 1 - cosine between an utterance's embeddings, in float and quantized, its mean and 95th "
             "percentile. Saved: of the packed file, against one with every layer in float.")
    return "\n\n".join(part for part in (table, below, note) if part) + "\n"


def _cells(row: BlockRow) -> list[str]:
    start = [_NAMES.get(row.block, row.block), row.kind, f"{row.weights:,}", f"{row.saved:,}", f"{row.bytes:,}"]
    if row.block == FLOAT:
        return [*start, f"{row.eer:.2f}", "-", "-", f"{row.mindcf:.3f}", "-", "-", "-", "-"]
    return [*start, f"{row.eer:.2f}", f"{row.eer_delta:+.2f}", _interval(row.eer_low, row.eer_high, 2),
            f"{row.mindcf:.3f}", f"{row.mindcf_delta:+.3f}", _interval(row.mindcf_low, row.mindcf_high, 3),
            f"{row.drift:.2g}", f"{row.drift_p95:.2g}"]


def _interval(low: float, high: float, digits: int) -> str:
    return "-" if math.isnan(low) else f"{low:+.{digits}f} to {high:+.{digits}f}"


def plot(rows: Sequence[BlockRow], title: str = "") -> Drawn:
    """Draws the cost of quantizing each block alone: the rise of the EER with its interval, and the drift.

    Blocks go from top to bottom in the order of the network, all blocks together last.
    """
    shown = [row for row in rows if row.block != FLOAT]
    places = np.arange(len(shown))
    with fig.rc():
        figure, (errors, moved) = fig.panels(1, 2, width=_WIDTH, height=0.9 + _ROW_HEIGHT * len(shown), sharey=True)
        for place, row in zip(places, shown):
            colour = fig.INK if row.block == ALL else fig.series(0)
            errors.plot([row.eer_low, row.eer_high], [place, place], color=colour, linewidth=1.4, alpha=0.8)
            errors.plot(row.eer_delta, place, "o", color=colour, markersize=4.5)
            moved.plot([_drawn(row.drift_p50), _drawn(row.drift_p95)], [place, place], color=colour, linewidth=1.4)
            moved.plot(_drawn(row.drift), place, "s", color=colour, markersize=4)
        errors.axvline(0, color=fig.INK, linewidth=0.8)
        errors.set_yticks(places, [_NAMES.get(row.block, row.block) for row in shown], parse_math=False)
        errors.set_ylim(len(shown) - 0.4, -0.6)
        if any(row.drift > 0 for row in shown):
            moved.set_xscale("log")
            moved.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for axes in (errors, moved):
            axes.yaxis.grid(False)
        fig.caption(errors, "", "EER, difference to float (%)")
        fig.caption(moved, "", "1 - cosine to the float embedding")
        svg = fig.to_svg(figure, "block_sensitivity", title or "Cost of quantizing one block at a time")
    note = ("One block at a time is quantized, the rest is in float. Left: dots with 95 % intervals over speakers. "
            "Right: squares are means, lines go from the median to the 95th percentile.")
    return Drawn("block_sensitivity", title or "Sensitivity of blocks", note, svg, COLUMNS,
                 [tuple(getattr(row, name) for name in COLUMNS) for row in rows])


def _drawn(value: float) -> float:
    return value if value > 0 else math.nan  # has no place on a logarithmic axis
