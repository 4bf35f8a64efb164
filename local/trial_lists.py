"""Writes trial lists that come with a corpus, for the preparation scripts beside this file."""

from __future__ import annotations

import os

from svq.atomic import atomic_write
from svq.errors import UserError


def write_trials(path: str, rows) -> str:
    """Writes rows (target, enroll, test) as lines of a trial list; returns a line that says how many.

    Reads `rows` once, so it may be a generator of millions. UserError where there is no target or no non-target trial;
    nothing is written then.
    """
    counts = [0, 0]
    with atomic_write(path) as file:
        for target, enroll, test in rows:
            file.write(f"{enroll} {test} {'target' if target else 'nontarget'}\n")
            counts[bool(target)] += 1
        for kind, count in zip(("non-target", "target"), counts):
            if not count:
                raise UserError(f"{path}: not a single {kind} trial in the corpus's list")
    return f"{path}: {counts[1]} target and {counts[0]} non-target trials"


def add_suffix(stem: str, suffixes) -> str | None:
    """Adds to `stem` the first of `suffixes` that gives the name of a file; None where none does."""
    return next((stem + suffix for suffix in suffixes if os.path.exists(stem + suffix)), None)
