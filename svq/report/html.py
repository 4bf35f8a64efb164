"""report.html: one file with every table and plot, no script and nothing to download.

`render` is a pure function of a `Report`: the same results give the same bytes.
"""

from __future__ import annotations

import math
from html import escape

import yaml

from svq.draw.page import page
from svq.report import plots
from svq.report.collect import SHARES, Report
from svq.report.results import MEASURES, Row, best_values, format_value, unique


def render(report: Report) -> str:
    """The page as HTML text."""
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


def _headline(report: Report) -> str:
    rows = {(row.system, row.trials): row for row in report.headline()}
    best = best_values(rows.values())
    width = len(_HEADLINE)
    top = '<tr><th rowspan="2">system</th><th rowspan="2">bits</th><th rowspan="2">file, MB</th>'
    top += "".join(f'<th class="group" colspan="{width}">{escape(t)}</th>' for t in report.lists) + "</tr>"
    second = "".join(f"<th{_edge(i)}>{_SHORT[n][0]}</th>"
                     for _ in report.lists for i, n in enumerate(_HEADLINE))
    body = []
    for system in report.systems:
        parent = report.parents.get(system)
        cells = _size_cells(rows, report.lists[0], system, parent)
        for trials in report.lists:
            row, origin = rows[system, trials], rows.get((parent, trials))
            cells += [_measure_cell(row, name, best, origin, _edge(i))
                      for i, name in enumerate(_HEADLINE)]
        body.append(f"<tr><td>{escape(system)}</td>{''.join(cells)}</tr>")
    note = (f"Back end {escape(report.backend)}, score normalization {escape(report.norm)}. The best "
            "figure of each column is marked; under a quantized system's figures stands the relative "
            "change from the float system it was made from, and under its size the compression ratio.")
    return f'<p class="note">{note}</p>' + _wrap(f"<thead>{top}<tr>{second}</tr></thead>", body)


def _size_cells(rows, trials: str, system: str, parent: str | None) -> list[str]:
    row = rows[system, trials]
    ratio = ""
    if parent:
        ratio = f"<small>÷ {rows[parent, trials].size_bytes / row.size_bytes:.2f}</small>"
    weights = f"<small>{row.params / 1e6:.2f} M weights</small>"
    return [f"<td>{row.avg_bits:.3g}</td>", f"<td>{row.size_bytes / 1e6:.2f}{ratio or weights}</td>"]


def _edge(index: int) -> str:
    return ' class="edge"' if index == 0 else ""


def _measure_cell(row: Row, name: str, best, origin: Row | None = None, attributes: str = "") -> str:
    value, form = getattr(row, name), _SHORT[name][1]
    text = format(value, form)
    if text == format(best[row.trials, name], form):
        attributes = attributes.replace('"edge"', '"edge best"') or ' class="best"'
    return f"<td{attributes}>{text}{_change(value, origin and getattr(origin, name))}</td>"


def _change(value: float, origin: float | None) -> str:
    """Relative change from the parent's figure, in percent."""
    if not origin:
        return ""
    change = 100 * (value / origin - 1)
    kind = "worse" if change > 0.05 else "better" if change < -0.05 else "same"
    return f'<small class="{kind}">{change:+.1f} %</small>'.replace("-", "−")


def _full_table(report: Report) -> str:
    parts = []
    names = [name for name in MEASURES]
    heads = '<th>system</th><th class="l">back end</th><th class="l">norm</th>'
    heads += "".join(f"<th>{_SHORT[name][0]}</th>" for name in names)
    heads += "<th>bits</th><th>bytes</th><th>weights</th>"
    best = best_values(report.rows)
    for trials in report.lists:
        body, last = [], None
        for row in [row for row in report.rows if row.trials == trials]:
            cells = f'<td>{escape(row.system)}</td><td class="l">{escape(row.backend)}</td>'
            cells += f'<td class="l">{escape(row.norm)}</td>'
            cells += "".join(_interval_cell(row, best) if name == "eer" else
                             _measure_cell(row, name, best) for name in names)
            cells += f"<td>{format_value('avg_bits', row.avg_bits).rstrip('0').rstrip('.')}</td>"
            cells += f"<td>{row.size_bytes:,}</td><td>{row.params:,}</td>"
            body.append(f'<tr{_new_system(row, last)}>{cells}</tr>')
            last = row
        parts.append(f"<h3>{escape(trials)}</h3>" + _wrap(f"<thead><tr>{heads}</tr></thead>", body))
    note = "Under the EER: its 95 % interval from a bootstrap over speakers. "
    note = note if any(not math.isnan(row.eer_low) for row in report.rows) else ""
    note += "actDCF and Cllr are those of the calibrated scores; the least Cllr allows any monotone map."
    return f'<p class="note">{note}</p>' + "".join(parts)


