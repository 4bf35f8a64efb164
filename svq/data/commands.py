"""Commands that stand in lists: `command |` in a wav.scp, a feats.scp or an embedding.scp. Off unless allowed.

Whoever gives you a list with one gives you a script. A recipe's run.sh, whose stage 1 has written its lists, allows them
with SVQ_ALLOW_PIPES=true in the environment; so does whoever has read a list of others. Nothing else does.
"""

from __future__ import annotations

import os
import subprocess

from svq.errors import UserError, located

VARIABLE = "SVQ_ALLOW_PIPES"
_SHOWN = 60  # characters of a command in a message


def allowed() -> bool:
    """Whether the environment allows commands; UserError where it says neither true nor false."""
    value = os.environ.get(VARIABLE) or "false"
    if value not in ("true", "false"):
        raise UserError(f"{VARIABLE} is '{value}'; write true or false")
    return value == "true"


def require_allowed(table) -> None:
    """UserError naming the first line of the `Table` that runs a command, unless commands are allowed."""
    rows = table.rows_ending_in(b"|")
    if len(rows) and not allowed():
        row = int(rows[0])
        raise UserError(located(table.path, row + 1, f"`{table.key(row)}` {_refusal(str(table.value(row))[:-1])}"))


def start(command: str, stderr=None) -> subprocess.Popen:
    """Starts a shell command whose standard output is wanted, in a session of its own; UserError unless allowed."""
    if not allowed():
        raise UserError(_refusal(command))
    return subprocess.Popen(["bash", "-o", "pipefail", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=stderr, start_new_session=True)


def _refusal(command: str) -> str:
    command = " ".join(command.split())
    shown = command if len(command) <= _SHOWN else command[:_SHOWN] + "..."
    return f"runs a command ({shown}), and lists may not: read the list, and if you trust it, export {VARIABLE}=true"
