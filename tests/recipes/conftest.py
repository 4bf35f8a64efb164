"""One run of the mini recipe at debug size, killed on the way, that the tests of this folder share."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import warm

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ("teacher", "student", "teacher_best2", "teacher_mixed2", "teacher_adaptive", "student_kmqat4-ptq",
           "student_kmqat4-ptq-int8", "teacher_selected8-ptq", "teacher_nested4", "teacher_nested4-2bit")
# What is no result that a step promises. What an analysis keeps for its next run, as checkpoints are kept, is made again
# when something asks for it; for the course of a training nobody wants to train again; the next page writes the list of
# all pages, twice.
KEPT = re.compile(r"/(layers|blocks)_[^/]+/(embeddings|probes)/|/(curves\.csv|provenance\.yaml)$|^exp/(index\.html|pages\.js)$|/search/trials/"
                  r"|/levels/[^/]+/parts/")
# Logs, stamps and locks say when; checkpoints are states in between; an earlier search is set aside in old.1; the rest holds
# what a clock measured.
NOT_RESULTS = re.compile(r"(^|/)(log|checkpoints)/|(^|/)\.(done|lock|inputs)|(^|/)study\.db|/search/(report|old\.\d+)/|\.tmp(\.|$)|\.tmp\d+$")
LADDERS = ("teacher_nested4-2bit:teacher_nested4:teacher", "teacher_adaptive:teacher_gone")


def run_recipe(recipe: str, *options, status: int = 0, **environment) -> str:
    """Runs egs/<recipe>/run.sh to its end and returns what it printed; its status must be `status`."""
    done = subprocess.run(command(recipe, *options), env={**os.environ, **environment}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT)
    assert done.returncode == status, done.stdout[-6000:]
    return done.stdout


def command(recipe: str, *options) -> list[str]:
    """From a folder that is not the recipe's: paths in options are absolute, or relative to the recipe's folder."""
    return ["bash", str(ROOT / "egs" / recipe / "run.sh"), *map(str, options)]


def copy_conf(folder: Path) -> None:
    """Copies the settings of the debug size to `folder`, with a quant.yaml of its own to write rows in."""
    debug = ROOT / "egs" / "mini" / "conf" / "debug"
    shutil.copytree(debug, folder)
    (folder / "quant.yaml").write_text("adaptive: {base: adaptive}\n")
    for name, own in (("finetune", "quant.yaml, "), ("students", "")):
        path = folder / f"{name}.yaml"
        line = next(line for line in path.read_text().splitlines() if line.startswith("rows: "))
        tables = [table.strip() for table in line.removeprefix("rows: [").rstrip("]").split(",")]
        whole = ", ".join(table if table == "distill.yaml" else str((debug / table).resolve()) for table in tables)
        path.write_text(path.read_text().replace(line, f"rows: [{own}{whole}]"))


@dataclass
class Run:
    """Folders of a run, and the options that name them."""

    folder: Path
    exp: Path

    @property
    def options(self) -> list[str]:
        return ["--debug", "--systems", " ".join(SYSTEMS), "--search", "student", "--max-probes", 3, "--extract-nj", 1,
                "--analysis", "teacher", "--analysis-rows", "adaptive", "--ladders", " ".join(LADDERS),
                "--cascade-run", "true",
                "--conf", self.folder / "conf", "--corpus", self.folder / "corpus", "--data", self.folder / "data",
                "--exp", self.exp]

    def bytes_of(self, name: str) -> bytes:
        return (self.exp / name).read_bytes()


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> tuple[Run, Run]:
    """(a run to the end whose teacher training was killed on the way, an undisturbed one up to the teacher)."""
    folder = tmp_path_factory.mktemp("mini recipe")  # a space in the path
    copy_conf(folder / "conf")
    teacher = folder / "conf" / "teacher.yaml"
    teacher.write_text(teacher.read_text().replace("epochs: 2\n", "epochs: 4\n"))
    undisturbed, killed = Run(folder, folder / "undisturbed"), Run(folder, folder / "exp")
    run_recipe("mini", *undisturbed.options, "--nj", 1, "--stop-stage", 3)
    kill_in_training(killed)
    assert not (killed.exp / "teacher" / "model.safetensors").exists(), "it was not killed half-way"
    run_recipe("mini", *killed.options, **warm.environment())
    return killed, undisturbed


def kill_in_training(run: Run) -> None:
    """Starts the recipe and kills run.sh and the training (SIGKILL) once there is a checkpoint."""
    process = subprocess.Popen(command("mini", *run.options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               stdin=subprocess.DEVNULL, start_new_session=True)
    checkpoint = run.exp / "teacher" / "checkpoints" / "last.pt"
    while not checkpoint.exists():
        assert process.poll() is None, "the recipe ended before its first checkpoint"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)  # its children follow: see utils/guard.py
    process.wait()
