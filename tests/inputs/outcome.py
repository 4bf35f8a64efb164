"""One bad input, and what becomes of it: refused in one line that says why, handled rightly, or neither."""

from __future__ import annotations

import contextlib
import io
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from svq.errors import one_line

REFUSED, HANDLED, TRACEBACK, SILENT = "one line", "handled", "traceback", "silent"
OUTCOMES = (REFUSED, HANDLED, TRACEBACK, SILENT)
SECONDS = 120  # after which an input counts as one that hangs


@dataclass(frozen=True)
class Case:
    """An input of a kind.

    run: does the work in the folder that it is given, and returns what came of it. words: in the line that refuses it;
    None: it must not be refused. right: whether what came of it is right; None: nothing may come of it. With both,
    either will do.
    """

    kind: str
    what: str
    run: Callable[[Path], object]
    words: str | None = None
    right: Callable[[object], bool] | None = None


class Hangs(BaseException):
    """No Exception: nothing on the way may take it for an error of the input."""


def outcome(case: Case, folder: Path) -> tuple[str, str]:
    """(one of OUTCOMES, what was said or made), in a folder that is new and gone afterwards."""
    folder.mkdir()
    said = io.StringIO()
    old = signal.signal(signal.SIGALRM, _hangs)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            made = case.run(folder)
    except Hangs:
        return TRACEBACK, "it hangs"
    except SystemExit as ended:
        return _refused(case, said.getvalue().rstrip("\n").rpartition("\n")[2] if ended.code == 2 else None, "", ended)
    except Exception as error:
        return _refused(case, one_line(error), said.getvalue(), error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        shutil.rmtree(folder)
    return (HANDLED if case.right is not None and case.right(made) else SILENT), str(made)[:300]


def _hangs(*_):
    raise Hangs


def _refused(case: Case, line: str | None, before: str, error: BaseException) -> tuple[str, str]:
    """As `outcome`. before: what a worker that goes on after a bad utterance has said of it."""
    if line is None or "\n" in line or not line.strip():
        return TRACEBACK, repr(error)[:300]
    if case.words is None or case.words not in before + line:
        return SILENT, f"refused with: {before + line}"[:400]
    return REFUSED, line


def table(found: list[tuple[Case, str]]) -> str:
    """A row a kind, and all together: how many were tried, and how many of each outcome."""
    kinds = list(dict.fromkeys(case.kind for case, _ in found))
    rows = [(kind, [seen for case, seen in found if case.kind == kind]) for kind in kinds]
    rows.append(("all", [seen for _, seen in found]))
    width = max(map(len, kinds))
    lines = [f"{'kind of bad input':{width}} {'tried':>9} " + " ".join(f"{name:>9}" for name in OUTCOMES)]
    lines += [f"{kind:{width}} {len(seen):9d} " + " ".join(f"{seen.count(name):9d}" for name in OUTCOMES)
              for kind, seen in rows]
    return "\n".join(lines)
