"""index.html on quantization: the paper's table and every figure, in one file."""

from __future__ import annotations

from html import escape
from typing import Sequence

from svq.draw.figure import Drawn
from svq.draw.page import page, section
from svq.report.paper_table import Table, as_html


def render(title: str, tables: Sequence[Table], figures: Sequence[Drawn]) -> str:
    """The page as HTML text."""
    parts = [f"<h3>{escape(table.backend)}, {escape(table.norm)}</h3>{as_html(table)}" for table in tables]
    sections = [("table", "Results", "".join(parts))] if parts else []
    sections += [(drawn.name, drawn.title, section(drawn)) for drawn in figures]
    summary = f"{len(tables[0].lines)} systems." if tables else ""
    return page(title, summary, sections, "Made by <code>steps/quant_report.sh</code>.")
