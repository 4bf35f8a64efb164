"""Files of a layer analysis: index.html, which holds everything, layers.md, tables and figures.

Figures: distortion by part, retention, drift from part to part, distortion against loss.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from svq.analysis import layer_tables as tables
from svq.analysis.layer_tables import CorrelationRow, MovedRow, PartRow
from svq.atomic import atomic_write
from svq.draw import figure as fig
from svq.draw.figure import NUM_SERIES, Drawn
from svq.draw.page import page, section, write_figures
from svq.draw.tables import write_rows
from svq.report import findings
from svq.report.index import finish

_SYSTEMS = ("Loss: above the first network, with intervals over speakers that are the same resampled ones everywhere. "
            "Drift: mean 1 - cosine of an utterance's embeddings to those with nothing quantized. Latent: with the float "
            "weights that finetuning kept. Renormed: all quantized, with batch norms measured anew as those of every "
            "network with a part in float are; what that alone does.")
_ALONE = ("SQNR and relative MSE: of the weights. Output, drift and error rates: with this part alone quantized, "
          "against nothing quantized.")
_KEPT = ("Everything quantized but one part. Gain: below the quantized network; share: of what quantizing everything "
         "costs, left out where that cost is not above 0 in 97.5 % of the resamplings.")
_CORRELATION = ("Rank correlation, over the parts, of what is known of them with what they cost. Intervals: from "
                "resampled speakers, which change the losses. p: share of random pairings that correlate as strongly. "
                "Unexplained: 1 - Spearman squared. Repeatable: mean Spearman of the losses of two resamplings with "
                "each other, a bound from above, since both draw from the same speakers; where it is low, losses are "
                "measured too coarsely for any correlation to be high.")


@dataclasses.dataclass(frozen=True)
class Findings:
    """Findings of a layer analysis. title: of the page. said: a line on what was measured; method: a line on the
    quantization."""

    title: str
    said: str
    method: str
    systems: Sequence[tables.SystemRow]
    parts: Sequence[tables.PartRow]
    moved: Sequence[tables.MovedRow]
    correlations: Sequence[tables.CorrelationRow]

    @property
    def levels(self) -> list[str]:
        """The levels of parts that were measured, such as block and layer, in order."""
        return list(dict.fromkeys(row.level for row in self.parts))


def write(folder, found: Findings) -> None:
    """Writes tables (systems, parts, movements, correlations, each .tsv), figures, layers.md, and index.html last."""
    folder = os.fspath(folder)
    for name, kind, rows in (("systems", tables.SystemRow, found.systems), ("parts", tables.PartRow, found.parts),
                             ("movements", tables.MovedRow, found.moved),
                             ("correlations", tables.CorrelationRow, found.correlations)):
        write_rows(os.path.join(folder, f"{name}.tsv"), kind, rows, 9, found.said)
    figures = {level: figures_of(found, level) for level in found.levels}
    write_figures(folder, [drawn for level in figures.values() for drawn in level])
    with atomic_write(os.path.join(folder, "layers.md")) as file:
        file.write(markdown(found))
    with atomic_write(os.path.join(folder, "index.html")) as file:
        file.write(html(found, figures))
    finish(os.path.join(folder, "index.html"))


def figures_of(found: Findings, level: str) -> list[Drawn]:
    """Draws the figures of a level, those that there is something to show for."""
    rows = tables.of_level(found.parts, level)
    drawn = [distortion(rows, level, found.method)]
    if not math.isnan(rows[0].alone_eer):
        drawn.append(alone(rows, level, found.method))
        if len(rows) <= NUM_SERIES:  # more lines than colours cannot be told apart; the table has them
            drawn.append(propagation(tables.of_level(found.moved, level), level, found.method))
    if not math.isnan(rows[0].kept_eer):
        drawn.append(kept(rows, level, found.method))
    main = tables.of_level(found.correlations, level,
                           lambda row: (row.predictor, row.loss) == ("relative_mse", "alone_eer"))
    return drawn + [against(rows, row, found.method) for row in main]


def _sections(found: Findings) -> list[tuple[str, str, str, tables.Shown]]:
    """(key, title, note, table), in the order to read."""
    parts = [("systems", "The networks as wholes", _SYSTEMS, tables.systems(found.systems))]
    for level in found.levels:
        rows = tables.of_level(found.parts, level)
        if not math.isnan(rows[0].kept_eer):
            parts.append((f"retention-{level}", f"One {level} left in float", _KEPT, tables.retention(rows)))
        parts.append((f"parts-{level}", f"One {level} quantized", _ALONE, tables.distortions(rows)))
    if found.correlations:
        parts.append(("correlation", "What explains the loss", _CORRELATION, tables.correlations(found.correlations)))
    return parts


def markdown(found: Findings) -> str:
    """Writes the findings as Markdown: a headline sentence, then a table a section."""
    parts = [f"## {title}\n\n{shown.markdown()}\n{note}\n" for _, title, note, shown in _sections(found)]
    return f"# {found.title}\n\n{found.said}\n\n" + "\n".join(parts)


def html(found: Findings, figures: dict[str, list[Drawn]]) -> str:
    """Writes the findings as a page. figures: the drawings by level."""
    sections = [(key, title, f'<p class="note">{escape(note)}</p>{shown.html()}')
                for key, title, note, shown in _sections(found)]
    sections += [(drawn.name, drawn.title, section(drawn)) for level in figures.values() for drawn in level]
    return page(found.title, escape(found.said), sections, "Made by <code>steps/layer_analysis.sh</code>.")


_WIDTH, _ROW_HEIGHT = 6.8, 0.2  # inches
_MARKERS = "osD^vP*X"


def distortion(rows: Sequence[PartRow], level: str, of: str) -> Drawn:
    """Plots the SQNR of the weights of each part and, where it was measured, of its output when it alone is
    quantized."""
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
                 "of the network.", svg, columns, [(r.part, r.sqnr, out) for r, out in zip(rows, outputs)],
                 findings.spread("SQNR of the weights", [(r.part, r.sqnr) for r in rows], ".1f", " dB"))


def alone(rows: Sequence[PartRow], level: str, of: str) -> Drawn:
    """Plots by how much the EER rises when each part alone is quantized."""
    shown = [(row.part, row.alone_eer_delta, row.alone_eer_low, row.alone_eer_high) for row in rows]
    return _whiskers(f"alone_{level}", f"One {level} alone quantized", shown, rows, "EER, rise over float (%)", "Rise of the EER",
                     f"{of}, one {level} at a time, all others in float. Lines: 95 % intervals over speakers.")


def kept(rows: Sequence[PartRow], level: str, of: str) -> Drawn:
    """Plots by how much the EER falls when each part alone is left in float."""
    shown = [(row.part, row.kept_eer_gain, row.kept_eer_low, row.kept_eer_high) for row in rows]
    return _whiskers(f"kept_{level}", f"All quantized but one {level}", shown, rows,
                     "EER, what keeping it in float gains (%)", "Gain in EER",
                     f"{of}, all but one {level}. Lines: 95 % intervals over speakers.")


def _whiskers(name, title, shown, rows, label, what, note) -> Drawn:
    with fig.rc():
        figure, (axes,) = fig.panels(width=_WIDTH - 1.4, height=0.9 + _ROW_HEIGHT * len(rows))
        for place, (_, value, low, high) in enumerate(shown):
            axes.plot([low, high], [place, place], color=fig.series(0), linewidth=1.4, alpha=0.8)
            axes.plot(value, place, "o", color=fig.series(0), markersize=4.5)
        axes.axvline(0, color=fig.INK, linewidth=0.8)
        _parts_axis(axes, rows)
        fig.caption(axes, "", label)
        svg = fig.to_svg(figure, name, title)
    return Drawn(name, title, note, svg, ("part", "eer", "low", "high"), shown, _said_of(what, shown))


def _said_of(what: str, shown: Sequence[tuple]) -> str:
    """Ends of some differences, and how many of them are told from 0."""
    said = findings.spread(what, [(part, value) for part, value, _, _ in shown], "+.2f", " %")
    known = [(low, high) for _, value, low, high in shown if not any(map(math.isnan, (value, low, high)))]
    if not known:
        return said
    return f"{said} Of {len(known)} intervals, {sum(low > 0 or high < 0 for low, high in known)} leave out 0."


def propagation(rows: Sequence[MovedRow], level: str, of: str) -> Drawn:
    """Plots how an error goes on through the network: a line for each part that is quantized alone, one for all."""
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
                 ("part", "at", "relative_mse", "cosine"), [(r.part, r.at, r.relative_mse, r.cosine) for r in rows],
                 findings.spread(f"Relative squared error at the output of {at[-1]}, by what is quantized",
                                 [(r.part, r.relative_mse) for r in rows if r.at == at[-1]], ".2g"))


def against(rows: Sequence[PartRow], correlation: CorrelationRow, of: str) -> Drawn:
    """Plots the EER's rise against the distortion of the weights, with the correlation in the title."""
    level = correlation.level
    title = f"Spearman {correlation.spearman:+.2f}"
    if not math.isnan(correlation.spearman_low):
        title += f" ({correlation.spearman_low:+.2f} to {correlation.spearman_high:+.2f})"
    with fig.rc():
        figure, (axes,) = fig.panels(width=5.2, height=max(3.6, fig.height_beside(len(rows))))
        for row in rows:
            axes.plot([row.relative_mse] * 2, [row.alone_eer_low, row.alone_eer_high], color=fig.series(0),
                      linewidth=1.2, alpha=0.6)
            axes.plot(row.relative_mse, row.alone_eer_delta, "o", color=fig.series(0), markersize=4.5)
        axes.axhline(0, color=fig.INK, linewidth=0.8)
        axes.set_ylim(*axes.get_ylim())
        fig.names_beside(axes, [(row.relative_mse, row.alone_eer_delta, row.part, fig.MUTED) for row in rows])
        fig.caption(axes, title, "relative squared error of the weights", "EER, rise over float (%)")
        svg = fig.to_svg(figure, f"against_{level}", f"Distortion of weights and loss, by {level}")
    columns = ("part", "relative_mse", "eer", "low", "high")
    return Drawn(f"against_{level}", f"Distortion of weights and loss, by {level}",
                 f"{of}, one {level} at a time. Were the loss explained by the distortion, dots would rise from left "
                 "to right without a step back.", svg, columns,
                 [(r.part, r.relative_mse, r.alone_eer_delta, r.alone_eer_low, r.alone_eer_high) for r in rows],
                 _said_of_correlation(correlation))


def _said_of_correlation(found: CorrelationRow) -> str:
    """Whether distortion and loss are shown to go together."""
    said = f"Spearman {found.spearman:+.2f} over {found.parts} parts"
    if math.isnan(found.spearman_low):
        return f"{said}; no interval is known."
    said += f" ({found.spearman_low:+.2f} to {found.spearman_high:+.2f})"
    if found.spearman_low > 0:
        return f"{said}: the more distorted parts cost more."
    if found.spearman_high < 0:
        return f"{said}: the more distorted parts cost less."
    return f"{said}: nothing is shown, for the interval holds 0."


def _parts_axis(axes, rows: Sequence[PartRow]) -> None:
    """Names of the parts from top to bottom."""
    axes.set_yticks(range(len(rows)), [row.part for row in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.yaxis.grid(False)
