"""Opens files that users name, and takes digests of files and settings.

A pipe that waits for a writer, or a device that never ends, is refused in one line. A digest says whether a result was
made from given files and settings: the same digest, the same work.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

from svq.errors import UserError

_KINDS = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def require_file(path):
    """Gives `path` back; UserError where it is a pipe, a socket, a device, or a name that no file can have.

    To open a pipe may wait for ever, and it can be read only once. /dev/null counts as an empty file. A missing file
    or a folder passes here: whoever opens it says so.
    """
    try:
        found = os.stat(path)
        kind = None if os.path.samestat(found, os.stat(os.devnull)) else _KINDS.get(stat.S_IFMT(found.st_mode))
    except OSError:
        return path
    except ValueError:
        raise UserError(f"{os.fspath(path)!r}: no file can have this name") from None
    if kind:
        raise UserError(f"{path}: {kind}, not a file; write what it holds to a file and give that")
    return path


def open_file(path, mode: str = "rb", **how):
    """Opens `path` for reading, as `open` does, if `require_file` lets it pass."""
    return open(require_file(path), mode, **how)


def sha256_of(path) -> str:
    """Computes the SHA-256 of a file's content, in hexadecimal digits. UserError where `open_file` raises it."""
    total = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def read_json(path):
    """Reads JSON file `path`; ValueError where it is not JSON, is cut short or nested too deeply, or gives a key twice.

    Raises UserError or OSError where `open_file` does.
    """
    with open_file(path, "r", encoding="utf-8") as file:
        try:
            return json.load(file, object_pairs_hook=_once)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, object]]) -> dict:
    """Makes the object of these pairs; ValueError for a key given twice: json would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def fingerprint(*parts) -> str:
    """Takes the digest (hex) of what a run depends on. parts: values that JSON holds, or ("file", path) pairs."""
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
    """Gives the digest that utils/once.py took of inputs that no list shows: recordings, archives, code.

    Empty where a worker is started by hand.
    """
    return os.environ.get("SVQ_INPUTS", "")


def run_digest(paths, *settings) -> str:
    """Takes the digest of a run: of the files among `paths` that exist, of `settings` (values that JSON holds) and of
    the inputs behind the lists (`inputs_digest`).

    What an earlier run left behind is taken up only where its digest is the same.
    """
    return fingerprint(*settings, inputs_digest(), *(("file", path) for path in paths if os.path.exists(path)))
