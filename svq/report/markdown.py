"""results.tsv as Markdown (for RESULTS.md) and LaTeX tables; and teachers beside their students."""

from __future__ import annotations

import math
from dataclasses import replace

from svq.atomic import atomic_write
from svq.draw.tables import markdown_table
from svq.errors import UserError, located
from svq.files import open_file
from svq.names import STUDENT, Names
from svq.report.compared import best_by_interval
from svq.report.results import Row, unique

_SHOWN = {"eer": ".2f", "mindcf01": ".3f", "mindcf05": ".3f", "cllr": ".3f", "actdcf01": ".3f"}
_HEADS = ("system", "back end", "norm", "EER (%)", "95 % interval", "minDCF(0.01)", "minDCF(0.05)",
          "Cllr", "actDCF(0.01)", "bits", "file (MB)", "weights (M)")


def made_by(command: str, hardware: str) -> list[str]:
    """Gives paragraphs on where results are from: the command that was typed, a line on the machine; either may be
    empty."""
    parts = [f"Made by\n\n{_fenced(command)}"] if command else []
    return parts + ([f"on {hardware}."] if hardware else [])


def markdown(rows: list[Row]) -> str:
    """Gives a Markdown table for each trial list, with the lowest EER in bold and all whose intervals meet its
    interval."""
    parts = []
    for trials in unique(row.trials for row in rows):
        chosen = [row for row in rows if row.trials == trials]
        targets, others = chosen[0].num_target, chosen[0].num_nontarget
        parts.append(f"### Trials: {trials}\n\n{targets:,} target and {others:,} non-target trials.")
        parts.append(_table(chosen))
    return "\n\n".join(parts)


def _fenced(command: str) -> str:
    fence = "```"
    while fence in command:
        fence += "`"
    return f"{fence}sh\n{command.strip()}\n{fence}"


def _table(rows: list[Row]) -> str:
    heads, lines = _body(rows, mark=lambda text: f"**{text}**")
    return markdown_table(heads, lines, 3)


def _body(rows: list[Row], mark) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of a table; the interval's column is left out when no row has one."""
    best = {rows[i] for i in best_by_interval([(row.eer, row.eer_low, row.eer_high) for row in rows])}
    intervals = any(not math.isnan(row.eer_low) for row in rows)
    lines = []
    for row in rows:
        cells = {name: "-" if math.isnan(getattr(row, name)) else format(getattr(row, name), form)
                 for name, form in _SHOWN.items()}
        if row in best:
            cells["eer"] = mark(cells["eer"])
        line = [row.system, row.backend, row.norm, cells["eer"], _interval(row)]
        line += [cells[name] for name in ("mindcf01", "mindcf05", "cllr", "actdcf01")]
        line += [f"{row.avg_bits:.3g}", f"{row.size_bytes / 1e6:.3f}", f"{row.params / 1e6:.3f}"]
        lines.append(line)
    heads = list(_HEADS)
    if not intervals:
        heads, lines = _drop(heads), [_drop(line) for line in lines]
    return heads, lines


def _interval(row: Row) -> str:
    return "-" if math.isnan(row.eer_low) else f"{row.eer_low:.2f} to {row.eer_high:.2f}"


def _drop(cells: list[str]) -> list[str]:
    return cells[:4] + cells[5:]


def latex(rows: list[Row]) -> str:
    """Gives a LaTeX (booktabs) table of all rows, a block for each trial list."""
    blocks = []
    for trials in unique(row.trials for row in rows):
        chosen = [row for row in rows if row.trials == trials]
        heads, lines = _body([_escaped(row) for row in chosen], mark=lambda t: rf"\textbf{{{t}}}")
        title = rf"\multicolumn{{{len(heads)}}}{{l}}{{\emph{{{escape_latex(trials)}}}}} \\"
        blocks.append("\n".join([title] + [" & ".join(line) + r" \\" for line in lines]))
    top = " & ".join(escape_latex(head) for head in heads) + r" \\"
    body = "\n\\midrule\n".join(blocks)
    columns = "lll" + "r" * (len(heads) - 3)
    return (f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{top}\n\\midrule\n{body}\n"
            f"\\bottomrule\n\\end{{tabular}}\n")


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX.update({char: "\\" + char for char in "&%$#_{}"})


def escape_latex(text: str) -> str:
    """Escapes the characters that LaTeX takes for commands."""
    return "".join(_LATEX.get(char, char) for char in text)


def _escaped(row: Row) -> Row:
    return replace(row, system=escape_latex(row.system), backend=escape_latex(row.backend),
                   norm=escape_latex(row.norm))


