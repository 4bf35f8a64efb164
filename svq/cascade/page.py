"""svq.bin.cascade evaluate: from a finished ladder and trial lists to cascade.tsv, cascade.md, figures, and a page."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple, Sequence

from svq.atomic import atomic_write
from svq.cascade import live_runs
from svq.cascade.cost import ACCOUNTINGS, UNITS, rung_costs, storage, table_of
from svq.cascade.evaluate import CASCADE, MEASURES, RANDOM, CurvePoint, Point, Replay, Row, curve, evaluate
from svq.cascade.ladder import Ladder, load_ladder, load_maps
from svq.cascade.live import TrialList
from svq.draw import figure as fig
from svq.draw.figure import Drawn, dash
from svq.draw.page import page, section, write_figures
from svq.draw.tables import html_table, markdown_table
from svq.errors import UserError
from svq.report.index import finish

TITLE = "Multi-precision cascade"
HEADS = ("system", "EER (%)", "95 %", "EER to {last}", "95 %", "minDCF", "minDCF to {last}", "actDCF", "actDCF to {last}",
         "flips (%)",
         "95 %", "harmful (%)", "escalated (%)", "95 %", "settled by (%)", "bit-operations (%)", "95 %", "weights (%)",
         "on demand (%)", "whole list (%)")


class Evaluated(NamedTuple):
    """The results on one trial list. name: the list's. title: how many trials it holds, in words."""

    name: str
    title: str
    rows: list[Row]
    curve: list[CurvePoint]


def heads(names: Sequence[str]) -> list[str]:
    """Gives the heads of the table of operating points, for rungs of these names."""
    return [head.format(last=names[-1]) for head in HEADS]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """Gives the cells of a row of the table as text, in the order of HEADS. names: of the rungs."""
    last = row.name == names[-1] and row.kind not in (CASCADE, RANDOM)
    i = {name: MEASURES.index(name) for name in MEASURES}
    gap = lambda name, digits: "-" if last else f"{row.gap[i[name]]:+.{digits}f}"  # noqa: E731
    eer = i["eer"]
    label = {RANDOM: "random escalation"}.get(row.kind, row.name if row.kind == CASCADE else f"{row.name} alone")
    settled = " / ".join(f"{share:.1f}" for share in row.settled)
    percent = {(a, u): 100 * row.shares[ACCOUNTINGS.index(a), UNITS.index(u)]
               for a in ACCOUNTINGS for u in UNITS}
    return [label, f"{row.measures[eer]:.2f}", _spread(row, row.low[eer], row.high[eer], 2), gap("eer", 2),
            "-" if last else _range(row.gap_low[eer], row.gap_high[eer], "+.2f"),
            f"{row.value('mindcf'):.3f}", gap("mindcf", 3), f"{row.value('actdcf'):.3f}", gap("actdcf", 3),
            f"{row.value('flips'):.3f}", _spread(row, row.low[i['flips']], row.high[i['flips']], 3),
            f"{row.value('harmful'):.3f}", _number(row.escalation[0], ".1f"), _range(*row.escalation[1:], ".1f"),
            settled if row.kind in (CASCADE, RANDOM) else "-",
            f"{row.cost[0]:.2f}", _range(*row.cost[1:], ".2f"), f"{percent['streaming', 'weight_bytes']:.2f}",
            f"{percent['on demand', 'bit_operations']:.2f}", f"{percent['list', 'bit_operations']:.1f}"]


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _range(low: float, high: float, form: str) -> str:
    return "-" if math.isnan(low) else f"{low:{form}} to {high:{form}}"


def _spread(row: Row, low: float, high: float, digits: int) -> str:
    """Gives the interval as text; for the random control plus and minus its standard deviation over seeds."""
    return f"± {(high - low) / 2:.{digits}f}" if row.kind == RANDOM else _range(low, high, f".{digits}f")


def notes(names: Sequence[str], settings: str) -> list[str]:
    """Gives the notes that explain the table, a sentence or more each.

    names: of the rungs. settings: a sentence on the operating point and the choice of deltas, see `settings_of`.
    """
    return [
        settings,
        f"95 %: intervals over resampled speakers, differences to {names[-1]} paired; of the random control "
        "± is the standard deviation over its seeds: as many trials reach each rung, but which ones is drawn.",
        f"Flips: decisions at the threshold other than {names[-1]}'s, in per cent of all trials; harmful where "
        f"{names[-1]} was right.",
        f"Costs in per cent of {names[-1]} alone. Bit-operations and weights (bytes of packed weights for every "
        "embedding): streaming, each trial with a test utterance of its own, enrolments there at every rung before; "
        "on demand: bit-operations with enrolments computed when a trial first needs them; whole list: bit-operations "
        "with each utterance of the list embedded at most once a rung. An utterance that is in many trials is "
        "escalated by any unsure one of them: in that count a cascade can cost more than the last rung alone.",
        "Bit-operations are counted, bits of weight times bits of activation: no processor that works in floats saves "
        "them. svq.bin.cascade run measures seconds.",
    ]


