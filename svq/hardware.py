"""The machine at hand: its processor, its instructions for INT8, and the memory that this process has taken."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Callable


def describe(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Names the processor and the threads that this process may use, as in 'AMD EPYC 7763 (2 threads)'."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_model(cpuinfo)} ({threads} thread{'s' * (threads != 1)})"


def _model(cpuinfo: str) -> str:
    try:
        with open(cpuinfo, encoding="utf-8") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), flags=re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def peak_bytes() -> int:
    """Gives the largest resident set of this process so far, in bytes.

    Linux tells it for the program that runs (VmHWM). There getrusage would also count what the process held before it
    became this program, such as the copy of a large parent, so it is asked on other systems only.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return int(re.search(r"^VmHWM:\s*(\d+) kB", file.read(), flags=re.M).group(1)) * 1024
    except (OSError, AttributeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")  # instructions that multiply and add four int8 at once
MACHINES = ("x86_64", "AMD64")


def has_vnni(path: str = "/proc/cpuinfo") -> bool | None:
    """Says whether this x86 processor has one of FLAGS; None for other processors and where that cannot be seen."""
    import platform

    if platform.machine() not in MACHINES:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            flags = next((line.split(":", 1)[1].split() for line in file if line.startswith("flags")), None)
    except OSError:
        return None
    return None if flags is None else any(flag in flags for flag in FLAGS)


def warn_without_vnni(tell: Callable[[str], None], path: str = "/proc/cpuinfo") -> None:
    """Calls `tell` with a warning, one line, where this processor is known to have no instructions for INT8."""
    if has_vnni(path) is False:
        tell(f"warning: this processor has none of {', '.join(FLAGS)}: INT8 models take about twice as long "
             "as with them")
