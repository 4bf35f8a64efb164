"""What this machine's processor has for INT8."""

from __future__ import annotations

from collections.abc import Callable

FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8")  # instructions that multiply and add four int8 at once
MACHINES = ("x86_64", "AMD64")


def has_vnni(path: str = "/proc/cpuinfo") -> bool | None:
    """Whether an x86 processor has one of FLAGS; None where that cannot be seen."""
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
    """Calls `tell` with a line where this processor is known to have no instructions for INT8."""
    if has_vnni(path) is False:
        tell(f"warning: this processor has none of {', '.join(FLAGS)}: INT8 models run on it, but hardly faster "
             "than float ones, and sums of products may saturate")
