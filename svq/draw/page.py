"""Pages: one HTML file with sections and a style sheet, light and dark, phone to desk to paper; files of figures."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Sequence

from svq.atomic import atomic_write
from svq.draw.figure import Drawn

# Eight hues told apart by their lightness as well; dark-theme twins are lighter.
_LIGHT = {
    "ink": "#1b1f24", "muted": "#5f6975", "grid": "#dfe3e8", "surface": "#ffffff",
    "page": "#f5f6f8", "accent": "#0b62c4", "best": "#e4f2e7", "worse": "#a4480b",
    "better": "#1b7238",
}
_LIGHT_SERIES = ("#1f6fd1", "#d9541e", "#138a5c", "#8a4fd0", "#c2891a", "#c2357f", "#0f8ea3", "#5c6470")
_DARK = {
    "ink": "#e8ebef", "muted": "#9aa5b1", "grid": "#333a43", "surface": "#1a1e24",
    "page": "#111418", "accent": "#6eb0ff", "best": "#1d3a27", "worse": "#f0a067",
    "better": "#6fcf8f",
}
_DARK_SERIES = ("#62a4f5", "#f58a5c", "#45c48f", "#b78bf2", "#e3b44e", "#f07ab2", "#45c4d9", "#a7b0bb")


def _variables(names: dict[str, str], series) -> str:
    pairs = [f"--{name}:{value}" for name, value in names.items()]
    pairs += [f"--s{i}:{value}" for i, value in enumerate(series)]
    return ";".join(pairs)


def light() -> dict[str, str]:
    """Colours of the light theme by the names of their CSS variables."""
    return {**_LIGHT, **{f"s{i}": value for i, value in enumerate(_LIGHT_SERIES)}}


def css() -> str:
    """The whole style sheet."""
    light, dark = _variables(_LIGHT, _LIGHT_SERIES), _variables(_DARK, _DARK_SERIES)
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{_RULES}"
    )


_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
 font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:76rem;margin:0 auto;padding:1.2rem clamp(.8rem,3vw,2rem) 3rem}
h1{font-size:1.7rem;line-height:1.2;margin:.6rem 0 .2rem}
h2{font-size:1.2rem;margin:2.4rem 0 .3rem}
h3{font-size:1rem;margin:1.3rem 0 .4rem}
p{margin:.3rem 0 .8rem;max-width:48rem}
.note,figcaption,footer{color:var(--muted);font-size:.88rem}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.6rem 0 0;font-size:.9rem}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.84rem}
.card{background:var(--surface);border:1px solid var(--grid);border-radius:10px}
.table{overflow-x:auto;margin:.6rem 0 1rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.38rem .7rem;text-align:right;white-space:nowrap;border-top:1px solid var(--grid)}
thead tr:first-child th{border-top:0}
thead th{color:var(--muted);font-weight:600;font-size:.82rem;vertical-align:bottom}
thead th.group{text-align:center;color:var(--ink);border-left:1px solid var(--grid)}
.l{text-align:left}
th:first-child,td:first-child{position:sticky;left:0;background:var(--surface);text-align:left;z-index:1}
.edge{border-left:1px solid var(--grid)}
td.best{background:var(--best);font-weight:700}
td.break,tr.break>*{border-top:2px solid var(--grid)}
small{display:block;font-weight:400;font-size:.76rem;color:var(--muted);line-height:1.25}
small.worse{color:var(--worse)}small.better{color:var(--better)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:.8rem;
 margin:.6rem 0 1rem;align-items:start}
figure{margin:0;padding:.6rem .5rem .4rem;break-inside:avoid}
.wide{max-width:56rem;margin:.6rem 0 1rem}
figure svg{display:block;width:100%;height:auto;overflow:visible;font-family:inherit}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.5rem 0;padding:0;list-style:none;
 font-size:.88rem}
.legend svg{width:1.9rem;height:.7rem;margin-right:.4rem;vertical-align:middle}
details{margin:.5rem 0;padding:.1rem .9rem}
summary{cursor:pointer;padding:.45rem 0;font-weight:600}
details pre{overflow-x:auto;margin:.2rem 0 .8rem;line-height:1.4}
footer{margin-top:2.5rem;border-top:1px solid var(--grid);padding-top:.7rem}
@media (max-width:40rem){body{font-size:14px}th,td{padding:.34rem .5rem}h1{font-size:1.4rem}}
@media print{body{background:#fff;font-size:10pt}main{max-width:none;padding:0}nav{display:none}
 h2,h3{break-after:avoid}.table{overflow:visible}tr{break-inside:avoid}
 th,td{padding:.2rem .35rem;font-size:8pt}.plots{grid-template-columns:repeat(3,1fr);gap:.4rem}
 td.best{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


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
        f"<title>{title}</title>\n<style>{css()}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{title}</h1>\n<p class=\"note\">{summary}</p>\n<nav>{nav}</nav></header>\n"
        f"{body}\n<footer>{footer}</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def link_back(text: str, href: str, words: str = "All pages") -> str:
    """The text of a page of `page` with a link to the page of all pages in front of its sections, instead of one that
    it has. href: relative, quoted."""
    plain = re.sub(r'<nav><a class="back" [^>]*>[^<]*</a>', "<nav>", text, count=1)
    return plain.replace("<nav>", f'<nav><a class="back" href="{escape(href)}">← {escape(words)}</a>', 1)


def section(drawn: Drawn) -> str:
    files = f'Numbers: <code>{escape(drawn.name)}.tsv</code>, figure: <code>{escape(drawn.name)}.svg</code>.'
    return (f'<p class="note">{escape(drawn.note)} {files}</p>'
            f'<figure class="card wide">{drawn.svg}</figure>')


def standalone(svg: str) -> str:
    """What `to_svg` made as a file of its own: in the light theme's colours, its own font, on white."""
    colours = light()
    text = re.sub(r"var\(--(\w+)\)", lambda match: colours[match.group(1)], svg)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt" '
            'font-family="DejaVu Sans, Verdana, sans-serif" stroke-linejoin="round" ')
    paper = f'<rect width="{width}" height="{height}" fill="{colours["surface"]}"/>'
    first = text.index(">") + 1
    return f"{head}{text[len('<svg ') : first]}{paper}{text[first:]}\n"


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