def markers(name: str) -> tuple[str, str]:
    """Gives the two lines that the table of a Markdown file stands between."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


BEGIN, END = markers("results")


def insert(text: str, table: str, path="RESULTS.md", marker: str = "results") -> str:
    """Puts `table` between the two marker lines of `text`, in place of what stands there; the rest stays as it is.

    Raises UserError when a marker is missing, doubled or in the wrong order.
    """
    lines = text.split("\n")
    begin, end = markers(marker)
    begins = [i for i, line in enumerate(lines) if line.strip() == begin]
    ends = [i for i, line in enumerate(lines) if line.strip() == end]
    if not begins or not ends:
        lost = begin if not begins else end
        raise UserError(f"{path}: no line '{lost}'; put '{begin}' and '{end}' where the table belongs")
    if len(begins) > 1 or len(ends) > 1:
        line = (begins if len(begins) > 1 else ends)[1] + 1
        raise UserError(located(path, line, "a second marker; keep one pair"))
    if ends[0] < begins[0]:
        raise UserError(located(path, ends[0] + 1, f"'{end}' stands before '{begin}'"))
    return "\n".join(lines[: begins[0] + 1] + ["", table, ""] + lines[ends[0] :])


def update_file(path, table: str, marker: str = "results") -> None:
    """Puts the table between the markers of the Markdown file at `path`, atomically."""
    try:
        with open_file(path, "r", encoding="utf-8", newline="") as file:
            text = file.read()
    except FileNotFoundError:
        begin, end = markers(marker)
        raise UserError(f"{path} is missing; write it with the lines '{begin}' and '{end}' in it") from None
    mended = insert(text, table, path, marker)
    with atomic_write(path, "wb") as file:
        file.write(mended.encode("utf-8"))


_STUDENT_HEADS = ["System", "Weights (M)", "fewer than teacher", "Bits", "File (MB)", "smaller than teacher"]


def teacher_of(name: str, systems: set[str], names: Names) -> str | None:
    """Gives the system that another is measured against: student-xvector-narrowBN_kmqat2 -> xvector; None where it is
    not there.

    A student trained with labels only, which has no teacher, is measured against the first that the others have.
    """
    net = names.parse(name).net
    student = names.parse(net)
    if not student.student:
        return net if net != name and net in systems else None
    if student.teacher is not None:
        return student.teacher if student.teacher in systems else None
    others = (names.parse(other).teacher for other in sorted(systems) if names.parse(other).stem != STUDENT)
    return next((other for other in others if other in systems), None)


def student_tables(rows: list[Row], names: Names) -> str:
    """Gives Markdown tables, one for each trial list, with a line for each system: EER, its interval and minDCF for
    every back end and normalization. names: the grammar of the systems' names."""
    systems = {row.system for row in rows}
    parts = []
    for trials in unique(row.trials for row in rows):
        chosen = [row for row in rows if row.trials == trials]
        parts.append(f"### Trials: {trials}\n\n{chosen[0].num_target:,} target and {chosen[0].num_nontarget:,} "
                     f"non-target trials.\n\n{_student_table(chosen, systems, names)}")
    return "\n\n".join(parts)


def _student_table(rows: list[Row], systems: set[str], names: Names) -> str:
    scorings = unique((row.backend, row.norm) for row in rows)
    found = {(row.system, row.backend, row.norm): row for row in rows}
    heads = list(_STUDENT_HEADS)
    for scoring in scorings:
        heads += [f"{', '.join(scoring)}: EER (%)", "95 % interval", "minDCF(0.01)"]
    lines = []
    first = {row.system: row for row in reversed(rows)}
    for name in unique(row.system for row in rows):
        cells = _sizes(first[name], first.get(teacher_of(name, systems, names)))
        for scoring in scorings:
            cells += _measures(found.get((name, *scoring)))
        lines.append(cells)
    return markdown_table(heads, lines, 1)


def _sizes(row: Row, teacher: Row | None) -> list[str]:
    def less(size, whole):
        return "-" if teacher is None else f"{100 * (1 - size / whole):.1f} %"

    return [row.system, f"{row.params / 1e6:.3f}", less(row.params, teacher and teacher.params), f"{row.avg_bits:.3g}",
            f"{row.size_bytes / 1e6:.3f}", less(row.size_bytes, teacher and teacher.size_bytes)]


def _measures(row: Row | None) -> list[str]:
    if row is None:
        return ["-"] * 3
    interval = "-" if math.isnan(row.eer_low) else f"{row.eer_low:.2f} to {row.eer_high:.2f}"
    return [f"{row.eer:.2f}", interval, f"{row.mindcf01:.3f}"]
