"""report.html: one file with every table and plot, and nothing to download.

`render` is a pure function of a `Report`: the same results give the same bytes.
"""

from __future__ import annotations

import math
from html import escape

import yaml

from svq.backend.bootstrap import interval
from svq.draw.figure import dashes
from svq.draw.page import page
from svq.draw.tables import Cell, Head, card
from svq.report import findings, plots
from svq.report.collect import SHARES, Report
from svq.report.compared import best_of, change
from svq.report.results import MEASURES, Row, format_value, unique


def render(report: Report) -> str:
    """Gives report.html as text; the same report gives the same bytes."""
    sections = [
        ("headline", "Headline", _headline(report)),
        ("sizes", "Size and error", _sizes(report)),
        ("det", "Detection error trade-off", _dets(report)),
        ("all", "All results", _full_table(report)),
        ("scores", "Scores", _histograms(report)),
        ("calibration", "Calibration", _calibration(report)),
        ("training", "Training", _training(report)),
        ("levels", "Quantization levels", _levels(report)),
        ("int8", "INT8 beside float arithmetic", _agreement(report)),
        ("provenance", "Where it came from", _provenance(report)),
    ]
    made = "Made from the score files by <code>steps/report.sh</code>."
    return page(report.title, _summary(report), sections, made)


def _summary(report: Report) -> str:
    trials = []
    for name in report.lists:
        row = next(row for row in report.rows if row.trials == name)
        trials.append(f"{escape(name)} ({row.num_target:,} target, {row.num_nontarget:,} non-target)")
    return f"{len(report.systems)} systems. Trial lists: {'; '.join(trials)}."


# ---- tables

_SHORT = {"eer": ("EER %", ".2f"), "mindcf01": ("minDCF .01", ".3f"), "mindcf05": ("minDCF .05", ".3f"),
          "cllr": ("Cllr", ".3f"), "mincllr": ("min Cllr", ".3f"), "actdcf01": ("actDCF .01", ".3f")}
_HEADLINE = ("eer", "mindcf01", "cllr")
_ABREAST = 3  # trial lists in a table; more do not fit a screen


def _headline(report: Report) -> str:
    lists = report.lists
    tables = [_headline_table(report, lists[i:i + _ABREAST]) for i in range(0, len(lists), _ABREAST)]
    said = "".join(f'<p class="finding">{escape(findings.headline(report, name))}</p>' for name in lists)
    note = f"Back end {report.backend}, score normalization {report.norm}. "
    if _has_intervals(report):
        note += ("Under a figure: its 95 % interval over resampled speakers. Marked: the least figure of a column and all that "
                 "the same resampled speakers cannot tell from it; nothing where that would be all. ")
    if any(report.against.values()):
        note += ("Under a quantized system's name: what its figures are measured against; under each figure the change from that, "
                 "coloured where the interval of the difference leaves out 0. ")
    if any(report.parents.values()):
        note += "Under its size: how many times smaller it is than the float network that it was made from. "
    return f'{said}{"".join(tables)}<p class="note">{escape(note + _without_control(report))}</p>'


def _has_intervals(report: Report) -> bool:
    return any(not math.isnan(row.eer_low) for row in report.rows)


def _without_control(report: Report) -> str:
    """Says which changes also hold what finetuning did."""
    lost: dict[str, list[str]] = {}
    for system, found in report.against.items():
        if found is not None and found.finetuned:
            lost.setdefault(found.system, []).append(system)
    said = [f"The control of {', '.join(names)} is not here ({net}_float: finetuned alike, in float), so a change from {net} also holds "
            "what finetuning brought." for net, names in lost.items()]
    return " ".join(said)


