"""Results in the columns of Liu et al., tables III and IV: a table for each back end and normalization."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from html import escape

from svq.draw import tables as drawn
from svq.draw.tables import Head, card, markdown_table
from svq.names import PTQ
from svq.report.compared import best_by_interval
from svq.report.markdown import escape_latex
from svq.report.results import Row, System, finetuned, in_order, unique

NOTE = ("Bold: of the systems that have as many bits, rounded up, and the same float system, the lowest EER and all whose "
        "intervals meet its interval; nothing where that would be all. "
        "Compression ratio: bytes of the float system's file by those of this one.")
_NOTE_BEFORE = " Before finetuning: the same network quantized and not trained since."
_NUM_LABELS = 2  # columns of text
INTERVAL = "95 % interval"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and whether it is bold."""

    text: str
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Line:
    """A system's cells; `opens` a "root" (another float system), a "family" or nothing ("")."""

    opens: str
    cells: list[Cell]


@dataclasses.dataclass(frozen=True)
class Table:
    """groups: (trial list, columns) over the last columns; heads: of all columns."""

    backend: str
    norm: str
    heads: list[str]
    groups: list[tuple[str, int]]
    lines: list[Line]
    note: str

    @property
    def labels(self) -> int:
        """Columns before those of the trial lists."""
        return len(self.heads) - sum(width for _, width in self.groups)

    def starts(self) -> list[int]:
        """Gives the first column of each trial list, counted from 0."""
        widths = [self.labels] + [width for _, width in self.groups]
        return list(itertools.accumulate(widths))[:-1]


def paper_tables(rows: list[Row], systems: dict[str, System], wanted: list[Row] | None = None) -> list[Table]:
    """Makes the tables of the `wanted` rows (all by default), one for each back end and normalization.

    rows: hold also the float systems of these and the systems before finetuning. systems: of
    svq.report.results.read_systems.
    """
    wanted = rows if wanted is None else wanted
    places = list(dict.fromkeys((row.backend, row.norm) for row in wanted))
    return [_table(rows, systems, [row for row in wanted if (row.backend, row.norm) == place]) for place in places]


def _table(rows: list[Row], systems: dict[str, System], wanted: list[Row]) -> Table:
    backend, norm = wanted[0].backend, wanted[0].norm
    lists = unique(row.trials for row in wanted)
    found = {(row.system, row.trials): row for row in rows if (row.backend, row.norm) == (backend, norm)}
    row_of = {row.system: row for row in rows}
    order = in_order(systems[name] for name in finetuned(unique(row.system for row in wanted)))
    shown = [found[key] for key in ((s.name, trials) for s in order for trials in lists) if key in found]
    columns = _Columns(shown, found, _best(shown, systems))
    lines, last = [], None
    for system in order:
        cells = [Cell(text) for text in _about(system, row_of)]
        for trials in lists:
            cells += columns.cells(system.name, trials)
        lines.append(Line(_opens(system, last), cells))
        last = system
    heads = ["System", "Quantization type", "Bit width", "Size (MB)", "Compression ratio"]
    heads += columns.heads * len(lists)
    note = NOTE + (_NOTE_BEFORE if columns.before else "")
    return Table(backend, norm, heads, [(trials, len(columns.heads)) for trials in lists], lines, note)


class _Columns:
    """The columns of a trial list: those that no row has anything for are left out."""

    def __init__(self, shown: list[Row], found: dict[tuple[str, str], Row], best: set[tuple[str, str]]):
        self.found, self.best = found, best
        self.interval = any(not math.isnan(row.eer_low) for row in shown)
        self.before = any((row.system + PTQ, row.trials) in found for row in shown)
        self.heads = ["EER (%)"] + [INTERVAL] * self.interval + ["minDCF(0.01)"]
        self.heads += ["EER (%) before finetuning"] * self.before

    def cells(self, name: str, trials: str) -> list[Cell]:
        row, before = self.found.get((name, trials)), self.found.get((name + PTQ, trials))
        if row is None:
            return [Cell("-")] * len(self.heads)
        cells = [Cell(f"{row.eer:.2f}", (name, trials) in self.best)]
        if self.interval:
            cells.append(Cell("-" if math.isnan(row.eer_low) else f"{row.eer_low:.2f} to {row.eer_high:.2f}"))
        cells.append(Cell(f"{row.mindcf01:.3f}"))
        if self.before:
            cells.append(Cell("-" if before is None else f"{before.eer:.2f}"))
        return cells


