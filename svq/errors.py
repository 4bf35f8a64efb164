"""The one exception that users see: a single clear line, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the input (a file, an option, a config) that the user can mend.

    The message is one line that names the file (and line), what is wrong, and the mend.
    `svq.cli.run_main` prints it and exits with status 1.
    """


def located(path, line: int, text: str) -> str:
    """`path:line: text`, the form that editors and compilers understand. Lines count from 1."""
    return f"{path}:{line}: {text}"


def some_of(ids, shown: int = 5) -> str:
    """The first few of many ids and how many more there are: for messages that must stay one line."""
    ids = list(ids)
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return ", ".join(str(i) for i in ids[:shown]) + more
