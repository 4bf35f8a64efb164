"""Tables of a score analysis, as plain cells, in Markdown and in HTML."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from html import escape

from svq.analysis.score_analysis import KNEES, LLR, ORDER, Analysis
from svq.analysis.score_lists import RAW, SCALES, distance_names
from svq.analysis.score_measures import Knee, Lookup, ScoreRow
from svq.draw.tables import html_table, markdown_table
from svq.names import FLOAT_ROW, PTQ

MEASURES = {"eer": "EER (%)", "mindcf": "minDCF", "cllr": "Cllr", "rms": "drift (rms)", "harmful": "harmful flips (%)"}
DIGITS = {"eer": 2, "mindcf": 3, "actdcf": 3, "cllr": 3, "min_cllr": 3}  # others: 3
_NONE = "-"


@dataclass(frozen=True)
class Table:
    """left: how many columns hold words. rows: as many cells each as there are heads."""

    key: str
    title: str
    note: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int


def markdown(table: Table, level: str = "###") -> str:
    """Writes a table as Markdown under its title; `level` is the mark of a heading."""
    lines = markdown_table(table.heads, table.rows, table.left)
    return "\n\n".join(part for part in (f"{level} {table.title}", table.note, lines) if part) + "\n"


def html(table: Table) -> str:
    """Writes a table as HTML, below its note."""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return note + html_table(table.heads, table.rows, table.left)


def tables(out: Analysis) -> list[Table]:
    """Makes all tables of a score analysis; one without rows is left out."""
    look = Lookup(out.rows)
    found = [_main(out, look), _differences(out, look), _drift(out, look), _knees(out), _distance(out, look)]
    found += [_groups(out, look, kind) for kind in ("duration", "gender", "domain")]
    return [table for table in found if table.rows]


def cell(row: ScoreRow | None, digits: int = 3) -> str:
    """Formats a value with its interval; '-' where there is none."""
    if row is None or math.isnan(row.value):
        return _NONE
    return f"{row.value:.{digits}f}{_interval(row.low, row.high, digits, '')}"


def _difference(row: ScoreRow | None, digits: int) -> str:
    if row is None or math.isnan(row.delta):
        return _NONE
    return f"{row.delta:+.{digits}f}{_interval(row.delta_low, row.delta_high, digits, '+')}"


def _interval(low: float, high: float, digits: int, sign: str) -> str:
    return "" if math.isnan(low) else f" ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def _bits(out: Analysis, system: str) -> str:
    return f"{out.bits[system]:.3g}"


def _main(out: Analysis, look: Lookup) -> Table:
    config = out.config
    heads = ("trials", "system", "bits", "EER (%)", "minDCF", "actDCF", "Cllr", "minCllr", "drift (rms)",
             "harmful (%)", "beneficial (%)", "net (%)", "harmful, raw (%)", "net, raw (%)")
    rows = []
    for name in out.sizes:
        for system in (out.reference, *out.compared):
            asked = ((ORDER, "eer"), (ORDER, "mindcf"), (LLR, "actdcf"), (LLR, "cllr"), (ORDER, "min_cllr"),
                     *((config.scale, name) for name in ("rms", "harmful", "beneficial", "net")),
                     (RAW, "harmful"), (RAW, "net"))
            rows.append((name, system, _bits(out, system),
                         *(cell(look(name, system, *each), DIGITS.get(each[1], 3)) for each in asked)))
    note = (f"minDCF and actDCF at p_target {config.p_target:g}, c_miss {config.c_miss:g}, c_fa {config.c_fa:g}. Drift "
            f"and flips: {config.scale} scores against those of {out.reference}; raw: no map. Flips in per cent of all "
            f"trials at {_threshold(out)}; net: harmful less beneficial, both classes weighing the same, which is the "
            "rise of the half total error rate there. Intervals: 95 %, over speakers.")
    return Table("main", "Errors, drift and flips over bits", note, heads, rows, 2)


def _threshold(out: Analysis) -> str:
    name = next(iter(out.sizes))
    what = "EER threshold" if out.config.operating_point == "eer" else "Bayes threshold"
    return f"the {what} of {out.reference} on {name} ({out.fitted.threshold:.4f})"


def _differences(out: Analysis, look: Lookup) -> Table:
    heads = ("trials", "system", "bits", "EER (%)", "minDCF", "actDCF", "Cllr", "minCllr")
    asked = ((ORDER, "eer"), (ORDER, "mindcf"), (LLR, "actdcf"), (LLR, "cllr"), (ORDER, "min_cllr"))
    rows = []
    for name in out.sizes:
        for system in out.compared:
            cells = (_difference(look(name, system, *each), DIGITS[each[1]]) for each in asked)
            rows.append((name, system, _bits(out, system), *cells))
    note = "The same resampled speakers for both systems, so that their luck cancels." + _without_control(out)
    return Table("differences", f"Differences to {out.reference}", note, heads, rows, 2)


def _without_control(out: Analysis) -> str:
    """Says which differences also hold what finetuning did, told by the systems' names."""
    if re.search(rf"_{FLOAT_ROW}(-s\d+)?\Z", out.reference):
        return ""
    trained = [system for system in out.compared if system.startswith(f"{out.reference}_") and not re.search(rf"{PTQ}\b", system)]
    if not trained:
        return ""
    return (f" {out.reference} is not finetuned: what finetuning brought is also in the differences of {', '.join(trained)} "
            f"({out.reference}_{FLOAT_ROW} would be a control).")


