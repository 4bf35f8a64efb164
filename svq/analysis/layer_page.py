"""Files of a layer analysis: index.html, which holds everything, layers.md, tables and figures."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from html import escape

from svq.analysis import layer_plots as plots, layer_tables as tables
from svq.atomic import atomic_write
from svq.draw.figure import NUM_SERIES, Drawn
from svq.draw.page import page, section, write_figures

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
    """What a layer analysis found. title: of the page. said: a line on what was measured; method: on how quantized."""

    title: str
    said: str
    method: str
    systems: Sequence[tables.SystemRow]
    parts: Sequence[tables.PartRow]
    moved: Sequence[tables.MovedRow]
    correlations: Sequence[tables.CorrelationRow]

    @property
    def levels(self) -> list[str]:
        return list(dict.fromkeys(row.level for row in self.parts))


def write(folder, found: Findings) -> None:
    """Tables (systems, parts, movements, correlations, each .tsv), figures, layers.md, and index.html last."""
    folder = os.fspath(folder)
    for name, kind, rows in (("systems", tables.SystemRow, found.systems), ("parts", tables.PartRow, found.parts),
                             ("movements", tables.MovedRow, found.moved),
                             ("correlations", tables.CorrelationRow, found.correlations)):
        tables.write_rows(os.path.join(folder, f"{name}.tsv"), kind, rows, found.said)
    figures = {level: figures_of(found, level) for level in found.levels}
    write_figures(folder, [drawn for level in figures.values() for drawn in level])
    with atomic_write(os.path.join(folder, "layers.md")) as file:
        file.write(markdown(found))
    with atomic_write(os.path.join(folder, "index.html")) as file:
        file.write(html(found, figures))


def figures_of(found: Findings, level: str) -> list[Drawn]:
    """Those of a level that there is something to show for."""
    rows = tables.of_level(found.parts, level)
    drawn = [plots.distortion(rows, level, found.method)]
    if not math.isnan(rows[0].alone_eer):
        drawn.append(plots.alone(rows, level, found.method))
        if len(rows) <= NUM_SERIES:  # more lines than colours cannot be told apart; the table has them
            drawn.append(plots.propagation(tables.of_level(found.moved, level), level, found.method))
    if not math.isnan(rows[0].kept_eer):
        drawn.append(plots.kept(rows, level, found.method))
    main = tables.of_level(found.correlations, level,
                           lambda row: (row.predictor, row.loss) == ("relative_mse", "alone_eer"))
    return drawn + [plots.against(rows, row, found.method) for row in main]


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
    parts = [f"## {title}\n\n{shown.markdown()}\n{note}\n" for _, title, note, shown in _sections(found)]
    return f"# {found.title}\n\n{found.said}\n\n" + "\n".join(parts)


def html(found: Findings, figures: dict[str, list[Drawn]]) -> str:
    sections = [(key, title, f'<p class="note">{escape(note)}</p>{shown.html()}')
                for key, title, note, shown in _sections(found)]
    sections += [(drawn.name, drawn.title, section(drawn)) for level in figures.values() for drawn in level]
    return page(found.title, escape(found.said), sections, "Made by <code>steps/layer_analysis.sh</code>.")
