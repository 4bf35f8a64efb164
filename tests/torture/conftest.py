"""Torture: a recipe killed, starved of disk and robbed of files. `bash tests/run.sh --torture` runs it."""

from __future__ import annotations

import os
import time

import pytest

from tests.torture.disks import Disk
from tests.torture.recipe import Recipe, undisturbed

if not os.environ.get("SVQ_TORTURE"):
    collect_ignore_glob = ["test_*.py"]


class Torture:
    """The run that suffers, the undisturbed one to compare it with, and the tables of what was done to it."""

    def __init__(self, folder):
        mark = f"{os.getpid()}-{time.time_ns()}"
        # Both runs lie in the same place, for files hold paths.
        place = folder / "a disk"
        disk = Disk(place)
        begun = time.monotonic()
        self.undisturbed = undisturbed(Recipe(place, mark))
        self.seconds = time.monotonic() - begun
        disk.close()
        if disk.why_not:
            place.rename(folder / "undisturbed")
        self.disk = Disk(place)
        self.recipe = Recipe(place, mark)
        self.kills, self.full, self.vanished, self.used = [], [], [], {}


@pytest.fixture(scope="session")
def torture(tmp_path_factory, request):
    torture = Torture(tmp_path_factory.mktemp("torture"))
    yield torture
    torture.disk.close()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + tables(torture), flush=True)


def tables(torture: Torture) -> str:
    """What was done, in Markdown."""
    kinds = sorted({kill.kind for kill in torture.kills})
    lines = ["", f"Undisturbed: {torture.seconds:.0f} s", "", "| stage | " + " | ".join(kinds) + " | kills | differences |",
             "|---|" + "---|" * (len(kinds) + 2)]
    for stage in sorted({kill.stage for kill in torture.kills}):
        here = [kill for kill in torture.kills if kill.stage == stage]
        counts = [sum(kill.kind == kind for kill in here) for kind in kinds]
        lines.append(f"| {stage} | " + " | ".join(map(str, counts)) + f" | {len(here)} | {here[-1].differences} |")
    totals = [sum(kill.kind == kind for kill in torture.kills) for kind in kinds]
    lines.append("| all | " + " | ".join(map(str, totals)) + f" | {len(torture.kills)} | "
                 f"{sum(kill.differences for kill in torture.kills)} |")
    lines += ["", "| full disk in stage | room, bytes | status | what was said |", "|---|---|---|---|"]
    lines += [f"| {stage} | {room} | {status} | {said} |" for stage, room, status, said in torture.full]
    lines += ["", "| vanished | made again |", "|---|---|"] + [f"| {name} | {how} |" for name, how in torture.vanished]
    return "\n".join(lines)
