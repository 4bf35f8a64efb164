"""Pages: one HTML file of sections without scripts, and each figure's drawing and numbers beside it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Sequence

from svq.atomic import atomic_write
from svq.draw import style
from svq.draw.figure import Drawn, standalone


def page(title: str, summary: str, sections, footer: str) -> str:
    """An HTML page of (key, title, body) sections, those with an empty body left out.

    title and section titles: plain text; summary, bodies, footer: HTML.
    """
    shown = [(key, escape(title), body) for key, title, body in sections if body]
    nav = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in shown)
    body = "\n".join(f'<section id="{k}"><h2>{t}</h2>\n{b}\n</section>' for k, t, b in shown)
    title = escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style.css()}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{title}</h1>\n<p class=\"note\">{summary}</p>\n<nav>{nav}</nav></header>\n"
        f"{body}\n<footer>{footer}</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


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
