"""Every script explains itself from any folder, and refuses what it does not know with status 2 and one line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCED = {"lists.sh", "systems.sh", "step.sh", "stages.sh", "parse_options.sh", "forward.sh"}  # not run by themselves
SCRIPTS = sorted(path for folder in ("steps", "utils") for path in (ROOT / folder).glob("*.sh")
                 if path.name not in SOURCED)


def run(script, *options, cwd="/"):
    return subprocess.run(["bash", str(script), *options], cwd=cwd, env={**os.environ, "SVQ_ROOT": ""}, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help_and_unknown_options(script):
    told = run(script, "--help")
    assert told.returncode == 0, told.stderr
    assert "Options [default]:" in told.stdout and not told.stdout.startswith("Options")
    refused = run(script, "--no-such-option", "1", cwd=script.parent)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and script.name in refused.stderr


def test_help_of_the_tests():
    told = run(ROOT / "tests" / "run.sh", "--help")
    assert told.returncode == 0 and "bash tests/run.sh" in told.stdout