def markdown(lists: Sequence[Evaluated], names: Sequence[str], settings: str, runs: Sequence[dict] = ()) -> str:
    """Gives the results as Markdown: a table for each list, the notes, then the measured runs if there are any."""
    parts = []
    for listed in lists:
        parts += [f"### {listed.title}", markdown_table(heads(names), [cells(row, names) for row in listed.rows], 1)]
    parts.append("\n".join(f"- {note}" for note in notes(names, settings)))
    if runs:
        parts += ["### Measured", markdown_table(live_runs.heads(runs), live_runs.rows(runs), 1), live_runs.note(runs)]
    return "\n\n".join(parts) + "\n"


def tsv(lists: Sequence[Evaluated]) -> str:
    """Gives all numbers as tab-separated text with a line of heads, then a line for each list and system."""
    heads = ["list", "system", "kind"]
    for name in MEASURES:
        heads += [name, f"{name}_low", f"{name}_high", f"{name}_gap", f"{name}_gap_low", f"{name}_gap_high"]
    heads += ["escalation", "escalation_low", "escalation_high", "settled", "cost", "cost_low", "cost_high"]
    heads += [f"{accounting.replace(' ', '_')}_{unit}" for accounting in ACCOUNTINGS for unit in UNITS]
    lines = [heads]
    for listed in lists:
        for row in listed.rows:
            columns = (row.measures, row.low, row.high, row.gap, row.gap_low, row.gap_high)
            numbers = [column[i] for i in range(len(MEASURES)) for column in columns] + list(row.escalation)
            settled = ",".join(f"{share:.6g}" for share in row.settled)
            lines.append([listed.name, row.name, row.kind, *(f"{x:.7g}" for x in numbers), settled,
                          *(f"{x:.7g}" for x in row.cost), *(f"{x:.7g}" for x in row.shares.ravel())])
    return "".join("\t".join(line) + "\n" for line in lines)


_SHOWN = (("eer", "EER (%)"), ("mindcf", "minDCF"), ("actdcf", "actDCF"), ("flips", "flips (% of trials)"))


def plot(listed: Evaluated, names: Sequence[str]) -> Drawn:
    """Draws four measures against the share of trials that leave the first rung.

    The random control is drawn beside the cascade, each rung alone as a line across. names: of the rungs.
    """
    points, cascade = listed.curve, listed.rows[0]
    with fig.rc():
        figure, axes = fig.panels(2, 2, width=6.4, height=5.6)
        for axis, (name, label) in zip(axes, _SHOWN):
            i, x = MEASURES.index(name), [point.escalation for point in points]
            mean, spread = ([getattr(point, kind)[i] for point in points] for kind in ("random", "spread"))
            for k, row in enumerate(row for row in listed.rows if row.kind not in (CASCADE, RANDOM)):
                axis.axhline(row.measures[i], color=fig.series(k + 2), linewidth=1.0, linestyle=dash(k % 2 == 1),
                             label=f"{row.name} alone")
            axis.errorbar(x, mean, spread, color=fig.MUTED, linewidth=1.0, marker=".", markersize=4, label="random")
            axis.plot(x, [point.measures[i] for point in points], color=fig.series(0), marker="o", markersize=3,
                      label="cascade")
            axis.plot(cascade.escalation[0], cascade.measures[i], "D", color=fig.series(1), markersize=6,
                      markeredgecolor=fig.SURFACE, label="chosen on the development list", zorder=4)
            axis.set_xlim(-2, 102)
            fig.caption(axis, "", f"trials that leave {names[0]} (%)", label)
        fig.legend_below(figure, axes[0])
        svg = fig.to_svg(figure, f"cascade_{listed.name}", f"Cascade on {listed.name}: errors against escalation")
    columns = ("delta", "escalation", "cost", *MEASURES, *(f"random_{n}" for n in MEASURES),
               *(f"spread_{n}" for n in MEASURES))
    rows = [(p.delta, p.escalation, p.cost, *p.measures, *p.random, *p.spread) for p in points]
    note = ("The delta of the first gate runs from 0 to infinity, the other gates' stay as chosen. Grey: as many "
            "trials escalated by chance, mean and standard deviation over seeds.")
    return Drawn(f"cascade_{listed.name}", f"{listed.title}: what escalation brings", note, svg, columns, rows,
                 said(cascade, names))


