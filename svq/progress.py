"""Shows how far a long loop has come: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time


def progress(iterable, total: int | None = None, desc: str = "", seconds: float = 10.0):
    """Iterates over `iterable` with a tqdm bar on a terminal, or with a plain line every `seconds` in a log."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(iterable, total=total, desc=desc, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(iterable, 1):
        yield item
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            print(_plain_line(desc, done, total, now - start), file=sys.stderr, flush=True)
    print(_plain_line(desc, done, total, time.monotonic() - start), file=sys.stderr, flush=True)


def _plain_line(desc: str, done: int, total: int | None, elapsed: float) -> str:
    rate = done / elapsed if elapsed > 0 else 0.0
    share = f"{done}/{total} ({100 * done / total:.0f} %)" if total else str(done)
    left = f", {(total - done) / rate:.0f} s left" if total and rate > 0 and done < total else ""
    return f"{desc}: {share} in {elapsed:.1f} s, {rate:.1f}/s{left}"
