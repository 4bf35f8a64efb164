"""Pages: one HTML file with sections and a style sheet, light and dark, phone to desk to paper; files of figures."""

from __future__ import annotations

import json
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
    """Gives the colours of the light theme by the names of their CSS variables."""
    return {**_LIGHT, **{f"s{i}": value for i, value in enumerate(_LIGHT_SERIES)}}


def css() -> str:
    """Gives the style sheet of a page."""
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
main{max-width:80rem;margin:0 auto;padding:1.2rem clamp(.8rem,2vw,1.6rem) 3rem}
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
thead th{color:var(--muted);font-weight:600;font-size:.82rem;vertical-align:bottom;white-space:normal}
thead th.group{text-align:center;color:var(--ink);border-left:1px solid var(--grid)}
.l{text-align:left}
tr:first-child>th:first-child,td:first-child{position:sticky;left:0;background:var(--surface);text-align:left;z-index:1}
td:first-child{white-space:normal;overflow-wrap:break-word}
td.l{white-space:normal}
.dense table{font-size:.82rem}.dense th,.dense td{padding:.3rem .4rem}.dense thead th{font-size:.76rem}
.dense small{font-size:.7rem}.dense tr>:last-child{padding-right:.7rem}
.dense tr>:first-child{padding-left:.7rem}
.edge{border-left:1px solid var(--grid)}
td.best{background:var(--best);font-weight:700}
td.break,tr.break>*{border-top:2px solid var(--grid)}
small{display:block;font-weight:400;font-size:.76rem;color:var(--muted);line-height:1.25;white-space:normal}
.sortable th[data-c]{cursor:pointer}.sortable th[data-c]:hover,.sortable th[aria-sort]{color:var(--accent)}
th[aria-sort=ascending]::after{content:" ↑"}th[aria-sort=descending]::after{content:" ↓"}
table.sorted tr.break>*{border-top-width:1px}
small.worse{color:var(--worse)}small.better{color:var(--better)}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:.8rem;
 margin:.6rem 0 1rem;align-items:start}
figure{margin:0;padding:.6rem .5rem .4rem;break-inside:avoid}
.wide{margin:.4rem 0 .5rem}
.finding{margin:.2rem .3rem .5rem 0;max-width:48rem;font-size:.92rem;color:var(--ink)}figcaption.finding{margin-left:.3rem;font-size:.86rem}
.pages{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.9rem;margin-bottom:.4rem}
.pages b{font-weight:600}
figure svg{display:block;width:100%;height:auto;overflow:visible;font-family:inherit}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:.5rem 0;padding:0;list-style:none;
 font-size:.88rem}
.legend svg{width:1.9rem;height:.7rem;margin-right:.4rem;vertical-align:middle}
details{margin:.5rem 0;padding:.1rem .9rem}
summary{cursor:pointer;padding:.45rem 0;font-weight:600}
details pre{overflow-x:auto;margin:.2rem 0 .8rem;line-height:1.4}
footer{margin-top:2.5rem;border-top:1px solid var(--grid);padding-top:.7rem}
@media (max-width:40rem){body{font-size:14px}h1{font-size:1.4rem}
 .table{overflow:visible}table,tbody{display:block}thead{display:none}
 tbody tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(6.4rem,1fr));gap:.3rem .6rem;padding:.5rem .7rem;
  border-top:2px solid var(--grid)}tbody tr:first-child{border-top:0}
 tbody td,.dense tbody td{display:block;border:0;padding:.05rem .2rem;text-align:left;white-space:normal;overflow-wrap:anywhere;
  position:static}
 tbody td::before{content:attr(data-h);display:block;color:var(--muted);font-size:.7rem;font-weight:400;line-height:1.2}
 tbody td.l{grid-column:span 2}tbody td:first-child{grid-column:1/-1;font-weight:600}tbody td:first-child::before{content:none}
 .sortable thead{display:block;padding:.4rem .7rem}.sortable thead::before{content:"sort by";font-size:.76rem;color:var(--muted)}
 .sortable thead tr{display:flex;flex-wrap:wrap;gap:.15rem .7rem}.sortable th.group{display:none}
 .card .sortable thead tr>th{display:block;position:static;border:0;padding:0;font-size:0;text-align:left;background:none}
 .sortable th::before{content:attr(data-h);font-size:.76rem}.sortable th::after{font-size:.76rem}}