def _headline_table(report: Report, lists: list[str]) -> str:
    rows = {(row.system, row.trials): row for row in report.headline()}
    columns = [(trials, name) for trials in lists for name in _HEADLINE]
    best = {column: _best_in_print([rows[system, column[0]] for system in report.systems], column[1], report)
            for column in columns}
    heads = [Head("system"), Head("bits"), Head("file, MB")] + [Head(_SHORT[name][0], trials) for trials, name in columns]
    body = []
    for place, system in enumerate(report.systems):
        found = report.against.get(system)
        row = rows[system, lists[0]]
        cells = [Cell(system, ((found.said, ""),) if found else ()), Cell(f"{row.avg_bits:.3g}"),
                 Cell(f"{row.size_bytes / 1e6:.2f}", ((_size_said(row, rows.get((report.parents.get(system), lists[0]))), ""),))]
        cells += [_headline_cell(report, rows[system, trials], rows.get((found and found.system, trials)), name,
                                 place in best[trials, name]) for trials, name in columns]
        body.append(cells)
    return card(heads, body)


def _best_in_print(rows: list[Row], name: str, report: Report) -> set[int]:
    """Places of the figures to mark (`best_of`), with all that look the same as one of them."""
    found = best_of([getattr(row, name) for row in rows], [report.samples.get(row, {}).get(name) for row in rows])
    texts = {_text(rows[i], name) for i in found}
    alike = {i for i, row in enumerate(rows) if found and _text(row, name) in texts}
    return alike if len(alike) < len(rows) else set()


def _text(row: Row, name: str) -> str:
    value = getattr(row, name)
    return "-" if math.isnan(value) else format(value, _SHORT[name][1])


def _size_said(row: Row, parent: Row | None) -> str:
    return f"÷ {parent.size_bytes / row.size_bytes:.2f}" if parent else f"{row.params / 1e6:.2f} M weights"


def _headline_cell(report: Report, row: Row, other: Row | None, name: str, best: bool) -> Cell:
    samples = report.samples.get(row, {}).get(name)
    small = _interval(row, name, samples)
    if other is not None:
        found = change(getattr(row, name), samples, getattr(other, name), report.samples.get(other, {}).get(name))
        if not math.isnan(found.percent):
            small += ((f"{found.percent:+.1f} %".replace("-", "−"), found.told),)
    return Cell(_text(row, name), small, best)


def _interval(row: Row, name: str, samples=None) -> tuple[tuple[str, str], ...]:
    """The interval of a figure as a line below it; that of the EER is the row's."""
    low, high = (row.eer_low, row.eer_high) if name == "eer" else (math.nan, math.nan) if samples is None else interval(samples)
    form = _SHORT[name][1]
    return () if math.isnan(low) or math.isnan(high) else ((f"{low:{form}} to {high:{form}}", ""),)


def _full_table(report: Report) -> str:
    heads = [Head("system"), Head("back end", left=True), Head("norm", left=True)]
    heads += [Head(_SHORT[name][0]) for name in MEASURES] + [Head("bits"), Head("bytes"), Head("weights")]
    parts = []
    for trials in report.lists:
        rows = [row for row in report.rows if row.trials == trials]
        best = _best_in_print(rows, "eer", report)
        body = []
        for place, row in enumerate(rows):
            cells = [Cell(row.system), Cell(row.backend), Cell(row.norm)]
            cells += [Cell(_text(row, name), _interval(row, name) if name == "eer" else (), name == "eer" and place in best)
                      for name in MEASURES]
            cells += [Cell(format_value("avg_bits", row.avg_bits).rstrip("0").rstrip(".")), Cell(f"{row.size_bytes:,}"),
                      Cell(f"{row.params:,}")]
            body.append(cells)
        breaks = {i for i in range(1, len(rows)) if rows[i].system != rows[i - 1].system}
        parts.append(_folded(report, trials, card(heads, body, breaks)))
    note = ""
    if _has_intervals(report):
        note = ("Under the EER: its 95 % interval from a bootstrap over speakers. Marked: the least EER, and all that the same "
                "resampled speakers cannot tell from it; nothing where that would be all. ")
    note += "actDCF and Cllr are those of the calibrated scores; the least Cllr allows any monotone map."
    return f'<p class="note">{note}</p>' + "".join(parts)


# ---- plots

