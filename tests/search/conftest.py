"""A search small enough for a test: three speakers of half a second, a network of width 4, one or two epochs."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import yaml

from svq.bin import search
from svq.data.trials import make_trials
from tests.builders import data_dir
from tests.helpers import run_worker

TRAIN = {
    "model": {"arch": "ResNet18", "net": {"width": 4}, "embed_dim": 8, "front_end": {"num_mels": 24}},
    "data": {"crop_seconds": 0.3, "num_workers": 0},
    "schedule": {"lr": 0.05, "final_lr": 0.001, "warmup_epochs": 0, "margin_start_epoch": 0, "margin_full_epoch": 0},
    "epochs": 1, "batch_size": 6, "average": 1, "precision": "fp32", "num_threads": 1,
}
SEARCH = {
    "space": {"schedule.lr": {"low": 0.01, "high": 0.1, "log": True}, "quant.bits": {"choices": [2, 4]},
              "quant.retention": {"low": 0.8, "high": 1.0}},
    "trials": 2, "startup_trials": 1,
}


class Place:
    """Data, a float model and configs; `place.search(name, ...)` runs svq.bin.search in this process."""

    def __init__(self, folder):
        self.folder = folder
        self.data = data_dir(folder, speakers=3, utts=4, seconds=0.5)
        self.dev = data_dir(folder, speakers=3, utts=3, seconds=0.6, seed=1, name="dev")
        make_trials(self.dev)
        self.float_config = self.write("float.yaml", TRAIN)
        self.write("rows.yaml", {"kmqat": {"quant": {"method": "kmqat", "bits": 4}}})
        self.train = f"{self.write('tune.yaml', {'base': 'float.yaml', 'rows': 'rows.yaml'})}:kmqat"
        self.init = folder / "float"

    def write(self, name, tree):
        path = self.folder / name
        path.write_text(yaml.safe_dump(tree))
        return path

    def words(self, name, config=None, **options):
        own = dict(config=self.write(f"{name}.search.yaml", {**SEARCH, **(config or {})}), train=self.train,
                   init=self.init, data=self.data, dev=self.dev, out=self.folder / name)
        return [word for key, value in {**own, **options}.items() for word in (f"--{key}", str(value))]

    def search(self, name, config=None, **options):
        run_worker(search.main, *self.words(name, config, **options))
        return self.folder / name


def process(function, *arguments):
    """`function` in a process of its own, forked: torch and optuna are there already."""
    started = multiprocessing.get_context("fork").Process(target=_quietly, args=(function, *arguments))
    started.start()
    return started


def _quietly(function, *arguments):
    try:
        function(*arguments)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    from svq.bin import train

    made = Place(tmp_path_factory.mktemp("a search"))
    run_worker(train.main, "--config", made.float_config, "--data", made.data, "--out", made.init)
    return made
