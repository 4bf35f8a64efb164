"""Opens files that users name, and nothing else: what waits for a writer, or never ends, is refused in one line."""

from __future__ import annotations

import os
import stat

from svq.errors import UserError

_KINDS = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def require_file(path):
    """Gives `path` back; UserError where a pipe, a socket or a device is there, or a name that no file can have.

    Opening one may wait for ever, and it can be read once at most. What is missing, or a folder, is for who opens it.
    """
    try:
        kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except OSError:
        return path
    except ValueError:
        raise UserError(f"{os.fspath(path)!r}: no name of a file") from None
    if kind:
        raise UserError(f"{path}: {kind}, not a file; write what it holds to a file and give that")
    return path


def open_file(path, mode: str = "rb", **how):
    """Opens for reading, as `open` does, what `require_file` lets pass."""
    return open(require_file(path), mode, **how)
