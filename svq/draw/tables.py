"""Tables of plain cells, in Markdown and in HTML, and of rows, tab separated to compute with."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from html import escape

from svq.atomic import atomic_write


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int | Collection[int]) -> str:
    """The lines of a table, without a line break behind.

    left: how many columns hold words, the first ones, or which of them do, counted from 0; the others hold numbers.
    """
    words = range(left) if isinstance(left, int) else left
    rule = ["---" if column in words else "---:" for column in range(len(heads))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *rows])


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """The same as a card of a page (svq.draw.page)."""
    def line(tag: str, words: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag}{" class=l" if i < left else ""}>{escape(word)}</{tag}>'
                                for i, word in enumerate(words)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="table card"><table><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table></div>'


def write_rows(path, kind: type, rows: Sequence, digits: int = 6, comment: str = "") -> None:
    """Atomically: by `comment` a line that begins with #, the fields of the dataclass `kind`, a line a row of it.

    digits: of a float.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    with atomic_write(path) as file:
        file.write((f"# {comment}\n" if comment else "") + "\t".join(names) + "\n")
        for row in rows:
            values = (getattr(row, name) for name in names)
            file.write("\t".join(f"{v:.{digits}g}" if isinstance(v, float) else str(v) for v in values) + "\n")
