"""A training run small enough for a test: ResNet18 of width 4 on buzzes of half a second."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import yaml

from svq.bin import train
from svq.train.loop import Trainer
from tests.builders import data_dir
from tests.helpers import run_worker

TINY = {
    "model": {"arch": "ResNet18", "net": {"width": 4}, "embed_dim": 8, "front_end": {"num_mels": 24}},
    "data": {"crop_seconds": 0.4, "num_workers": 0},
    "spec_augment": {"prob": 0.5},
    "schedule": {"lr": 0.05, "final_lr": 0.01, "warmup_epochs": 0.5, "margin_start_epoch": 1, "margin_full_epoch": 2},
    "epochs": 3, "batch_size": 6, "average": 2, "precision": "fp32", "num_threads": 1,
}


class Stop(Exception):
    pass


class Runs:
    """`runs(name, "key=value", ..., init=...)` trains into `folder/name` in this process and returns that folder."""

    def __init__(self, folder):
        self.folder = folder
        self.data = data_dir(folder, speakers=3, utts=8, seconds=0.6)
        self.config = folder / "tiny conf.yaml"
        self.config.write_text(yaml.safe_dump(TINY))

    def arguments(self, name, *overrides, **options):
        words = ["--config", self.config, "--data", options.pop("data", self.data), "--out", self.folder / name]
        for pair in overrides:
            words += ["--set", pair]
        for option, value in options.items():
            words += [f"--{option}", value]
        return [str(word) for word in words]

    def __call__(self, name, *overrides, **options):
        run_worker(train.main, *self.arguments(name, *overrides, **options))
        return self.folder / name

    def stopped(self, step, name, *overrides, **options):
        """The same, stopped as if killed after so many steps."""
        original = Trainer._save_if_due

        def save_or_stop(trainer):
            original(trainer)
            if trainer.step == step:
                raise Stop

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
            patch.setattr(Trainer, "_save_if_due", save_or_stop)
            self(name, *overrides, **options)
        return self.folder / name

    def process(self, name, *overrides, env=(), run=("-m", "svq.bin.train"), **options):
        """The same as a process of its own, started; `run`: what Python runs."""
        return subprocess.Popen([sys.executable, *run, *self.arguments(name, *overrides, **options)],
                                env={**os.environ, **dict(env)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def processes(self, count, name, *overrides, **options):
        """`count` processes that train together, as torchrun would start them."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
        return [self.process(name, *overrides, **options, env={**{k: str(v) for k, v in world.items()},
                             "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(count)]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("tiny runs"))


@pytest.fixture(scope="session")
def teacher(runs):
    """The folder of an undisturbed run; a checkpoint after every step."""
    return runs("teacher", "checkpoint_minutes=0")
