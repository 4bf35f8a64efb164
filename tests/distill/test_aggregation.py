"""The learned dictionary of LDE aggregation: trained, resumed, used for a level, refused where it does not fit."""

import csv
import os
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from svq.bin import train_aggregation
from svq.distill.aggregation import Aggregation, AggregationConfig, load_aggregation
from svq.distill.cache import LevelInfo, teacher_digest
from svq.distill.levels import LevelOutputs, find_level
from svq.errors import UserError
from svq.network import load_tensors
from svq.train.loop import Trainer
from tests.distill.conftest import MELS, cache, make_teacher
from tests.helpers import run_worker

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"channels": 6, "components": 4, "dim": 9, "data": {"crop_seconds": 0.4, "num_workers": 0}, "epochs": 3,
            "batch_size": 6, "average": 2, "precision": "fp32", "num_threads": 1, "checkpoint_minutes": 0,
            "schedule": {"lr": 0.01, "final_lr": 0.01, "warmup_epochs": 0}, "optimizer": {"name": "adamw"}}


class Stop(Exception):
    pass


def learn(place, out, *overrides, **given):
    config = place.folder / "aggregation.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, **given}))
    words = [word for pair in overrides for word in ("--set", pair)]
    run_worker(train_aggregation.main, "--config", config, "--model", place.teacher, "--data", place.data, "--out", out,
               *words)
    return out


@pytest.fixture(scope="module")
def learned(place):
    return learn(place, place.folder / "aggregation")


def test_it_learns_the_speakers_and_keeps_only_the_dictionary(place, learned):
    assert sorted(os.listdir(learned)) == ["aggregation.safetensors", "aggregation.yaml", "checkpoints", "curves.csv",
                                           "provenance.yaml"]
    shapes = {name: tuple(tensor.shape) for name, tensor in load_tensors(learned / "aggregation.safetensors").items()}
    assert shapes == {name: tuple(p.shape) for name, p in Aggregation(68, 6, 4, 9).state_dict().items()}  # 4 x 12 + 20
    losses = [float(row["loss"]) for row in csv.DictReader(open(learned / "curves.csv"))]
    assert losses[-1] < losses[0]


def test_same_bytes_again_and_resumed(place, learned, tmp_path, monkeypatch):
    original = Trainer._save_if_due

    def save_or_stop(trainer):
        original(trainer)
        if trainer.step == 5:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Trainer, "_save_if_due", save_or_stop)
        learn(place, tmp_path / "stopped")
    learn(place, tmp_path / "stopped")
    whole = (learned / "aggregation.safetensors").read_bytes()
    assert (tmp_path / "stopped" / "aggregation.safetensors").read_bytes() == whole
    assert (learn(place, tmp_path / "again") / "aggregation.safetensors").read_bytes() == whole
    assert (learn(place, tmp_path / "other", "seed=2") / "aggregation.safetensors").read_bytes() != whole


def test_the_level_that_it_makes(place, learned, tmp_path):
    cache(place.teacher, place.data, tmp_path, "lde_aggr", aggregation=learned)
    info = LevelInfo.read(tmp_path / "lde_aggr.json")
    level = find_level("lde_aggr", place.net)
    aggregation = load_aggregation(learned, level, teacher_digest(place.teacher))
    outputs = LevelOutputs(place.net, [level], MELS, {"lde_aggr": aggregation})
    import kaldiio

    for key, value in kaldiio.load_scp(str(tmp_path / "lde_aggr.scp")).items():
        expected = outputs(place.feats[key][None])["lde_aggr"][0]
        torch.testing.assert_close(torch.from_numpy(value.copy()), expected, atol=1e-5, rtol=1e-5)
    assert info.dim == 9 and info.aggregation and info.pool == "lde"


@pytest.mark.parametrize("what, words", [
    ("teacher", "trained for another teacher"),
    ("layers", "aggregates frame1, .*; level 'frame2.frame3:lde' is of frame2"),
    ("gone", "aggregation.safetensors: no such file; level 'lde_aggr' needs it: make it with steps/train_aggregation")])
def test_a_dictionary_that_does_not_fit(place, learned, tmp_path, what, words):
    teacher = place.teacher
    if what == "teacher":
        make_teacher(tmp_path / "teacher", seed=4)
        teacher = tmp_path / "teacher"
    level = "frame2+frame3:lde" if what == "layers" else "lde_aggr"
    with pytest.raises(UserError, match=words):
        cache(teacher, place.data, tmp_path / "out", level, aggregation=tmp_path if what == "gone" else learned)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given, words", [
    ({"level": "sp_aggr"}, "level 'sp_aggr' needs no dictionary"), ({"components": 0}, "components is 0"),
    ({"model": {"arch": "ResNet18"}}, "model has no meaning"), ({"distill": {}}, "distill has no meaning"),
    ({"level": "frame9:lde"}, "no layer 'frame9'"), ({"batch_size": 25}, "do not fill a batch")])
def test_settings_that_do_not_go_together(place, tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        learn(place, tmp_path / "out", **given)
    assert not (tmp_path / "out" / "aggregation.safetensors").exists()


def test_frames_of_thousands_of_channels_do_not_make_a_huge_map():
    """All layers of a full x-vector in 64 components: the affine map in front keeps it below the teacher's size."""
    config = AggregationConfig("lde_aggr", (), "", inputs=4 * 512 + 1500, channels=128, components=64, dim=512)
    assert sum(p.numel() for p in config.build().parameters()) == 3548 * 128 + 128 + 64 * 129 + 8192 * 512 + 512


def test_the_step_scripts(place, tmp_path):
    """Two jobs through the dispatcher; the same again changes nothing; a level that is not there fails by name."""
    command = ["steps/teacher_embeddings.sh", "--nj", "2", "--levels", "utterance narrowBN", place.data, place.teacher,
               tmp_path]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "utterance: a vector of 10 for each of 24 utterances" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {".done.levels", "log", "parts"} | {
        f"{level}.{kind}" for level in ("utterance", "narrowBN") for kind in ("json", "scp", "mean.vec")}
    bad = subprocess.run(["steps/train_aggregation.sh", "x"], cwd=ROOT, capture_output=True, text=True)
    assert bad.returncode == 2 and "needs <config.yaml>" in bad.stderr