def _best(rows: list[Row], systems: dict[str, System]) -> set[tuple[str, str]]:
    """(system, list) of the EERs to mark, each among those of its class."""
    classes: dict[tuple, list[Row]] = {}
    for row in rows:
        classes.setdefault((systems[row.system].root, bit_class(row.avg_bits), row.trials), []).append(row)
    return {(peers[i].system, peers[i].trials) for peers in classes.values()
            for i in best_by_interval([(row.eer, row.eer_low, row.eer_high) for row in peers])}


def bit_class(avg_bits: float) -> int:
    """Rounds bits up; a mixed system of the size of a 2-bit one may have a hundredth of a bit more and is of 2 bits
    still."""
    return math.ceil(avg_bits - 0.05)


def _about(system: System, row_of: dict[str, Row]) -> list[str]:
    row = row_of[system.name]
    ratio = f"{row_of[system.parent].size_bytes / row.size_bytes:.2f}" if system.parent else "-"
    bits = f"{row.avg_bits:.2f}".rstrip("0").rstrip(".")
    return [system.name, system.kind, bits, f"{row.size_bytes / 1e6:.3f}", ratio]


def _opens(system: System, last: System | None) -> str:
    if last is None:
        return ""
    return "root" if system.root != last.root else "family" if system.family != last.family else ""


def as_markdown(tables: Iterable[Table]) -> str:
    """Writes the tables as Markdown, each under its back end and normalization."""
    parts = []
    for table in tables:
        labels = table.labels
        names = [trials for trials, width in table.groups for _ in range(width)]
        heads = table.heads[:labels] + [f"{a} {b}" for a, b in zip(names, table.heads[labels:])]
        lines = [[f"**{cell.text}**" if cell.bold else cell.text for cell in line.cells] for line in table.lines]
        text = markdown_table(heads, lines, _NUM_LABELS)
        parts.append(f"### {table.backend}, {table.norm}\n\n{text}\n\n{table.note}")
    return "\n\n".join(parts)


def as_html(table: Table) -> str:
    """Gives the table as a card of a page, with the interval below the EER, and its note."""
    groups = [""] * table.labels + [name for name, width in table.groups for _ in range(width)]
    below = {i - 1: i for i, head in enumerate(table.heads) if head == INTERVAL}
    own = [i for i in range(len(table.heads)) if i not in below.values()]
    heads = [Head(table.heads[i], groups[i], i < _NUM_LABELS) for i in own]
    rows = [[_shown(line.cells[i], line.cells[below[i]] if i in below else None) for i in own] for line in table.lines]
    breaks = {i for i, line in enumerate(table.lines) if line.opens}
    return card(heads, rows, breaks) + f'<p class="note">{escape(table.note)}</p>'


def _shown(cell: Cell, interval: Cell | None) -> drawn.Cell:
    small = ((interval.text, ""),) if interval is not None and interval.text != "-" else ()
    return drawn.Cell(cell.text, small, cell.bold)


_LATEX_HEAD = r"""% Compiles alone; \usepackage{standalone,booktabs} lets a paper \input it.
\documentclass[border=4pt,varwidth=\maxdimen]{standalone}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\begin{document}
"""


def as_latex(tables: Iterable[Table]) -> str:
    """Gives a LaTeX document with a booktabs table for each of `tables`."""
    return _LATEX_HEAD + "\n\\bigskip\n\n".join(_tabular(table) for table in tables) + "\\end{document}\n"


def _tabular(table: Table) -> str:
    top = [""] * table.labels
    top += [rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(name)}}}" for name, width in table.groups]
    rules = " ".join(rf"\cmidrule(lr){{{start + 1}-{start + width}}}"
                     for start, (_, width) in zip(table.starts(), table.groups))
    columns = "l" * _NUM_LABELS + "r" * (len(table.heads) - _NUM_LABELS)
    lines = [f"{escape_latex(f'{table.backend}, {table.norm}')}\n", rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
             _latex_line(top), rules, _latex_line([escape_latex(head) for head in table.heads]), r"\midrule"]
    for line in table.lines:
        lines += {"root": [r"\midrule"], "family": [r"\addlinespace"], "": []}[line.opens]
        texts = [(cell.bold, escape_latex(cell.text)) for cell in line.cells]
        lines.append(_latex_line([rf"\textbf{{{text}}}" if bold else text for bold, text in texts]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", "", escape_latex(table.note), ""])


def _latex_line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
