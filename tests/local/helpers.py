"""Running the scripts of local/ from tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPORA = ROOT.parent / "shared" / "corpora"  # real recordings, where a developer has them


def run(script: str, *args, ok: bool = True, path=None):
    """Runs local/<script> from the repository's root; asserts that it succeeds, or else exits 1 or 2."""
    command = [sys.executable] if script.endswith(".py") else ["bash"]
    environment = dict(os.environ, PATH=os.pathsep.join(filter(None, [path and str(path), os.environ["PATH"]])))
    result = subprocess.run(
        [*command, f"local/{script}", *map(str, args)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (result.returncode == 0) == ok, result.stdout + result.stderr
    if not ok:
        assert "Traceback" not in result.stderr, result.stderr
    return result


def error(script: str, *args, **options) -> str:
    """The one line that a refused run of local/<script> says."""
    result = run(script, *args, ok=False, **options)
    assert result.returncode == 1, result.stderr
    return result.stderr.strip().splitlines()[-1]


def table(path) -> dict[str, str]:
    return dict(line.rstrip("\n").split(maxsplit=1) for line in open(path))


def trials(path) -> list[tuple[str, str, str]]:
    return [tuple(line.split()) for line in open(path)]


def tree(folder) -> dict[str, bytes]:
    """Every file below `folder` with its bytes."""
    folder = Path(folder)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
