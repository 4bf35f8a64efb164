"""index.html on quantization: the paper's table and every figure, in one file; and the files beside it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Sequence

from svq.atomic import atomic_write
from svq.report.figure import standalone
from svq.report.html import page
from svq.report.paper_table import Table, as_html
from svq.report.quant_plots import Drawn


def render(title: str, tables: Sequence[Table], figures: Sequence[Drawn]) -> str:
    """The page as HTML text."""
    parts = [f"<h3>{escape(table.backend)}, {escape(table.norm)}</h3>{as_html(table)}" for table in tables]
    sections = [("table", "Results", "".join(parts))] if parts else []
    sections += [(drawn.name, drawn.title, section(drawn)) for drawn in figures]
    summary = f"{len(tables[0].lines)} systems." if tables else ""
    return page(title, summary, sections, "Made by <code>steps/quant_report.sh</code>.")


def section(drawn: Drawn) -> str:
    files = f'Numbers: <code>{escape(drawn.name)}.tsv</code>, figure: <code>{escape(drawn.name)}.svg</code>.'
    return (f'<p class="note">{escape(drawn.note)} {files}</p>'
            f'<figure class="card wide">{drawn.svg}</figure>')


def write_figures(folder, figures: Sequence[Drawn]) -> None:
    """<name>.svg and <name>.tsv of each figure."""
    for drawn in figures:
        with atomic_write(Path(folder) / f"{drawn.name}.svg") as file:
            file.write(standalone(drawn.svg))
        with atomic_write(Path(folder) / f"{drawn.name}.tsv") as file:
            file.write(tsv(drawn))


def tsv(drawn: Drawn) -> str:
    """The numbers of a figure: a header and a line each, tab separated; nan for what is unknown."""
    lines = [drawn.columns, *([_field(value) for value in row] for row in drawn.rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def _field(value) -> str:
    return value if isinstance(value, str) else f"{value:.7g}"
