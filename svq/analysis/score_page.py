"""The files of a score analysis: maps, scores.tsv, scores.md, figures, and index.html that holds all in one.

Figures: errors over bits, flips by distance to the threshold, reliability.
"""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

import numpy as np

from svq.analysis import score_tables
from svq.analysis.score_analysis import KNEES, LLR, ORDER, Analysis, swept
from svq.analysis.score_lists import distance_names
from svq.analysis.score_measures import Lookup, ScoreRow
from svq.analysis.score_tables import MEASURES
from svq.atomic import atomic_write
from svq.backend.score_map import save_map
from svq.config import dump_config
from svq.draw import figure as fig
from svq.draw.figure import Drawn, nice_ticks
from svq.draw.page import page, section, write_figures
from svq.draw.tables import write_rows
from svq.report import findings
from svq.report.index import finish

MADE = "Made by <code>steps/score_analysis.sh</code>."


def summary(out: Analysis) -> str:
    """Says in a line how many systems were compared, and on which lists."""
    lists = "; ".join(f"{name}: {targets:,} target and {others:,} non-target trials of {speakers} speakers"
                      for name, (targets, others, speakers) in out.sizes.items())
    return f"{len(out.compared)} systems against {out.reference}. {lists}. Fitted on {next(iter(out.sizes))} alone."


def markdown(out: Analysis) -> str:
    """Writes the analysis as Markdown: its summary, all tables, notes."""
    parts = [summary(out), *(score_tables.markdown(table) for table in score_tables.tables(out)), *out.notes]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write(folder, out: Analysis, title: str) -> None:
    """Writes maps, tables and figures of a score analysis, and index.html last: it says that the rest is there."""
    folder = Path(folder)
    for system, maps in out.fitted.maps.items():
        if system != out.reference:
            for kind, each in maps.items():
                save_map(each, folder / "maps" / f"{system}.{kind}.json")
        save_map(out.fitted.calibrations[system], folder / "maps" / f"{system}.calibration.json")
    dump_config(out.config, folder / "config.yaml")
    write_rows(folder / "scores.tsv", ScoreRow, out.rows)
    with atomic_write(folder / "scores.md") as file:
        file.write(markdown(out))
    drawn = figures(out)
    write_figures(folder, drawn)
    sections = [(table.key, table.title, score_tables.html(table)) for table in score_tables.tables(out)]
    sections += [(each.name, each.title, section(each)) for each in drawn]
    with atomic_write(folder / "index.html") as file:
        file.write(page(title, escape(" ".join((summary(out), *out.notes))), sections, MADE))
    finish(folder / "index.html")


_WIDE, _ABREAST = 6.6, 3  # inches, panels
_SCALES = {"eer": ORDER, "mindcf": ORDER, "cllr": LLR}


def figures(out: Analysis) -> list[Drawn]:
    """Draws for each list errors over bits, flips by distance, and reliability."""
    look = Lookup(out.rows)
    found = []
    for name in out.sizes:
        found += [over_bits(out, look, name), by_distance(out, look, name), reliability(out, name)]
    return found


