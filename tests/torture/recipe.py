"""The mini recipe at debug size, stage by stage, and what its files hold after each."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.recipes.conftest import LADDERS, NOT_RESULTS, ROOT, SYSTEMS, command, copy_conf
from tests.torture.processes import MARK

STAGES = range(int(os.environ.get("SVQ_TORTURE_STAGES", 16)))  # fewer: to try a change of these tests


@dataclass
class Recipe:
    """A run in `folder`."""

    folder: Path
    mark: str
    known: dict = field(default_factory=dict)

    def __post_init__(self):
        copy_conf(self.folder / "conf")
        for name, old, new in (("teacher", "epochs: 2\n", "epochs: 4\n"), ("search", "retries: 2", "retries: 1000")):
            path = self.folder / "conf" / f"{name}.yaml"
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))

    def start(self, *options, output) -> subprocess.Popen:
        folders = [word for name in ("conf", "corpus", "data", "exp") for word in (f"--{name}", self.folder / name)]
        words = command("mini", "--debug", "--systems", " ".join(SYSTEMS), "--search", "student", "--max-probes", 3,
                        "--analysis", "teacher", "--analysis-rows", "adaptive", "--ladders", " ".join(LADDERS),
                        *folders, *options)
        return subprocess.Popen(words, env={**os.environ, MARK: self.mark}, stdin=subprocess.DEVNULL, stdout=output,
                                stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)

    def run(self, *options) -> tuple[int, str]:
        """Runs to the end; (status, what was printed)."""
        said = self.folder.parent / "said"
        with open(said, "wb") as output:
            status = self.start(*options, output=output).wait()
        return status, said.read_text(errors="replace")

    def whole(self, *options) -> tuple[int, str]:
        return self.run("--stop-stage", STAGES[-1], *options)

    def stage(self, number: int, *options) -> tuple[int, str]:
        return self.run("--stage", number, "--stop-stage", number, *options)

    def files(self) -> dict[str, str]:
        """name -> digest of all results."""
        found = {}
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                short = os.path.relpath(path, self.folder)
                if not NOT_RESULTS.search(short):
                    found[short] = self._digest(path)
        return found

    def _digest(self, path: str) -> str:
        if os.path.islink(path):
            return os.readlink(path)
        state = os.stat(path)
        key = path, state.st_size, state.st_mtime_ns, state.st_ino
        if key not in self.known:
            with open(path, "rb") as file:
                self.known[key] = hashlib.blake2b(file.read()).hexdigest()
        return self.known[key]

    def logs(self, since: float) -> str:
        """What stands in the logs that were written since then."""
        return "".join(path.read_text(errors="replace") for path in self.folder.rglob("*.log")
                       if path.stat().st_mtime >= since)


@dataclass
class Undisturbed:
    """What a run that nothing happened to left after each stage, and how long the work of each took."""

    files: dict[int, dict[str, str]]
    seconds: dict[int, float]


def undisturbed(recipe: Recipe) -> Undisturbed:
    files, seconds = {}, {}
    for number in STAGES:
        status, said = recipe.stage(number)
        assert status == 0, said
        files[number], seconds[number] = recipe.files(), float(re.findall(r"done in (\d+) s", said)[-1]) + 0.5
        print(f"undisturbed stage {number}: {seconds[number]:.0f} s", flush=True)
    return Undisturbed(files, seconds)


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Names of files that are missing, too many, or hold something else."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
