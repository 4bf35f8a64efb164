"""The processes of a run of a recipe, by what they are, to kill one of them or all."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

MARK = "SVQ_TORTURE_MARK"
KINDS = ("all", "run.sh", "once", "guard", "step", "dispatcher", "worker", "child", "asked run.sh", "asked worker")


def marked(mark: str) -> dict[int, tuple[int, list[str]]]:
    """pid -> (parent, command line) of the living processes whose environment has the mark."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state, parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z" and f"{MARK}={mark}".encode() in folder.joinpath("environ").read_bytes().split(b"\0"):
                words = os.fsdecode(folder.joinpath("cmdline").read_bytes()).split("\0")[:-1]
                found[int(folder.name)] = int(parent), words
        except OSError:  # gone meanwhile
            pass
    return found


def kind_of(pid: int, processes: dict[int, tuple[int, list[str]]], top: int) -> str:
    """What a process is: one of KINDS, or another word for what no kill is aimed at."""
    parent, words = processes[pid]
    if pid == top:
        return "run.sh"
    twin = parent in processes and processes[parent][1] == words  # a fork that has not become anything else
    names = [os.path.basename(word) for word in words[:5]]
    if "once.py" in names:
        return "guard" if twin else "once"
    if "run.py" in names:
        return "guard" if twin else "dispatcher"
    if "-m" in words[:3] or names[1:2] and names[1].startswith("prepare_"):
        return "child" if twin else "worker"
    if names[:1] == ["bash"] and names[1:2] and names[1].endswith(".sh"):
        return "step"
    return "program"


def kill(mark: str, top: int, used: dict[str, int], draw) -> tuple[str, str]:
    """Kills one of the processes, or all, by the kind that was `used` least so far; draw(n) decides where that leaves
    several. Returns (kind, command line of what was killed), empty ones where all is over."""
    processes = marked(mark)
    if top not in processes:
        return "", ""
    found: dict[str, list[int]] = {"all": sorted(processes)}
    for pid in sorted(processes):
        kind = kind_of(pid, processes, top)
        if kind in KINDS:
            found.setdefault(kind, []).append(pid)
        if f"asked {kind}" in KINDS:
            found.setdefault(f"asked {kind}", []).append(pid)
    least = min(used.get(kind, 0) for kind in found)
    kinds = sorted(kind for kind in found if used.get(kind, 0) == least)
    kind = kinds[draw(len(kinds))]
    victims = found[kind] if kind == "all" else [found[kind][draw(len(found[kind]))]]
    for pid in victims:
        _signal(pid, signal.SIGTERM if kind.startswith("asked ") else signal.SIGKILL)
    return kind, " ".join(processes[victims[0]][1])[:150]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


def all_gone(mark: str, seconds: float) -> bool:
    """Whether all of them end within so many seconds."""
    deadline = time.monotonic() + seconds
    while marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
