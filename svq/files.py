"""Opens files that users name, and nothing else: what waits for a writer, or never ends, is refused in one line. And
digests of files and settings, which say whether a result was made from these: the same digest, the same work."""

from __future__ import annotations

import hashlib
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


def fingerprint(*parts) -> str:
    """A digest of what a run depends on. `parts`: anything that JSON holds, or ("file", path) pairs."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, tuple) and part[0] == "file":
            with open_file(part[1]) as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest() if hasattr(hashlib, "file_digest")
                              else hashlib.blake2b(file.read()).digest())
        else:
            digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def inputs_digest() -> str:
    """What utils/once.py says of all that goes into this work and that no list tells: recordings, archives, code.

    Empty where a worker is started by hand.
    """
    return os.environ.get("SVQ_INPUTS", "")


def run_digest(paths, *settings) -> str:
    """The digest of a run: of those files `paths` that exist, of `settings`, anything that JSON holds, and of what is
    behind the lists (`inputs_digest`).

    What a run left behind is taken up only where this agrees.
    """
    return fingerprint(*settings, inputs_digest(), *(("file", path) for path in paths if os.path.exists(path)))
