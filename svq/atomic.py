"""Outputs that are there whole or not at all: write beside, sync, rename."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import tempfile


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary name in the folder of `path`; renames it to `path` on success.

    On an exception the temporary file is removed and `path` is left as it was. After a power cut or
    `kill -9` the old file, or none, is there, never half of the new one.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    stem, suffix = os.path.splitext(os.path.basename(path))
    # The suffix stays last: writers such as soundfile and matplotlib choose the format by it.
    handle, temporary = tempfile.mkstemp(prefix=f".{stem}.", suffix=f".tmp{suffix}", dir=folder)
    os.close(handle)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def remove_leftovers(path) -> None:
    """Removes what writers of `path` that were killed left beside it; no other may be at work on it."""
    folder, name = os.path.split(os.fspath(path))
    stem, suffix = os.path.splitext(name)
    for leftover in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(stem)}.*.tmp{glob.escape(suffix)}")):
        os.unlink(leftover)


@contextlib.contextmanager
def atomic_write(path, mode: str = "w"):
    """Yields an open file that becomes `path` when the block ends without an exception."""
    with atomic_path(path) as temporary:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file


def write_json(path, obj) -> None:
    """Writes `obj` as readable JSON with sorted keys."""
    with atomic_write(path) as file:
        json.dump(obj, file, indent=1, sort_keys=True)
        file.write("\n")
