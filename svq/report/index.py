"""exp/index.html: one page that links all others of an experiment, which link back to it.

The folder of an experiment is the one that holds report.html. The report and every page below it call `finish` once
they are written, so that the index always names the pages that are there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from html import escape, unescape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from svq.atomic import atomic_write
from svq.draw.page import linked, listing, page
from svq.files import open_file

REPORT, INDEX, LISTING = "report.html", "index.html", "pages.js"
# Where pages are, what kind they are, and what they say.
PAGES = (
    (REPORT, "Report", "Shows all systems side by side: error rates with intervals, sizes, detection curves, calibration, training."),
    ("quantization/*/index.html", "Quantization", "Shows what bits cost a network: size against error, levels over weights, bits by layer."),
    ("analysis/*/scores/index.html", "Scores", "Shows where the scores and decisions of quantized systems part from the float system's."),
    ("analysis/*/layers_*/index.html", "Layers", "Shows what quantizing does to each layer and block, and what explains the loss."),
    ("cascade/*/report/index.html", "Cascades", "Shows what few bits for most trials and more for unsure ones save and cost."),
    ("*/search/report/index.html", "Search of settings", "Shows the settings of finetuning that were tried, and what the chosen ones trade."),
    ("*/report.html", "Tables", "Shows the systems of one table side by side (local/table.sh)."),
)
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


class Entry(NamedTuple):
    """A page in the index. path: from the index's folder; kind, title, sentence: plain text."""

    path: str
    kind: str
    title: str
    sentence: str


def finish(path) -> None:
    """Links a page that was just written and the index of its experiment to each other.

    path: report.html, or a page somewhere below the folder of one; any other is left as it is.
    """
    path = Path(os.path.abspath(path))
    folder = folder_of(path)
    if folder is None:
        return
    text = path.read_text(encoding="utf-8")
    links = [(_way(path.parent, folder / INDEX), f"All pages of {title_of(folder / REPORT)}")]
    if path.name != REPORT or path.parent != folder:
        links.append((_way(path.parent, folder / REPORT), "Report"))
    with atomic_write(path) as file:
        file.write(linked(text, links, _way(path.parent, folder / LISTING)))
    write_index(folder)
    above = folder_of(folder)                  # of a table's folder within an experiment's
    if above is not None:
        write_index(above)


def _way(start: Path, file: Path) -> str:
    return quote(os.path.relpath(file, start))


def folder_of(path: Path) -> Path | None:
    """Finds the nearest folder above a page that holds report.html; None where there is none."""
    return next((folder for folder in path.parents if (folder / REPORT).is_file()), None)


def write_index(folder) -> None:
    """Writes <folder>/index.html of the pages that are there, and pages.js, by which each of them shows links to all.

    Two at a time wait for each other.
    """
    folder = Path(os.path.abspath(folder))
    above = folder_of(folder)
    with _alone(folder):
        found = entries(folder)
        text = render(found)
        if above:
            text = linked(text, [(_way(folder, above / INDEX), f"All pages of {title_of(above / REPORT)}")],
                          _way(folder, above / LISTING))
        with atomic_write(folder / LISTING) as file:
            others = [(quote(entry.path), _short(entry, found)) for entry in found]
            file.write(listing([(INDEX, f"All pages of {title_of(folder / REPORT)}"), *others]))
        with atomic_write(folder / INDEX) as file:
            file.write(text)


@contextlib.contextmanager
def _alone(folder: Path):
    with open(folder / f".lock.{INDEX}", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def entries(folder) -> list[Entry]:
    """Lists the pages of an experiment, in the order of PAGES and then of their names."""
    folder = Path(folder)
    return [Entry(path.relative_to(folder).as_posix(), kind, title_of(path), sentence)
            for pattern, kind, sentence in PAGES for path in sorted(folder.glob(pattern)) if path.is_file()]


def title_of(path: Path) -> str:
    """Reads the title of a page; gives its file's name where it has none."""
    with open_file(path, "r", encoding="utf-8", errors="replace") as file:
        found = _TITLE.search(file.read(4096))
    return unescape(found[1]) if found else path.name


def _label(entry: Entry, others: list[Entry]) -> str:
    """Its title; where others have the same one, also its folder."""
    if sum(other.title == entry.title for other in others) == 1:
        return entry.title
    return f"{entry.title} ({entry.path.rpartition('/')[0]})"


def _short(entry: Entry, others: list[Entry]) -> str:
    """Its kind; where there are others of that, also what tells them apart: the folder's parts that differ."""
    of_kind = [other for other in others if other.kind == entry.kind]
    if len(of_kind) == 1:
        return entry.kind
    parts = [other.path.split("/") for other in of_kind]
    common = set(parts[0]).intersection(*parts)
    return f"{entry.kind}: {' '.join(part for part in entry.path.split('/') if part not in common) or entry.path}"


def render(found: list[Entry]) -> str:
    """Gives the index as HTML text; the same entries give the same bytes."""
    sections = []
    for kind in dict.fromkeys(entry.kind for entry in found):
        of_kind = [entry for entry in found if entry.kind == kind]
        items = "".join(f'<li><a href="{quote(entry.path)}">{escape(_label(entry, of_kind))}</a></li>' for entry in of_kind)
        body = f"<p>{escape(of_kind[0].sentence)}</p><ul>{items}</ul>"
        sections.append((re.sub(r"\W+", "-", kind.lower()), kind, body))
    title = next((entry.title for entry in found if entry.path == REPORT), "Reports")
    summary = f"{len(found)} page{'s' if len(found) != 1 else ''}."
    return page(title, summary, sections, "Made by <code>steps/report.sh</code> and the steps that make the pages.")