def _drift(out: Analysis, look: Lookup) -> Table:
    drift = [f"{name}_{kind}" for name in ("bias", "spread", "slope") for kind in ("target", "nontarget")]
    flips = [f"{name}_{kind}" for name in ("harmful", "beneficial") for kind in ("target", "nontarget")]
    heads = ("trials", "system", "scale", "bits", *(name.replace("_", ", ") for name in drift),
             *(f"{name.replace('_', ', ')} (%)" for name in flips))
    rows = [(name, system, scale, _bits(out, system), *(cell(look(name, system, scale, each)) for each in drift),
             *(cell(look(name, system, scale, each), 2) for each in flips))
            for name in out.sizes for system in out.compared for scale in SCALES]
    note = ("Bias and spread: mean and standard deviation of the score less that of the float system, in units of the "
            "latter. Slope: of the least-squares line over the float score; 1 where scores only shift. Flips in per "
            "cent of the class.")
    return Table("drift", "Drift of scores and flips by class", note, heads, rows, 3)


def _knees(out: Analysis) -> Table:
    rows = [(name, *(_knee(found[measure]) for measure in KNEES)) for name, found in out.knees.items()]
    note = ("Kneedle (Satopaa et al., 2011): of the curve over bits, the point farthest below the line between its "
            "ends, and after the arrow the next fewer bits, where the error has climbed. In brackets: share of the "
            "resampled curves that agree.")
    return Table("knee", "Knee over bits", note, ("trials", *(MEASURES[name] for name in KNEES)), rows, 1)


def _knee(knee: Knee) -> str:
    text = "none" if knee.bits is None else f"{knee.bits:.3g} → {knee.below:.3g}"
    return text if math.isnan(knee.agree) else f"{text} ({100 * knee.agree:.0f} %)"


def _distance(out: Analysis, look: Lookup) -> Table:
    names = distance_names()
    heads = ("trials", "system", "bits", "flips", *names)
    rows = []
    for name in out.sizes:
        for system in out.compared:
            for measure in ("harmful", "harmful_share", "beneficial"):
                cells = (cell(look(name, system, out.config.scale, measure, "distance", group), 1) for group in names)
                label = {"harmful_share": "harmful, of all"}.get(measure, measure)
                rows.append((name, system, _bits(out, system), label, *cells))
    note = (f"Columns: how far the float score is from the threshold, bins that hold these shares of the trials of "
            f"{next(iter(out.sizes))}. Flips of {out.config.scale} scores in per cent of a bin's trials; 'of all': per "
            "cent of all harmful flips that are in the bin.")
    return Table("distance", "Flips by distance to the threshold", note, heads, rows, 2)


def _groups(out: Analysis, look: Lookup, kind: str) -> Table:
    scale = out.config.scale
    heads = ("trials", kind, "system", "bits", "targets", "non-targets", "EER (%)", "to float", "bias, target",
             "bias, nontarget", "drift (rms)", "harmful (%)", "beneficial (%)")
    rows = []
    for (name, of, group), sizes in out.group_sizes.items():
        for system in (out.reference, *out.compared) if of == kind else ():
            eer = look(name, system, ORDER, "eer", kind, group)
            others = (look(name, system, scale, each, kind, group)
                      for each in ("bias_target", "bias_nontarget", "rms", "harmful", "beneficial"))
            rows.append((name, group, system, _bits(out, system), *(f"{size:,}" for size in sizes), cell(eer, 2),
                         _difference(eer, 2), *(cell(row) for row in others)))
    side = {"duration": "Seconds of the trial's shorter side." if out.config.duration == "shorter" else
            "Seconds of the test utterance."}.get(kind, "Of both sides of a trial, or `across` where they differ.")
    return Table(kind, f"By {kind}", f"{side} Drift and flips of {scale} scores.", heads, rows, 3)
