"""What a GPU makes worth having: memory that is tried out first, compiled networks, float16, augmentation on the device."""

import csv

import pytest
import torch

from svq.errors import UserError
from svq.train import loop, trial
from svq.train.checkpoint import load_checkpoint
from tests.data.test_augment import clips, rooms


def weights(folder, name="model.safetensors"):
    return (folder / name).read_bytes()


def losses(folder):
    return [float(row["loss"]) for row in csv.DictReader(open(folder / "curves.csv"))]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory):
    place = tmp_path_factory.mktemp("surroundings")
    return {"noise": clips(place / "noise", [9000, 20000]), "rir": rooms(place / "rooms")}


@pytest.fixture
def tried(monkeypatch):
    """As on a GPU, a trial step is made; gives the sizes that it was made with."""
    found = []

    def largest(config, train_set, size):
        batch = trial_batch(config, train_set, size)
        found.append(batch)
        return batch

    trial_batch = loop.largest_batch
    monkeypatch.setattr(loop, "largest_batch", largest)
    monkeypatch.setattr(loop, "compile_or_not", lambda net, attempt: attempt())
    return found


def test_a_trial_step_leaves_nothing_behind(runs, teacher, tried, surroundings):
    made = runs("tried", "compile=true")
    assert len(tried) == 1 and tried[0][0].shape == (6, 6640) and tried[0][1].shape == (6,)
    assert weights(made) == weights(teacher) and weights(made, "curves.csv") == weights(teacher, "curves.csv")
    runs("tried with noise", "compile=true", "epochs=1", "augment={on_device: true}", **surroundings)
    assert tried[1][0].noises.shape == (6, 6640) and tried[1][0].rooms.shape == (6, 16000)
    runs("tried", "compile=true")  # finished: nothing is tried any more
    assert len(tried) == 2


def test_too_little_memory_is_one_line_before_the_first_step(runs, tried, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines.")

    monkeypatch.setattr(loop.Trainer, "_features", full)
    with pytest.raises(UserError, match=r"cpu: its memory does not suffice in a trial step, for 6 crops of 0.4 s at a "
                       r"time; lower batch_size \(6\) or data.crop_seconds \(0.4\), or set precision: bf16$"):
        runs("full", "compile=true")
    assert not (runs.folder / "full" / "curves.csv").exists()
    with pytest.raises(UserError, match="does not suffice in the training, for 6 crops"):
        runs("full", "precision=auto")


@pytest.mark.parametrize("settings", [(), ("quant.method=kmqat", "quant.bits=2")], ids=["float", "quantized"])
def test_compiled_as_it_is_written(runs, teacher, settings, monkeypatch, capsys):
    """By a backend that only records the operations: it has dynamo take the network apart, and no compiler is needed."""
    compiled = []

    def compile_(net):
        compiled.append(net)
        net._compiled_call_impl = torch.compile(net._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    options = {"init": teacher} if settings else {}
    name = "float" if not settings else "quantized"
    plain = runs(f"{name} plain", *settings, "epochs=1", **options)
    made = runs(f"{name} compiled", *settings, "epochs=1", "compile=true", **options)
    assert "cannot be compiled" not in capsys.readouterr().err
    assert len(compiled) == 1 and compiled[0]._compiled_call_impl is None
    assert losses(made) == pytest.approx(losses(plain), rel=1e-4)


def test_what_cannot_be_compiled_runs_as_it_is(runs, teacher, monkeypatch, capsys):
    def compile_(net):
        net._compiled_call_impl = broken

    def broken(*_):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    made = runs("not compiled", "compile=true")
    said = capsys.readouterr().err
    assert "compile: the network cannot be compiled here (RuntimeError: no compiler here); it runs as it is\n" in said
    assert weights(made) == weights(teacher)


def test_float16_resumes(runs):
    """The scale of losses is part of the checkpoint."""
    settings = ("precision=fp16", "checkpoint_minutes=0")
    whole = runs("half", *settings)
    scale = load_checkpoint(whole / "checkpoints" / "last.pt")["scaler"]["scale"]
    assert 0 < scale <= 65536 and all(loss == loss for loss in losses(whole))
    runs.stopped(5, "half stopped", *settings)
    assert weights(runs("half stopped", *settings)) == weights(whole)


def test_augmentation_on_the_device(runs, surroundings):
    """The same run up to rounding, which larger steps would make much of; killed and resumed, the same bytes."""
    common = ("augment.prob=0.9", "augment.both=true", "epochs=2", "schedule.lr=0.0001", "schedule.final_lr=0.00001")
    read = runs("read", *common, "augment.on_device=false", **surroundings)
    device = (*common, "augment.on_device=true", "checkpoint_minutes=0")
    left = runs("left", *device, **surroundings)
    assert losses(left) == pytest.approx(losses(read), rel=1e-4)
    runs.stopped(5, "left stopped", *device, **surroundings)
    assert weights(runs("left stopped", *device, "data.num_workers=2", **surroundings)) == weights(left)


def test_largest_batches_are_those_of_the_loader(runs):
    """Of stored features, and with a teacher's targets."""
    from svq.config import from_dict
    from svq.data.dataset import TrainSet
    from svq.train.config import TrainConfig

    train_set = TrainSet(runs.data, crop_seconds=0.4)
    train_set.targets = type("Targets", (), {"item": staticmethod(lambda *_: torch.ones(5).numpy())})
    inputs, labels, targets = trial.largest_batch(from_dict({}, TrainConfig), train_set, 3)
    assert inputs.shape == (3, 6640) and labels.tolist() == [0, 0, 0] and targets.shape == (3, 5)
