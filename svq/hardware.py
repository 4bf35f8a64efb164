"""One line on the machine at hand, for tables of results."""

from __future__ import annotations

import os
import platform
import re


def describe(cpuinfo: str = "/proc/cpuinfo") -> str:
    """Processor and the threads this process may use, as in 'AMD EPYC 7763 (2 threads)'."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_model(cpuinfo)} ({threads} thread{'s' * (threads != 1)})"


def _model(cpuinfo: str) -> str:
    try:
        with open(cpuinfo, encoding="utf-8") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), flags=re.M)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
