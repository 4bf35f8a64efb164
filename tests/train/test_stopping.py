"""A training that is asked to end writes a checkpoint first, and goes on to the bytes of an undisturbed one."""

from __future__ import annotations

import os
import signal

import pytest

from svq.train.checkpoint import load_checkpoint
from svq.train.loop import Trainer
from svq.train.checkpoint import Stopped, StopRequest
from tests.train.test_runs import STEPS, weights

# What svq.bin.train runs, but it says each step and takes its time.
SLOW = """
import sys, time
from svq.bin import train
from svq.train.loop import Trainer
step = Trainer._train_step

def slow(trainer, *args):
    step(trainer, *args)
    print("step", trainer.step, flush=True)
    time.sleep(0.1)

Trainer._train_step = slow
train.main()
"""
FILES = ("model.safetensors", "head.safetensors", "config.yaml", "curves.csv", "speakers.txt")


def checkpoint_of(folder):
    return load_checkpoint(folder / "checkpoints" / "last.pt")


def differing(folder, other):
    return [name for name in FILES if weights(folder, name) != weights(other, name)]


@pytest.fixture(scope="session")
def undisturbed(runs):
    """With checkpoints at the end of epochs alone."""
    return runs("undisturbed", "checkpoint_minutes=600")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("step", [1, 5, 8, STEPS])
def test_asked_at_any_step_it_ends_and_goes_on(runs, undisturbed, number, step, monkeypatch, capfd):
    name, original = f"asked{number}-{step}", Trainer._train_step

    def asked(trainer, *args):
        if trainer.step == step - 1:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)  # as Slurm and the guard do: more than once
        original(trainer, *args)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(Trainer, "_train_step", asked)
        runs(name, "checkpoint_minutes=600")
    assert stopped.value.code == 128 + number and signal.getsignal(signal.SIGTERM) is before
    state = runs.folder / name / "checkpoints" / "last.pt"
    said = f"ended by {signal.Signals(number).name}; the same command goes on from {state}\n"
    assert said in capfd.readouterr().err and checkpoint_of(runs.folder / name)["step"] == step
    assert not (runs.folder / name / "model.safetensors").exists()
    runs(name, "checkpoint_minutes=600")
    assert not differing(runs.folder / name, undisturbed)


def descendants(pid):
    """Its loaders."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(name), *descendants(int(name))]
    return found


def until_step(process, step):
    for line in process.stdout:
        if line == f"step {step}\n":
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("workers", [0, 2])
def test_all_processes_of_a_training_are_asked(runs, undisturbed, workers):
    """The loaders go on until the step is done, and the process says by its status why it ended."""
    settings = ("checkpoint_minutes=600", f"data.num_workers={workers}")
    process = runs.process(f"all{workers}", *settings, run=("-c", SLOW))
    until_step(process, 6)
    loaders = descendants(process.pid)
    assert len(loaders) == workers
    for pid in [*loaders, process.pid, *loaders]:
        os.kill(pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 143 and "Traceback" not in errors and "ended by SIGTERM" in errors, errors
    assert 6 < checkpoint_of(runs.folder / f"all{workers}")["step"] < 12
    assert not differing(runs(f"all{workers}", *settings), undisturbed)


TWO = ("checkpoint_minutes=600", "epochs=2")


@pytest.fixture(scope="session")
def two_undisturbed(runs):
    for process in runs.processes(2, "two undisturbed", *TWO):
        assert process.wait() == 0
    return runs.folder / "two undisturbed"


@pytest.mark.parametrize("asked", [[1], [0, 1]])
def test_two_processes_end_after_the_same_step(runs, two_undisturbed, asked):
    name = f"two {asked}"
    processes = runs.processes(2, name, *TWO, run=("-c", SLOW))
    until_step(processes[0], 2)
    for rank in asked:
        processes[rank].send_signal(signal.SIGUSR1)
    for rank, process in enumerate(processes):
        _, errors = process.communicate(timeout=100)
        assert process.returncode == (138 if rank in asked else 143), errors
    assert 2 < checkpoint_of(runs.folder / name)["step"] < 8
    for process in runs.processes(2, name, *TWO):
        assert process.wait() == 0
    assert not differing(runs.folder / name, two_undisturbed)


def test_a_recording_that_could_not_be_read_because_all_end_is_no_error(runs, undisturbed, monkeypatch):
    """A decoder behind a pipe may get the signal before the training does."""
    from svq.data.dataset import TrainSet
    from svq.errors import UserError
    original = TrainSet.item

    def broken(train_set, epoch, index):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            raise UserError("the command failed with status -15")
        return original(train_set, epoch, index)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(TrainSet, "item", broken)
        runs("pipe", "checkpoint_minutes=600")
    assert not differing(runs("pipe", "checkpoint_minutes=600"), undisturbed)


def test_outside_of_the_main_thread_nothing_is_asked():
    import threading
    seen = []
    thread = threading.Thread(target=lambda: seen.append(StopRequest().__enter__().signal))
    thread.start(), thread.join()
    assert seen == [0]