def said(cascade: Row, names: Sequence[str]) -> str:
    """Says what the cascade costs, and whether its EER is told from the last rung's."""
    i = MEASURES.index("eer")
    gap, low, high = cascade.gap[i], cascade.gap_low[i], cascade.gap_high[i]
    text = (f"The cascade sends {cascade.escalation[0]:.1f} % of the trials on and costs {cascade.cost[0]:.1f} % of the "
            f"bit-operations of {names[-1]} alone; its EER of {cascade.measures[i]:.2f} % is {gap:+.2f} % against {names[-1]}'s")
    if math.isnan(low):
        return f"{text}; no interval is known."
    told = "higher" if low > 0 else "lower" if high < 0 else "which resampled speakers cannot tell apart"
    return f"{text} ({low:+.2f} to {high:+.2f}): {told}."


def render(lists: Sequence[Evaluated], figures: Sequence[Drawn], names: Sequence[str], settings: str,
           runs: Sequence[dict] = (), title: str = TITLE) -> str:
    """Gives the cascade's page as HTML text: tables, notes, measured runs and figures."""
    parts = [f"<h3>{escape(listed.title)}</h3>" + html_table(heads(names), [cells(row, names) for row in listed.rows], 1)
             for listed in lists]
    parts.append('<ul class="note">' + "".join(f"<li>{escape(n)}</li>" for n in notes(names, settings)) + "</ul>")
    sections = [("table", "Results", "".join(parts))]
    if runs:
        text = html_table(live_runs.heads(runs), live_runs.rows(runs), 1)
        sections.append(("measured", "Measured", f'{text}<p class="note">{escape(live_runs.note(runs))}</p>'))
    sections += [(drawn.name, drawn.title, section(drawn)) for drawn in figures]
    summary = f"Rungs: {escape(', '.join(names))}. Trial lists: {escape('; '.join(each.title for each in lists))}."
    return page(title, summary, sections, "Made by <code>steps/cascade.sh</code>.")


def evaluate_lists(path, trials: Iterable, replicates: int, seed: int,
                   controls: int) -> tuple[list[Evaluated], Ladder]:
    """Evaluates the ladder in the file `path` on each trial list by replay; gives the results and the ladder.

    replicates: of the bootstrap over speakers. controls: random controls to average. UserError for two lists of one
    name, a ladder that is not finished, and scores or lists that cannot be read.
    """
    ladder = load_ladder(path)
    maps, deltas, threshold = load_maps(ladder, path), ladder.deltas(path), ladder.threshold(path)
    found: list[Evaluated] = []
    for each in trials:
        listed = TrialList(each)
        if any(listed.name == other.name for other in found):
            raise UserError(f"{each}: a second list named {listed.name}; give each once")
        table = table_of(rung_costs(ladder.rungs, listed.frames), listed.frames)
        replay = Replay(listed, listed.values(ladder, maps), table, Point.of(ladder.operating, threshold),
                        ladder.names)
        title = (f"{listed.name}: {int(listed.target.sum()):,} target and {int((~listed.target).sum()):,} non-target "
                 "trials")
        found.append(Evaluated(listed.name, title, evaluate(replay, deltas, replicates, seed, controls),
                               curve(replay, deltas, seed=seed)))
    return found, ladder


def settings_of(ladder: Ladder) -> str:
    """Says in words where decisions are made, which deltas the gates have and how these were chosen."""
    gates = ", ".join(f"{rung.name} {rung.delta:.4g}" for rung in ladder.rungs[:-1])
    said = (f"Decisions at {ladder.operating.describe()}: {ladder.threshold():.4g}. Deltas: {gates}. The files of all "
            f"rungs together have {storage(ladder.rungs):,} bytes.")
    if ladder.chosen:
        limits = ", ".join(f"{name} {value:g}" for name, value in ladder.chosen.get("limits", {}).items())
        said += f" Chosen on {ladder.chosen.get('on')} within {limits}."
    return said


def write_report(folder, lists: Sequence[Evaluated], ladder: Ladder, runs: Sequence[dict] = (), title: str = TITLE) -> None:
    """Writes cascade.md, the figures with their numbers, index.html and, last, cascade.tsv into `folder`.

    runs: of svq.cascade.live_runs.read_runs. title: of the page. UserError where the runs are of another ladder.
    """
    figures = [plot(listed, ladder.names) for listed in lists]
    settings = settings_of(ladder)
    if runs and (runs[0]["rungs"], runs[0]["gates"]) != (ladder.names, ladder.gates()):
        raise UserError(f"the runs are of the rungs {', '.join(runs[0]['rungs'])} with threshold and deltas "
                        f"{', '.join(runs[0]['gates'])}, the ladder has {', '.join(ladder.names)} with "
                        f"{', '.join(ladder.gates())}; run the cascade again")
    write_figures(folder, figures)
    for name, text in (("cascade.md", markdown(lists, ladder.names, settings, runs)),
                       ("index.html", render(lists, figures, ladder.names, settings, runs, title)),
                       ("cascade.tsv", tsv(lists))):
        with atomic_write(os.path.join(folder, name)) as file:
            file.write(text)
    finish(os.path.join(folder, "index.html"))
