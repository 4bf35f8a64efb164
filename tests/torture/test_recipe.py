"""One run of the mini recipe to which all of it happens, compared with an undisturbed one after every stage."""

from __future__ import annotations

import os
import random
import re
import time
from dataclasses import dataclass

import pytest

from tests.recipes.conftest import KEPT
from tests.torture.disks import ReadOnlyView
from tests.torture.processes import all_gone, kill
from tests.torture.recipe import STAGES, differences

SEED = int(os.environ.get("SVQ_TORTURE_SEED", 1))
KILLS = {stage: 4 for stage in STAGES} | {5: 7, 6: 5, 14: 5}  # 70 in all
LEAST = 60
LONGEST = 60  # seconds before a kill; the next run goes on from there
NO_SPACE = re.compile(r"[^\n]*(?:No space left|Disk quota)[^\n]*")


@dataclass
class Kill:
    stage: int
    kind: str
    what: str
    differences: int = 0


@pytest.fixture
def draw(request):
    return random.Random(f"{SEED} {request.node.name}")


@pytest.mark.parametrize("stage", STAGES)
def test_stage(torture, draw, stage):
    """Starved of disk at its first write or later; then killed again and again at seeded moments; then let go."""
    if not torture.disk.why_not:
        starve(torture, draw, stage)
    here = kill_often(torture, draw, stage)
    torture.kills += here
    status, said = torture.recipe.stage(stage)
    assert status == 0, said
    differ = differences(torture.recipe.files(), torture.undisturbed.files[stage])
    if here:
        here[-1].differences = len(differ)
    print(f"stage {stage}: {len(here)} kills, {len(differ)} differences", *differ[:20], flush=True)  # it is a long lane
    assert not differ, f"{differ}\nafter\n" + "\n".join(f"{kill.kind}: {kill.what}" for kill in here)


def starve(torture, draw, stage):
    """A full disk is one line, and no traceback."""
    for room, force in ((draw.choice([0, 0, 1 << 14, 1 << 18]), []), (0, ["--force"])):
        begun = time.time()
        torture.disk.leave_room(room)
        try:
            status, said = torture.recipe.stage(stage, *force)
            logs = torture.recipe.logs(begun)
        finally:
            torture.disk.grow()
        if status:
            break
    line = NO_SPACE.search(said) or NO_SPACE.search(logs)
    torture.full.append((stage, room, status, (line[0].strip() if line else said[-200:]).replace("|", "/")))
    assert status in (1, 2) and line, said + logs
    assert "Traceback" not in said + logs, (said + logs)[-6000:]


def kill_often(torture, draw, stage) -> list[Kill]:
    """As often as KILLS says. Where a run ends before it is killed the next one begins anew with --force."""
    here, share, force = [], 0.8, []
    for _ in range(3 * KILLS[stage]):
        if len(here) == KILLS[stage]:
            break
        longest = min(LONGEST, share * torture.undisturbed.seconds[stage])
        killed, status, said = killed_once(torture, draw, stage, longest, force)
        assert "Traceback" not in said, said
        if killed.kind:
            here.append(killed)
            torture.used[killed.kind] = torture.used.get(killed.kind, 0) + 1
        share *= 0.8
        force = [] if killed.kind else ["--force"]
    return here


def killed_once(torture, draw, stage, longest, force) -> tuple[Kill, int, str]:
    """(what was killed within so many seconds, nothing where the run was over before; its status; what it printed)."""
    recipe, said = torture.recipe, torture.recipe.folder.parent / "said"
    with open(said, "wb") as output:
        process = recipe.start("--stage", stage, "--stop-stage", stage, *force, output=output)
    while process.poll() is None and b"] stage " not in said.read_bytes():
        time.sleep(0.02)
    _sleep(process, longest * draw.random())
    kind = what = ""
    if process.poll() is None:
        kind, what = kill(recipe.mark, process.pid, torture.used, draw.randrange)
    status = process.wait()
    assert all_gone(recipe.mark, 60), "processes are left behind"
    return Kill(stage, kind, what), status, said.read_text(errors="replace")


def _sleep(process, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))


def test_then_all_is_up_to_date(torture):
    assert len(torture.kills) >= LEAST or len(STAGES) < 16
    status, said = torture.recipe.whole()
    assert status == 0 and " 0 made," in said, said
    assert not differences(torture.recipe.files(), torture.undisturbed.files[STAGES[-1]])


def lasting(names: list[str]) -> list[str]:
    """Leaves out what analyses keep for their next run: made again of features made again, it has other names."""
    return [name for name in names if not KEPT.search(name)]


@pytest.fixture
def whole(torture):
    """The recipe, run to its end: by the tests above, or now where those below are run alone."""
    status, said = torture.recipe.whole()
    assert status == 0, said
    return torture


def test_vanished_files_are_made_again(whole, draw):
    """Results of all stages, some dozens at a time."""
    expected = whole.undisturbed.files[STAGES[-1]]
    names = sorted(name for name in expected if not name.startswith(("conf/", "corpus/")) and not KEPT.search(name))
    for _ in range(2):
        gone = draw.sample(names, 36)
        for name in gone:
            (whole.recipe.folder / name).unlink()
        status, said = whole.recipe.whole()
        missing = lasting(differences(whole.recipe.files(), expected))
        whole.vanished += [(name, "no" if name in missing else "yes") for name in gone]
        assert status == 0, said
        assert not missing


def test_a_read_only_disk_is_one_line(whole):
    if whole.disk.why_not:
        pytest.skip(f"no disk of our own: {whole.disk.why_not}")
    whole.disk.read_only()
    try:
        status, said = whole.recipe.whole()
        dry, plan = whole.recipe.whole("--dry-run")
    finally:
        whole.disk.grow()
    assert status == 1 and "Read-only file system" in said and "Traceback" not in said, said
    assert dry == 0 and "0 to make" in plan, plan
    assert whole.recipe.whole()[0] == 0


@pytest.mark.parametrize("name, stage", [("data", 2), ("corpus", 0), ("exp", 3)])
def test_a_read_only_folder(whole, name, stage):
    """What is only read may be so; who would write there says so in a line, and changes nothing."""
    with ReadOnlyView(whole.recipe.folder / name) as view:
        if view.why_not:
            pytest.skip(f"nothing can be mounted: {view.why_not}")
        begun = time.time()
        status, said = whole.recipe.stage(stage, "--force")
        assert status and "Read-only file system" in said + whole.recipe.logs(begun), said
        assert "Traceback" not in said, said
    status, said = whole.recipe.whole()
    assert status == 0, said
    assert not lasting(differences(whole.recipe.files(), whole.undisturbed.files[STAGES[-1]]))
