"""Training from shards, at three speeds: killed in the middle of an epoch and run again it gives the same bytes."""

import os
import signal
import time

import pytest

from svq.bin import make_shards
from svq.errors import UserError
from tests.helpers import run_worker

FILES = ("model.safetensors", "head.safetensors", "config.yaml", "speakers.txt", "curves.csv")


@pytest.fixture(scope="module")
def shards(runs):
    """The tiny data directory as shards of a few recordings each, with a speaker for each speed."""
    stem = runs.folder / "tars" / "set"
    (stem.parent / "index").mkdir(parents=True)
    run_worker(make_shards.main, "write", runs.data, stem, "--megabytes", 0.05)
    run_worker(make_shards.main, "join", runs.folder / "sharded", stem, "--data", runs.data, "--speeds", 0.9, 1, 1.1)
    return runs.folder / "sharded"


def held(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def undisturbed(runs, shards):
    return held(runs("from_shards", "checkpoint_minutes=0", "batch_size=9", data=shards))


def test_speakers_of_three_speeds(undisturbed):
    speakers = undisturbed["speakers.txt"].decode().split()
    assert speakers == sorted(f"{speed}spk0{number}" for speed in ("", "sp0.9-", "sp1.1-") for number in range(3))


@pytest.mark.parametrize("step, workers", [(3, 0), (5, 2)])
def test_stopped_in_the_middle_of_an_epoch(runs, shards, undisturbed, step, workers):
    settings = ("checkpoint_minutes=0", "batch_size=9", f"data.num_workers={workers}")
    runs.stopped(step, f"shards{step}", *settings, data=shards)
    assert held(runs(f"shards{step}", *settings, data=shards)) == undisturbed


def test_killed_at_any_instant(runs, shards, undisturbed):
    settings = ("checkpoint_minutes=0", "batch_size=9", "data.num_workers=2")
    process = runs.process("shards_killed", *settings, data=shards)
    checkpoint = runs.folder / "shards_killed" / "checkpoints" / "last.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert held(runs("shards_killed", *settings, data=shards)) == undisturbed


def test_a_damaged_shard_ends_the_run_in_one_line(runs, shards, tmp_path):
    path = sorted((runs.folder / "tars").glob("*.tar"))[0]
    data = path.read_bytes()
    try:
        path.write_bytes(data[:3000] + bytes([data[3000] ^ 4]) + data[3001:])
        with pytest.raises(UserError, match=r"^[^\n]*set.00000.tar: altered: [^\n]*$"):
            runs("shards_damaged", "batch_size=9", "data.num_workers=1", data=shards)
    finally:
        path.write_bytes(data)
    assert not (runs.folder / "shards_damaged" / "model.safetensors").exists()