def _new_system(row: Row, last: Row | None) -> str:
    return ' class="break"' if last is not None and last.system != row.system else ""


def _interval_cell(row: Row, best) -> str:
    cell = _measure_cell(row, "eer", best)
    if math.isnan(row.eer_low):
        return cell
    return cell.replace("</td>", f"<small>{row.eer_low:.2f} to {row.eer_high:.2f}</small></td>")


def _wrap(head: str, body: list[str]) -> str:
    return f'<div class="table card"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'


# ---- plots

def _grid(figures: list[str]) -> str:
    cards = "".join(f'<figure class="card">{svg}</figure>' for svg in figures)
    return f'<div class="plots">{cards}</div>'


def _legend(report: Report) -> str:
    items = []
    for index, system in enumerate(report.systems):
        pattern = ' stroke-dasharray="6 3"' if report.dashed(system) else ""
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
        figures.append(plots.det_plot(curves, trials, f"det{number}"))
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
        figures.append(plots.size_plot(points, trials, f"size{number}"))
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
            figures.append(plots.score_histogram(scored.target, scored.nontarget, threshold, index,
                                                 system, f"hist{number}-{index}"))
        opened = " open" if number == len(report.lists) - 1 or not _is_dev(trials) else ""
        parts.append(f'<details{opened}><summary>{escape(trials)}</summary>{_grid(figures)}</details>')
    note = "Grey: non-target trials; coloured: target trials; dashed line: the equal-error threshold."
    return f'<p class="note">{note}</p>{"".join(parts)}'


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
        figures.append(plots.cllr_plot(points, trials, f"cllr{number}"))
        figures.append(plots.reliability_plot(curves, trials, f"reliability{number}"))
    note = ("Cost of the scores read as log-likelihood ratios: hollow as they came, full after "
            "calibration on the development list, the bar the least that any monotone map could "
            "reach. Reliability at equal priors: on the diagonal, stated probabilities hold.")
    figures = figures[::2] + figures[1::2]
    return f'<p class="note">{note}</p>{_legend(report)}{_grid(figures)}'


def _training(report: Report) -> str:
    figures = [
        plots.training_curves(report.curves[system], index, system, f"train{index}")
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
            plots.level_plot(layer.weights, layer.levels, layer.bits, index, layer.name,
                             f"level{index}-{number}")
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
            cells = "".join(f"<td>{value:.4f}</td>" for value in found.quantiles)
            rows.append(f'<tr><td>{escape(system)}</td><td class="l">{escape(name)}</td>'
                        f"<td>{found.utterances:,}</td>{cells}</tr>")
            figures.append(plots.cosine_histogram(found.counts, found.edges, index, f"{system}, {name}",
                                                  f"int8-{index}-{number}"))
    if not rows:
        return ""
    heads = '<th>system</th><th class="l">set</th><th>utterances</th>'
    heads += "".join(f"<th>{'least' if share == 0 else 'median' if share == 0.5 else f'{100 * share:g} %'}</th>"
                     for share in SHARES)
    note = ("Cosines between the embeddings of the same utterances, once from the system in INT8 arithmetic and once "
            "from the one that it was exported from. The histograms leave out the lowest 0.2 %.")
    return f'<p class="note">{note}</p>' + _wrap(f"<thead><tr>{heads}</tr></thead>", rows) + _grid(figures)


def _provenance(report: Report) -> str:
    known = {s: report.provenance[s] for s in report.systems if s in report.provenance}
    if not known:
        return ""
    packages = unique(name for tree in known.values() for name in tree.get("versions", {}))
    heads = "<th>system</th><th>seed</th><th class=\"l\">commit</th>"
    heads += "".join(f"<th>{escape(str(name))}</th>" for name in packages)
    body = []
    for system, tree in known.items():
        cells = [system, tree.get("seed", "?"), tree.get("git", "?")]
        cells += [tree.get("versions", {}).get(name, "?") for name in packages]
        text = [escape(str(cell)) for cell in cells]
        body.append(f'<tr><td>{text[0]}</td><td>{text[1]}</td><td class="l"><code>{text[2]}</code></td>'
                    + "".join(f"<td>{cell}</td>" for cell in text[3:]) + "</tr>")
    configs = "".join(
        f'<details class="card"><summary>Configuration of {escape(system)}</summary>'
        f"<pre>{escape(_yaml(tree.get('config', {})))}</pre></details>"
        for system, tree in known.items()
    )
    return _wrap(f"<thead><tr>{heads}</tr></thead>", body) + configs


def _yaml(tree) -> str:
    return yaml.safe_dump(tree, sort_keys=False, width=88).rstrip()
