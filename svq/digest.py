"""Digests of what a result was made from: the same digest, the same work."""

from __future__ import annotations

import hashlib
import json
import os

from svq.files import open_file


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