def _grid(figures: list[tuple[str, str]]) -> str:
    """Figures side by side. figures: (what it finds, SVG) each."""
    cards = "".join(f'<figure class="card"><figcaption class="finding">{escape(said)}</figcaption>{svg}</figure>'
                    for said, svg in figures)
    return f'<div class="plots">{cards}</div>'


def _legend(report: Report) -> str:
    items = []
    for index, system in enumerate(report.systems):
        lengths = " ".join(f"{1.5 * length:g}" for length in dashes(report.dashed(system), index))
        pattern = f' stroke-dasharray="{lengths}"' if lengths else ""
        line = (f'<svg viewBox="0 0 30 10" aria-hidden="true"><path d="M0 5H30" fill="none" '
                f'stroke="var(--s{index % 8})" stroke-width="3"{pattern}/></svg>')
        items.append(f"<li>{line}{escape(system)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _dets(report: Report) -> str:
    from svq.backend.metrics import det_curve, eer

    figures = []
    for number, trials in enumerate(report.lists):
        curves = []
        for index, system in enumerate(report.systems):
            scored = report.scored[system, trials]
            fpr, fnr = det_curve(scored.target, scored.nontarget)[:2]
            value = eer(scored.target, scored.nontarget)
            curves.append(plots.Det(index, report.dashed(system), fpr, fnr, value))
        said = findings.spread("EER", [(report.systems[c.index], 100 * c.eer) for c in curves], ".2f", " %")
        figures.append((said, plots.det_plot(curves, trials, f"det{number}")))
    note = "Circles: equal error rates; triangles: least cost at a target prior of 0.01; squares: at 0.05."
    return f'<p class="note">{note}</p>{_legend(report)}{_grid(figures)}'


def _sizes(report: Report) -> str:
    figures = []
    for number, trials in enumerate(report.lists):
        points = [
            plots.Sized(report.systems.index(row.system), row.system, row.size_bytes, row.eer,
                        row.eer_low, row.eer_high, report.parents.get(row.system))
            for row in report.headline() if row.trials == trials
        ]
        figures.append((findings.size(report, trials), plots.size_plot(points, trials, f"size{number}")))
    note = "Dashed lines lead from a float system to its quantized forms; bars are 95 % intervals."
    if all(math.isnan(row.eer_low) for row in report.rows):
        note = "Dashed lines lead from a float system to its quantized forms."
    return f'<p class="note">{note}</p>' + _grid(figures)


def _histograms(report: Report) -> str:
    from svq.backend.metrics import eer_threshold

    parts = []
    for number, trials in enumerate(report.lists):
        figures = []
        for index, system in enumerate(report.systems):
            scored = report.scored[system, trials]
            threshold = eer_threshold(scored.target, scored.nontarget)
            figures.append((findings.scores(scored.target, scored.nontarget, threshold),
                            plots.score_histogram(scored.target, scored.nontarget, threshold, index,
                                                  system, f"hist{number}-{index}")))
        parts.append(_folded(report, trials, _grid(figures)))
    note = "Grey: non-target trials; coloured: target trials; dashed line: the equal-error threshold."
    return f'<p class="note">{note}</p>{"".join(parts)}'


def _folded(report: Report, trials: str, body: str) -> str:
    """A part of the page that is about one list; it is closed for a development list."""
    opened = " open" if trials == report.lists[-1] or not _is_dev(trials) else ""
    return f"<details{opened}><summary>{escape(trials)}</summary>{body}</details>"


def _is_dev(trials: str) -> bool:
    return trials.split("_")[0] in ("dev", "val", "valid")


def _calibration(report: Report) -> str:
    from svq.backend.metrics import cllr, min_cllr

    figures = []
    for number, trials in enumerate(report.lists):
        points, curves = [], []
        for index, system in enumerate(report.systems):
            scored = report.scored[system, trials]
            points.append(plots.Calibrated(
                index, system, cllr(scored.target, scored.nontarget),
                cllr(scored.llr_target, scored.llr_nontarget),
                min_cllr(scored.target, scored.nontarget)))
            curves.append(plots.Reliability(
                index, report.dashed(system),
                *plots.reliability(scored.llr_target, scored.llr_nontarget)))
        figures.append((findings.calibration(points), plots.cllr_plot(points, trials, f"cllr{number}")))
        figures.append((findings.reliability(curves, report.systems),
                        plots.reliability_plot(curves, trials, f"reliability{number}")))
    note = ("Cost of the scores read as log-likelihood ratios: hollow as they came, full after "
            "calibration on the development list, the bar the least that any monotone map could "
            "reach. Reliability at equal priors: on the diagonal, stated probabilities hold.")
    figures = figures[::2] + figures[1::2]
    return f'<p class="note">{note}</p>{_legend(report)}{_grid(figures)}'


def _training(report: Report) -> str:
    figures = [
        (findings.training(report.curves[system]), plots.training_curves(report.curves[system], index, system, f"train{index}"))
        for index, system in enumerate(report.systems) if _has_curves(report, system)
    ]
    others = [escape(system) for system in report.systems if not _has_curves(report, system)]
    note = f'<p class="note">No training log: {", ".join(others)}.</p>' if others else ""
    return note + _grid(figures) if figures else note


def _has_curves(report: Report, system: str) -> bool:
    return system in report.curves and len(report.curves[system]["epoch"]) > 0


def _levels(report: Report) -> str:
    parts = []
    for index, system in enumerate(report.systems):
        figures = [
            (findings.levels(layer.weights, layer.levels),
             plots.level_plot(layer.weights, layer.levels, layer.bits, index, layer.name, f"level{index}-{number}"))
            for number, layer in enumerate(report.layers.get(system, []))
        ]
        if figures:
            parts.append(f"<h3>{escape(system)}</h3>{_grid(figures)}")
    if not parts:
        return ""
    note = "Histogram of a layer's weights; each line is a value that a weight can take once quantized."
    return f'<p class="note">{note}</p>{"".join(parts)}'


def _agreement(report: Report) -> str:
    rows, figures = [], []
    for index, system in enumerate(report.systems):
        for number, (name, found) in enumerate(report.agreement.get(system, {}).items()):
            rows.append([Cell(system), Cell(name), Cell(f"{found.utterances:,}"),
                         *(Cell(f"{value:.4f}") for value in found.quantiles)])
            figures.append((findings.agreement(found), plots.cosine_histogram(
                found.counts, found.edges, index, f"{system}, {name}", f"int8-{index}-{number}")))
    if not rows:
        return ""
    heads = [Head("system"), Head("set", left=True), Head("utterances")]
    heads += [Head("least" if share == 0 else "median" if share == 0.5 else f"{100 * share:g} %") for share in SHARES]
    note = ("Cosines between the embeddings of the same utterances, once from the system in INT8 arithmetic and once "
            "from the one that it was exported from. The histograms leave out the lowest 0.2 %.")
    return f'<p class="note">{note}</p>' + card(heads, rows) + _grid(figures)


def _provenance(report: Report) -> str:
    known = {s: report.provenance[s] for s in report.systems if s in report.provenance}
    if not known:
        return ""
    packages = unique(name for tree in known.values() for name in tree.get("versions", {}))
    heads = [Head("system"), Head("seed"), Head("commit", left=True), *(Head(str(name)) for name in packages)]
    body = []
    for system, tree in known.items():
        cells = [system, tree.get("seed", "?"), tree.get("git", "?")]
        cells += [tree.get("versions", {}).get(name, "?") for name in packages]
        body.append([Cell(str(cell)) for cell in cells])
    configs = "".join(
        f'<details class="card"><summary>Configuration of {escape(system)}</summary>'
        f"<pre>{escape(_yaml(tree.get('config', {})))}</pre></details>"
        for system, tree in known.items()
    )
    return card(heads, body) + configs


def _yaml(tree) -> str:
    return yaml.safe_dump(tree, sort_keys=False, width=88).rstrip()