@media print{body{background:#fff;font-size:10pt}main{max-width:none;padding:0}nav{display:none}
 h2,h3{break-after:avoid}.table{overflow:visible}tr{break-inside:avoid}
 th,td{padding:.2rem .35rem;font-size:8pt}.plots{grid-template-columns:repeat(3,1fr);gap:.4rem}
 td.best{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


_SCRIPT = """
document.querySelectorAll("table").forEach((table) => {
  const body = table.tBodies[0], first = Array.from(body.rows), heads = table.querySelectorAll("th[data-c]");
  const text = (row, i) => (row.cells[i].firstChild ? row.cells[i].firstChild.textContent : "").trim();
  const number = (words) => /^[-+−÷±]?\\s?[\\d.]/.test(words) ? parseFloat(words.replace("−", "-").replace(/[,÷±\\s]/g, "")) : NaN;
  const sort = (head) => {
    const i = head.dataset.c, was = head.getAttribute("aria-sort"), way = !was ? "ascending" : was == "ascending" ? "descending" : "";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    if (way) head.setAttribute("aria-sort", way);
    table.classList.toggle("sorted", way != "");
    const keys = new Map(first.map((row) => [row, [number(text(row, i)), text(row, i)]]));
    const words = first.some((row) => isNaN(keys.get(row)[0]) && keys.get(row)[1] != "-");
    const sign = way == "descending" ? -1 : 1;
    const order = (a, b) => {
      const [x, s] = keys.get(a), [y, t] = keys.get(b);
      if (words) return sign * (s < t ? -1 : s > t ? 1 : 0);
      return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) : sign * (x - y);
    };
    (way ? first.slice().sort(order) : first).forEach((row) => body.append(row));
  };
  table.classList.add("sortable");
  heads.forEach((head) => {
    head.tabIndex = 0;
    head.title = "sort";
    head.onclick = () => sort(head);
    head.onkeydown = (event) => { if (event.key == "Enter" || event.key == " ") { event.preventDefault(); sort(head); } };
  });
});
"""


def page(title: str, summary: str, sections, footer: str) -> str:
    """Gives an HTML page of (key, title, body) sections; those with an empty body are left out.

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
        f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


_LINKS = re.compile(r'<div class="pages">.*?</div>\n', re.DOTALL)


def linked(text: str, links: Sequence[tuple[str, str]], script: str) -> str:
    """Puts links to other pages on top of a page of `page`, in place of those that it has.

    links: (address, words) each, the address relative and quoted; shown where there is no script. script: address of
    the one that shows all pages instead (`listing`).
    """
    shown = " ".join(f'<a href="{escape(href)}">{escape(words)}</a>' for href, words in links)
    block = f'<div class="pages">{shown}<script src="{escape(script)}"></script></div>\n'
    return _LINKS.sub("", text, count=1).replace("<header>", f"<header>{block}", 1)


def listing(pages: Sequence[tuple[str, str]]) -> str:
    """Gives the script that shows links to all pages, (address from the script's folder, words) each, where `linked`
    names it. The page that is open is no link."""
    found = json.dumps([list(each) for each in pages], ensure_ascii=True, indent=1)
    return f"""(() => {{
  const me = document.currentScript, root = me.getAttribute("src").replace(/[^/]*$/, "");
  const links = {found}.map(([path, words]) => {{
    const link = document.createElement("a");
    link.href = root + path;
    link.textContent = words;
    if (link.pathname != location.pathname) return link;
    const here = document.createElement("b");
    here.textContent = words;
    return here;
  }});
  me.parentNode.replaceChildren(...links);
}})();
"""


_REM_OF_POINT, _WIDEST = 0.105, 60.0  # a figure's letters of 9 points are of 15 pixels


def section(drawn: Drawn) -> str:
    """Gives the HTML of a figure: what it finds, how to read it, the figure itself."""
    files = f'Numbers: <code>{escape(drawn.name)}.tsv</code>, figure: <code>{escape(drawn.name)}.svg</code>.'
    finding = f'<p class="finding">{escape(drawn.finding)}</p>' if drawn.finding else ""
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', drawn.svg)[1]) * _REM_OF_POINT
    return (f'{finding}<figure class="card wide" style="max-width:{min(width, _WIDEST):.1f}rem">{drawn.svg}</figure>'
            f'<p class="note">{escape(drawn.note)} {files}</p>')


def standalone(svg: str) -> str:
    """Gives the text of an SVG file of its own, from the element that svq.draw.figure.to_svg made: light colours, on
    white."""
    colours = light()
    text = re.sub(r"var\(--(\w+)\)", lambda match: colours[match.group(1)], svg)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}pt" height="{height}pt" '
            'font-family="DejaVu Sans, Verdana, sans-serif" stroke-linejoin="round" ')
    paper = f'<rect width="{width}" height="{height}" fill="{colours["surface"]}"/>'
    first = text.index(">") + 1
    return f"{head}{text[len('<svg ') : first]}{paper}{text[first:]}\n"


def write_figures(folder, figures: Sequence[Drawn]) -> None:
    """Writes <name>.svg, and its numbers as <name>.tsv, of each figure to `folder`."""
    for drawn in figures:
        with atomic_write(Path(folder) / f"{drawn.name}.svg") as file:
            file.write(standalone(drawn.svg))
        with atomic_write(Path(folder) / f"{drawn.name}.tsv") as file:
            file.write(tsv(drawn))


def tsv(drawn: Drawn) -> str:
    """Gives the numbers of a figure as text: a header, then a line a row, parted by tabs; nan for what is unknown."""
    lines = [drawn.columns, *([_field(value) for value in row] for row in drawn.rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def _field(value) -> str:
    return value if isinstance(value, str) else f"{value:.7g}"
