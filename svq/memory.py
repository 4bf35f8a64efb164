"""How much memory this process has taken."""

from __future__ import annotations

import re
import resource
import sys


def peak_bytes() -> int:
    """The largest resident set of this process so far, in bytes.

    Linux says so of the program that runs (VmHWM); getrusage counts there also what the process held before it
    became this program, such as a large parent's copy, and is asked elsewhere only.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return int(re.search(r"^VmHWM:\s*(\d+) kB", file.read(), flags=re.M).group(1)) * 1024
    except (OSError, AttributeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
