"""Figures of a layer analysis: distortion by layer, retention, drift from part to part, distortion against loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from svq.analysis.layer_tables import CorrelationRow, MovedRow, PartRow
from svq.draw import figure as fig
from svq.draw.figure import Drawn

_WIDTH, _ROW_HEIGHT = 6.8, 0.2  # inches
_MARKERS = "osD^vP*X"


def distortion(rows: Sequence[PartRow], level: str, of: str) -> Drawn:
    """SQNR of the weights of each part, and where it was measured the signal to noise of its output alone."""
    places = np.arange(len(rows))
    outputs = [-10 * math.log10(row.output_mse) if row.output_mse > 0 else math.nan for row in rows]
    with fig.rc():
        figure, (axes,) = fig.panels(width=_WIDTH, height=0.9 + _ROW_HEIGHT * len(rows))
        axes.plot([row.sqnr if math.isfinite(row.sqnr) else math.nan for row in rows], places, "o", markersize=5,
                  color=fig.series(0), label="weights")
        if not all(map(math.isnan, outputs)):
            axes.plot(outputs, places, "s", markersize=4, color=fig.series(1), label="its output, quantized alone")
        _parts_axis(axes, rows)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        fig.caption(axes, "", "signal to quantization noise (dB)")
        svg = fig.to_svg(figure, f"distortion_{level}", f"Distortion by {level}")
    columns = ("part", "sqnr_db", "output_sqnr_db")
    return Drawn(f"distortion_{level}", f"Distortion by {level}",
                 f"{of}. To the right is better: 10 dB less are ten times the error. From top to bottom in the order "
                 "of the network.", svg, columns, [(r.part, r.sqnr, out) for r, out in zip(rows, outputs)])


def alone(rows: Sequence[PartRow], level: str, of: str) -> Drawn:
    """What the EER rises by when each part alone is quantized."""
    shown = [(row.part, row.alone_eer_delta, row.alone_eer_low, row.alone_eer_high) for row in rows]
    return _whiskers(f"alone_{level}", f"One {level} alone quantized", shown, rows, "EER, rise over float (%)",
                     f"{of}, one {level} at a time, all others in float. Lines: 95 % intervals over speakers.")


def kept(rows: Sequence[PartRow], level: str, of: str) -> Drawn:
    """What the EER falls by when each part alone is left in float."""
    shown = [(row.part, row.kept_eer_gain, row.kept_eer_low, row.kept_eer_high) for row in rows]
    return _whiskers(f"kept_{level}", f"All quantized but one {level}", shown, rows,
                     "EER, what keeping it in float gains (%)",
                     f"{of}, all but one {level}. Lines: 95 % intervals over speakers.")


def _whiskers(name, title, shown, rows, label, note) -> Drawn:
    with fig.rc():
        figure, (axes,) = fig.panels(width=_WIDTH - 1.4, height=0.9 + _ROW_HEIGHT * len(rows))
        for place, (_, value, low, high) in enumerate(shown):
            axes.plot([low, high], [place, place], color=fig.series(0), linewidth=1.4, alpha=0.8)
            axes.plot(value, place, "o", color=fig.series(0), markersize=4.5)
        axes.axvline(0, color=fig.INK, linewidth=0.8)
        _parts_axis(axes, rows)
        fig.caption(axes, "", label)
        svg = fig.to_svg(figure, name, title)
    return Drawn(name, title, note, svg, ("part", "eer", "low", "high"), shown)


def propagation(rows: Sequence[MovedRow], level: str, of: str) -> Drawn:
    """How an error goes on through the network: a line for each part that is quantized alone, one for all."""
    at = list(dict.fromkeys(row.at for row in rows))
    with fig.rc():
        figure, (axes,) = fig.panels(width=_WIDTH, height=3.4)
        for index, part in enumerate(dict.fromkeys(row.part for row in rows)):
            line = [row for row in rows if row.part == part and row.relative_mse > 0]
            everything = part not in at
            axes.plot([at.index(row.at) for row in line], [row.relative_mse for row in line], markersize=4,
                      marker=_MARKERS[index % len(_MARKERS)], color=fig.INK if everything else fig.series(index),
                      label="everything" if everything else part)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xticks(range(len(at)), at, rotation=30, ha="right", parse_math=False)
        axes.legend(frameon=False, title="quantized", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        fig.caption(axes, "", "output of", "relative squared error")
        svg = fig.to_svg(figure, f"propagation_{level}", f"How far outputs move, by {level}")
    return Drawn(f"propagation_{level}", f"How far outputs move, by {level}",
                 f"{of}. Squared difference to the output with nothing quantized, over that output's square, mean over "
                 f"utterances. Each line begins at the {level} that alone is quantized.", svg,
                 ("part", "at", "relative_mse", "cosine"), [(r.part, r.at, r.relative_mse, r.cosine) for r in rows])


def against(rows: Sequence[PartRow], correlation: CorrelationRow, of: str) -> Drawn:
    """The EER's rise against the distortion of the weights; the correlation in the title."""
    level = correlation.level
    title = f"Spearman {correlation.spearman:+.2f}"
    if not math.isnan(correlation.spearman_low):
        title += f" ({correlation.spearman_low:+.2f} to {correlation.spearman_high:+.2f})"
    with fig.rc():
        figure, (axes,) = fig.panels(width=5.2, height=3.6)
        for row in rows:
            axes.plot([row.relative_mse] * 2, [row.alone_eer_low, row.alone_eer_high], color=fig.series(0),
                      linewidth=1.2, alpha=0.6)
            axes.plot(row.relative_mse, row.alone_eer_delta, "o", color=fig.series(0), markersize=4.5)
            axes.annotate(row.part, (row.relative_mse, row.alone_eer_delta), xytext=(3, 3), parse_math=False,
                          textcoords="offset points", fontsize=6.5, color=fig.MUTED)
        axes.axhline(0, color=fig.INK, linewidth=0.8)
        fig.caption(axes, title, "relative squared error of the weights", "EER, rise over float (%)")
        svg = fig.to_svg(figure, f"against_{level}", f"Distortion of weights and loss, by {level}")
    columns = ("part", "relative_mse", "eer", "low", "high")
    return Drawn(f"against_{level}", f"Distortion of weights and loss, by {level}",
                 f"{of}, one {level} at a time. Were the loss explained by the distortion, dots would rise from left "
                 "to right without a step back.", svg, columns,
                 [(r.part, r.relative_mse, r.alone_eer_delta, r.alone_eer_low, r.alone_eer_high) for r in rows])


def _parts_axis(axes, rows: Sequence[PartRow]) -> None:
    """Names of the parts from top to bottom."""
    axes.set_yticks(range(len(rows)), [row.part for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.yaxis.grid(False)
