"""Tables of plain cells, in Markdown and in HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """The lines of a table whose first `left` columns hold words, the others numbers; without a line break behind."""
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *rows])


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """The same as a card of a page (svq.report.html)."""
    def line(tag: str, words: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag}{" class=l" if i < left else ""}>{escape(word)}</{tag}>'
                                for i, word in enumerate(words)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="table card"><table><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table></div>'