def over_bits(out: Analysis, look: Lookup, name: str) -> Drawn:
    """Plots errors over bits, a panel for each measure; the line across is the reference with its interval, a ring the
    knee."""
    columns = ("measure", "system", "bits", "value", "low", "high")
    rows = []
    with fig.rc():
        rows_of = -(-len(KNEES) // _ABREAST)
        figure, axes = fig.panels(rows_of, _ABREAST, width=_WIDE, height=0.5 + 2.3 * rows_of)
        for axis in axes[len(KNEES):]:
            axis.set_visible(False)
        for axis, measure in zip(axes, KNEES):
            found = {system: look(name, system, _SCALES.get(measure, out.config.scale), measure)
                     for system in (out.reference, *out.compared)}
            rows += [(measure, row.system, row.bits, row.value, row.low, row.high) for row in found.values() if row]
            _draw_over_bits(axis, found, out)
            joined = sorted((found[system].bits, found[system].value) for system in swept(out)[0])
            axis.plot(*zip(*joined) if joined else ([], []), color=fig.MUTED, linewidth=0.9, linestyle=(0, (4, 2)),
                      zorder=1)
            knee = out.knees.get(name, {}).get(measure)
            if knee is not None and knee.bits is not None:
                axis.plot(knee.bits, dict(joined)[knee.bits], "o", color=fig.INK, markersize=11, markerfacecolor="none")
            fig.caption(axis, MEASURES[measure], "bits")
        fig.legend_below(figure, axes[0])
        svg = fig.to_svg(figure, f"bits_{name}", f"Errors over bits on {name}")
    note = (f"Dots with 95 % intervals over speakers; the line across and its band are those of {out.reference}; the "
            "dashes join the systems in which the knee is looked for, the ring is the knee.")
    return Drawn(f"bits_{name}", f"Over bits: {name}", note, svg, columns, rows, _said_over_bits(out, look, name))


def _said_over_bits(out: Analysis, look: Lookup, name: str) -> str:
    """Says which systems have a higher EER than the reference, and which a lower one, as far as the intervals tell."""
    rows = {system: look(name, system, ORDER, "eer") for system in out.compared}
    rows = {system: row for system, row in rows.items() if row is not None and not math.isnan(row.delta)}
    if not rows:
        return f"EER against {out.reference}: nothing is known."
    if any(math.isnan(row.delta_low) for row in rows.values()):
        return findings.spread(f"EER less {out.reference}'s", [(s, row.delta) for s, row in rows.items()], "+.2f", " %")
    higher = [system for system, row in rows.items() if row.delta_low > 0]
    lower = [system for system, row in rows.items() if row.delta_high < 0]
    said = [f"{findings.names_of(systems)} {'has' if len(systems) == 1 else 'have'} a {what} EER"
            for systems, what in ((higher, "higher"), (lower, "lower")) if systems]
    rest = len(rows) - len(higher) - len(lower)
    said += [f"{rest} of {len(rows)} cannot be told from it"] if rest else []
    return f"Against {out.reference}: {'; '.join(said)}."


def _draw_over_bits(axis, found: dict, out: Analysis) -> None:
    reference = found[out.reference]
    if reference is not None:
        axis.axhline(reference.value, color=fig.INK, linewidth=0.9)
        if not math.isnan(reference.low):
            axis.axhspan(reference.low, reference.high, color=fig.MUTED, alpha=0.15, linewidth=0)
    for system in out.compared:
        row = found[system]
        colour = fig.series(out.compared.index(system))
        axis.plot([row.bits, row.bits], [row.low, row.high], color=colour, linewidth=1.3, alpha=0.8)
        axis.plot(row.bits, row.value, "o", color=colour, markersize=5, label=system)
    sizes = sorted({found[system].bits for system in out.compared})
    axis.set_xlim(max(sizes) + 0.5, min(sizes) - 0.5)
    axis.set_xticks(*_labelled(sizes))
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(nice_ticks(4))


def _labelled(sizes: list[float]) -> tuple[list[float], list[str]]:
    """Chooses the bits that are written on an axis, rising: a twelfth of it or more from the last one written."""
    room = (sizes[-1] - sizes[0] + 1) / 12
    kept = sizes[:1]
    for size in sizes[1:]:
        if size - kept[-1] >= room:
            kept.append(size)
    return kept, [f"{size:.3g}" for size in kept]


def by_distance(out: Analysis, look: Lookup, name: str) -> Drawn:
    """Draws harmful flips upwards and beneficial ones downwards, in bins of distance to the threshold."""
    bins, scale = distance_names(), out.config.scale
    columns = ("system", "bits", "distance", "flips", "value", "low", "high")
    rows = []
    places, width = np.arange(len(bins)), 0.8 / len(out.compared)
    with fig.rc():
        figure, (axis,) = fig.panels(width=_WIDE, height=3.3)
        for index, system in enumerate(out.compared):
            x = places + (index - (len(out.compared) - 1) / 2) * width
            for kind, sign in (("harmful", 1), ("beneficial", -1)):
                found = [look(name, system, scale, kind, "distance", group) for group in bins]
                rows += [(system, row.bits, row.group, kind, row.value, row.low, row.high) for row in found]
                axis.bar(x, [sign * row.value for row in found], width, color=fig.series(index), linewidth=0,
                         alpha=1.0 if sign > 0 else 0.5, label=system if sign > 0 else None)
                for place, row in zip(x, found):
                    axis.plot([place, place], [sign * row.low, sign * row.high], color=fig.INK, linewidth=0.7)
        axis.axhline(0, color=fig.INK, linewidth=0.8)
        axis.set_xticks(places, bins, parse_math=False)
        axis.xaxis.grid(False)
        axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
        fig.legend_below(figure, axis)
        fig.caption(axis, "", "trials by distance of the float score to the threshold", "flips (% of the bin)")
        svg = fig.to_svg(figure, f"flips_{name}", f"Decision flips by distance to the threshold on {name}")
    note = (f"Upwards: harmful flips of {scale} scores, downwards: beneficial ones, with 95 % intervals over speakers. "
            "Bins are shares of the development trials, nearest to the threshold first.")
    nearest = [(system, row.value) for system in out.compared
               if (row := look(name, system, scale, "harmful_share", "distance", bins[0])) is not None]
    said = findings.spread(f"Of a system's harmful flips, in the bin nearest to the threshold ({bins[0]})", nearest, ".0f", " %")
    return Drawn(f"flips_{name}", f"Flips by distance: {name}", note, svg, columns, rows, said)


def reliability(out: Analysis, name: str) -> Drawn:
    """Plots stated against observed log-odds, and below it how many trials each point has."""
    found = out.reliability[name]
    with fig.rc():
        figure, (axis, counts) = fig.panels(2, 1, width=4.6, height=5.4, height_ratios=(3, 1), sharex=True)
        axis.axline((0, 0), slope=1, color=fig.MUTED, linewidth=0.8)
        for index, (system, bins) in enumerate(found.items()):
            colour = fig.INK if system == out.reference else fig.series(index - 1)
            x = [point.stated for point in bins]
            for point in bins:
                axis.plot([point.stated] * 2, [point.low, point.high], color=colour, linewidth=0.8, alpha=0.5)
            observed = [point.observed for point in bins]
            axis.plot(x, observed, "o-", color=colour, markersize=3, linewidth=1, label=system)
            counts.plot(x, [point.targets + point.nontargets for point in bins], color=colour, linewidth=1)
        counts.set_yscale("log")
        fig.legend_below(figure, axis)
        fig.caption(axis, "", "", "observed log-odds")
        fig.caption(counts, "", "stated log-likelihood ratio", "trials")
        svg = fig.to_svg(figure, f"reliability_{name}", f"Reliability of calibrated scores on {name}")
    columns = ("system", "stated", "observed", "low", "high", "targets", "nontargets")
    rows = [(system, point.stated, point.observed, point.low, point.high, point.targets, point.nontargets)
            for system, bins in found.items() for point in bins]
    note = ("Calibrated on the development list. The diagonal is perfect: trials of a stated log-likelihood ratio have "
            "these odds at equal priors. Half a trial is added to every count; lines are 95 % intervals over speakers.")
    return Drawn(f"reliability_{name}", f"Reliability: {name}", note, svg, columns, rows, _said_of_reliability(found))


def _said_of_reliability(found: dict) -> str:
    """Says how many points' intervals leave out the diagonal."""
    points = [(system, point) for system, bins in found.items() for point in bins if not math.isnan(point.low)]
    if not points:
        return "No interval is known."
    off = [system for system, point in points if not point.low <= point.stated <= point.high]
    said = f"Of {len(points)} points, {len(off)} have an interval that leaves out the diagonal"
    return f"{said}, of {findings.names_of(list(dict.fromkeys(off)))}." if off else f"{said}."
