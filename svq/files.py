"""Opens files that users name, and nothing else: what waits for a writer, or never ends, is refused in one line."""

from __future__ import annotations

import json
import os
import stat

from svq.errors import UserError

_KINDS = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def require_file(path):
    """Gives `path` back; UserError where a pipe, a socket or a device is there, or a name that no file can have.

    Opening one may wait for ever, and it can be read once at most. /dev/null is an empty file. What is missing, or a
    folder, is for who opens it.
    """
    try:
        found = os.stat(path)
        kind = None if os.path.samestat(found, os.stat(os.devnull)) else _KINDS.get(stat.S_IFMT(found.st_mode))
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


def read_json(path):
    """What the JSON file `path` says; ValueError where it is none, cut short, nested too deeply or gives a key twice.

    Errors of the file itself as `open_file`.
    """
    with open_file(path, "r", encoding="utf-8") as file:
        try:
            return json.load(file, object_pairs_hook=_once)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, object]]) -> dict:
    """The object of these pairs: of a key that is given twice, json would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found
