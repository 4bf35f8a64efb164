"""Trainings on a real cluster: preemption, two nodes. All end with the bytes of an undisturbed run."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.builders import data_dir
from tests.slurm.conftest import ROOT
from tests.train.conftest import TINY

RUN = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
stage=0          # first stage to run
stop_stage=1     # last stage to run
dry_run=false    # say what would be done, touch nothing
force=false      # redo the chosen stages, finished or not
exp=exp          # where results go
. utils/parse_options.sh
. ./path.sh
. ./cmd.sh
. utils/stages.sh
if stage 0 "training"; then
  once steps/train.sh --cmd "$cuda_cmd" tiny.yaml data "$exp/net"
fi
stages_done
"""


class Recipe:
    """A folder whose run.sh trains one tiny network, a checkpoint after every step."""

    def __init__(self, folder):
        self.folder = folder
        data_dir(folder, speakers=3, utts=8, seconds=0.6)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(dict(TINY, epochs=8, checkpoint_minutes=0)))
        for name in ("steps", "utils", "path.sh", "cmd.sh"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "run.sh").write_text(RUN)
        # What an undisturbed run gives, made while other tests wait.
        environment = dict(os.environ, PATH="%s:%s" % (os.path.dirname(sys.executable), os.environ["PATH"]))
        train = ["bash", "steps/train.sh", "--num-procs"]
        self.whole = [subprocess.Popen([*train, str(n), "tiny.yaml", "data", "exp/whole%d" % n], cwd=folder,
                                       env=environment, stdout=subprocess.DEVNULL) for n in (1, 2)]

    def model(self, name):
        return (self.folder / "exp" / name / "model.safetensors").read_bytes()

    def undisturbed(self, processes):
        assert self.whole[processes - 1].wait(timeout=200) == 0
        return self.model("whole%d" % processes)

    def checkpoint(self, name):
        return self.folder / "exp" / name / "checkpoints/last.pt"

    def log(self, name):
        path = self.folder / "exp" / name
        return path.read_text() if path.exists() else ""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, cluster):
    recipe = Recipe(tmp_path_factory.mktemp("recipe"))
    yield recipe
    for process in recipe.whole:
        if process.poll() is None:
            process.terminate()
            process.wait()


@pytest.fixture
def here(shell, recipe):
    shell.folder = recipe.folder
    return shell


def test_preempted_run(here, cluster, recipe, seen):
    """utils/submit.sh submits run.sh itself; a job of higher priority takes its place, and it goes on after that."""
    shell = here
    submit = ["bash", ROOT / "utils/submit.sh"]
    resources = ["--partition", "low", "--mem", "1G"]
    _, err = shell(*submit, *resources, recipe.folder, "--no-such", code=2)
    assert err == "run.sh: unknown option --no-such (--help lists them)\n"
    shell(*submit, *resources, recipe.folder, "--stage", "0", "--force", code=2)
    out, _ = shell(*submit, *resources, recipe.folder, "--stage", "0")
    assert out.startswith("submitted job ")
    job = out.split()[2].rstrip(";")
    _, err = shell(*submit, *resources, recipe.folder, code=1)
    assert "in the queue already, as job %s" % job in err
    shell.until(recipe.checkpoint("net").exists, "the training has a checkpoint")
    held = trainings("exp/net")
    for pid in held:                     # on a fast machine it would be done before its place is taken
        os.kill(pid, signal.SIGSTOP)
    cluster("sbatch", "--partition=high", "--ntasks=4", "--output=/dev/null", "--wrap=sleep 1")
    shell.until(lambda: cluster("squeue", "-h", "-j", job, "-o", "%T") != "RUNNING", "its place is taken")
    for pid in filter(is_training, held):
        os.kill(pid, signal.SIGCONT)
    shell.until(lambda: not cluster("squeue", "-h"), "the run is done", 150)
    assert recipe.model("net") == recipe.undisturbed(1)
    log = recipe.log("log/run.log")
    assert log.count("# Started: ") == 2 and "done in " in log
    assert "resuming from" in recipe.log("net/log/train.log")
    seen("7 submit.sh, preempted", "checkpoint on SIGTERM, requeued, went on, same bytes")


def test_two_nodes(here, cluster, recipe, seen):
    """Two ranks under srun: one's death ends both; a node that fails sends the job back, and it goes on."""
    shell = here
    train = ["bash", "steps/train.sh", "--cmd", "slurm.py --mem 1G", "--num-nodes", "2", "tiny.yaml", "data", "exp/two"]
    process = shell.start(*train)
    shell.until(recipe.checkpoint("two").exists, "the training has a checkpoint", 120)
    ranks = trainings("exp/two")
    assert len(ranks) == 2
    os.kill(ranks[-1], signal.SIGKILL)
    _, err = shell.end(process, 1)
    assert "the job failed (code 1" in err and re.search(r"task \d: Killed", recipe.log("two/log/train.log"))
    assert not any(map(is_training, ranks)) and not cluster("squeue", "-h", "-t", "R")
    seen("7 two nodes, a rank killed", "all end, the job fails, its log names the rank")
    process = shell.start(*train)
    shell.until(lambda: "resuming from" in recipe.log("two/log/train.log"), "the training goes on", 120)
    cluster("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    cluster("scontrol", "update", "nodename=n2", "state=resume")
    shell.end(process)
    assert recipe.log("two/log/train.log").count("# Started: ") == 2
    assert recipe.model("two") == recipe.undisturbed(2)
    seen("7 two nodes, a node fails", "requeued, both ranks went on, same bytes as torchrun's two")


def is_training(pid, model=""):
    try:
        words = Path("/proc/%d/cmdline" % pid).read_bytes().split(b"\0")
    except OSError:
        return False
    return words[1:3] == [b"-m", b"svq.bin.train"] and (not model or model.encode() in words)


def trainings(model):
    """Ids of the processes that train it."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if is_training(pid, model)]
