"""Tables of plain cells, in Markdown and in HTML, and of rows, tab separated to compute with."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Sequence
from html import escape

from svq.atomic import atomic_write


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int | Collection[int]) -> str:
    """Gives the lines of a Markdown table, without a line break behind the last one.

    left: how many columns hold words, the first ones, or which of them do, counted from 0; the others hold numbers.
    """
    words = range(left) if isinstance(left, int) else left
    rule = ["---" if column in words else "---:" for column in range(len(heads))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *rows])


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of a column. group: a title over several neighbouring columns, empty for none. left: it holds words."""

    text: str
    group: str = ""
    left: bool = False


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell. small: (text, CSS class) of the lines below it. best: among the best of its column."""

    text: str
    small: tuple[tuple[str, str], ...] = ()
    best: bool = False


_DENSE = 10  # columns; a table of more is set smaller
_INTERVAL = re.compile(r"(\S+) \((\S+ to \S+)\)\Z")


def card(heads: Sequence[Head], rows: Sequence[Sequence[Cell]], breaks: Collection[int] = ()) -> str:
    """Gives the HTML of a table on a card of a page (svq.draw.page).

    rows: as many cells each as there are heads. breaks: rows, counted from 0, that have a strong line above them. A
    click on a head sorts; on a narrow screen each row is a card, whose cells say what they hold.
    """
    edges = {i for i, head in enumerate(heads) if head.group and (i == 0 or heads[i - 1].group != head.group)}
    labels = [escape(f"{head.group}: {head.text}" if head.group else head.text) for head in heads]
    body = []
    for number, row in enumerate(rows):
        cells = "".join(_cell(cell, labels[i], _classes(i in edges, cell.best, heads[i].left and i > 0))
                        for i, cell in enumerate(row))
        body.append(f"<tr{' class=break' if number in breaks else ''}>{cells}</tr>")
    dense = " dense" if len(heads) > _DENSE else ""
    return (f'<div class="table card{dense}"><table><thead>{_head(heads, labels, edges)}</thead>'
            f'<tbody>{"".join(body)}</tbody></table></div>')


def _head(heads: Sequence[Head], labels: Sequence[str], edges: Collection[int]) -> str:
    grouped = any(head.group for head in heads)
    first, second = [], []
    for i, head in enumerate(heads):
        leaf = f'<th data-c="{i}" data-h="{labels[i]}"{{}}{_classes(i in edges, left=head.left and i > 0)}>{escape(head.text)}</th>'
        if not head.group:
            first.append(leaf.format(' rowspan="2"' if grouped else ""))
            continue
        second.append(leaf.format(""))
        if i in edges:
            width = sum(1 for _ in itertools.takewhile(lambda other: other.group == head.group, heads[i:]))
            first.append(f'<th class="group" colspan="{width}">{escape(head.group)}</th>')
    return "".join(f"<tr>{''.join(line)}</tr>" for line in (first, second) if line)


def _cell(cell: Cell, label: str, classes: str) -> str:
    small = "".join(f"<small{f' class={kind}' if kind else ''}>{escape(text)}</small>" for text, kind in cell.small)
    return f'<td data-h="{label}"{classes}>{escape(cell.text)}{small}</td>'


def _classes(edge: bool = False, best: bool = False, left: bool = False) -> str:
    names = " ".join(name for name, on in (("edge", edge), ("best", best), ("l", left)) if on)
    return f' class="{names}"' if names else ""


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Gives the HTML of the table that `markdown_table` gives the lines of, as a card of a page (svq.draw.page).

    left: how many columns hold words, the first ones. An interval, in brackets behind a figure or in a column "95 %" of
    its own, stands below the figure.
    """
    own = [i for i, head in enumerate(heads) if head != INTERVAL or i == 0]
    below = {i - 1: i for i, head in enumerate(heads) if head == INTERVAL and i > 0}
    return card([Head(heads[i], left=i < left) for i in own],
                [[_with_interval(row[i], row[below[i]] if i in below else "") for i in own] for row in rows])


INTERVAL = "95 %"


def _with_interval(text: str, interval: str) -> Cell:
    found = _INTERVAL.match(text)
    if found:
        text, interval = found.groups()
    return Cell(text, ((interval, ""),) if interval not in ("", "-") else ())


def write_rows(path, kind: type, rows: Sequence, digits: int = 6, comment: str = "") -> None:
    """Writes the rows of a dataclass to a file, whole or not at all, parted by tabs, under a header of its fields.

    kind: the dataclass. digits: significant ones of a float. comment: goes before the header, in a line that begins
    with #.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    with atomic_write(path) as file:
        file.write((f"# {comment}\n" if comment else "") + "\t".join(names) + "\n")
        for row in rows:
            values = (getattr(row, name) for name in names)
            file.write("\t".join(f"{v:.{digits}g}" if isinstance(v, float) else str(v) for v in values) + "\n")
