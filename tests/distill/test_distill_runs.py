"""Students of cached levels: what they learn, resumed to the same bytes, and what is refused."""

import csv
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from svq.backend.embeddings import read_vector
from svq.config import load_config
from svq.data.dataset import TrainSet
from svq.distill.cache import Targets
from svq.distill.levels import LevelOutputs, find_level
from svq.distill.config import DistillConfig, TargetsConfig
from svq.distill.objective import EmbeddingObjective
from svq.errors import UserError
from svq.models import load_model
from svq.network import load_tensors
from svq.train.config import TrainConfig
from svq.train.objective import AAMSoftmax, Objective
from tests.distill.conftest import MELS, cache, make_teacher


def targets_of(place, *levels, mean_normalize=False, train_set=None):
    train_set = train_set or TrainSet(place.data, crop_seconds=0.4)
    config = TargetsConfig(levels, mean_normalize)
    return train_set, Targets(place.levels, config, train_set.keys, place.teacher, place.net, place.config)


def losses(folder):
    return [float(row["loss"]) for row in csv.DictReader(open(folder / "curves.csv"))]


def weights(folder, name="model.safetensors"):
    return (folder / name).read_bytes()


# ---- targets

@pytest.mark.parametrize("mean_normalize", [False, True])
@pytest.mark.parametrize("levels", [("utterance",), ("wideBN",), ("utterance", "narrowBN", "wideBN", "sp_aggr")])
def test_cached_is_online_on_whole_utterances(place, levels, mean_normalize):
    """Each level less its mean, at length 1, side by side: from the cache, and from the teacher at once."""
    train_set, targets = targets_of(place, *levels, mean_normalize=mean_normalize)
    outputs = LevelOutputs(place.net, [find_level(name, place.net) for name in levels], MELS)
    for index in range(len(train_set)):
        values = outputs(place.feats[train_set.utterance(index)][None])
        parts = []
        for name in levels:
            value = values[name][0].double().numpy()
            if mean_normalize:
                value = value - read_vector(place.levels / f"{name}.mean.vec")
            parts.append(value / np.linalg.norm(value))
        np.testing.assert_allclose(targets.item(index, 3, 40), np.concatenate(parts), atol=1e-4)
    assert targets.dim == sum(map(len, parts)) and not targets.per_frame


@pytest.mark.parametrize("first, frames", [(0, 40), (5, 12), (0, 3), (20, 40)])
def test_frames_lie_where_the_teacher_saw_them(place, first, frames):
    """frame5 sees 7 frames on either side: the first and last 7 of an utterance, and what is beyond it, are zeros."""
    train_set, targets = targets_of(place, "wideBN:none")
    outputs = LevelOutputs(place.net, [find_level("wideBN:none", place.net)], MELS)
    filled = 0
    for index in range(len(train_set)):
        feats = place.feats[train_set.utterance(index)]
        expected = np.zeros((first + frames + len(feats), 20))
        expected[7:len(feats) - 7] = F.normalize(outputs(feats[None])["wideBN:none"][0], dim=1).numpy()
        found = targets.item(index, first, frames)
        np.testing.assert_allclose(found, expected[first:first + frames], atol=2e-3)  # two bytes a value
        filled += found.any(axis=1).sum()
    assert filled or first + frames <= 7


def test_a_crop_has_the_frames_of_its_place(place):
    """Frame-level targets of a crop are those of its place in the utterance, whatever the crop."""
    train_set, targets = targets_of(place, "wideBN:none")
    train_set.targets = targets
    for index in (0, 7, 15):
        for epoch in range(5):
            crop, label, target = train_set.item(epoch, index)
            whole = targets.item(index, 0, 400)
            used = target[target.any(axis=1)]
            assert target.shape == (40, 20) and label == index // 8
            at = [np.abs(whole - row).sum(1).argmin() for row in used]
            assert at == list(range(at[0], at[0] + len(at)))  # one after the other, without repeats


def test_frames_of_another_hop_are_refused(place, monkeypatch):
    """A crop counts frames of 10 ms; whole utterances may be of any."""
    from svq.data.frontend import FrontEndConfig
    from svq.distill.cache import LevelInfo

    slow, read = FrontEndConfig(num_mels=MELS, fbank="redimnet", hop_ms=15), LevelInfo.read
    monkeypatch.setattr(LevelInfo, "read", lambda path: dataclasses.replace(read(path), front_end=slow))
    keys, teacher = TrainSet(place.data, crop_seconds=0.4).keys, dataclasses.replace(place.config, front_end=slow)
    with pytest.raises(UserError, match="has a frame every 15 ms; frame by frame .* choose levels of whole utterances"):
        Targets(place.levels, TargetsConfig(("wideBN:none",), False), keys, place.teacher, place.net, teacher)
    Targets(place.levels, TargetsConfig(("utterance",), False), keys, place.teacher, place.net, teacher)


@pytest.mark.parametrize("stride, first, rows", [(1, 0, 30), (1, 7, 16), (2, 0, 15), (4, 1, 7)])
def test_frames_of_any_clock(tmp_path, stride, first, rows):
    from svq.data.features import write_ark
    from svq.data.frontend import FrontEndConfig
    from svq.distill.cache import CachedLevel, LevelInfo
    from svq.distill.levels import Clock

    values = np.eye(rows, dtype=np.float32)
    write_ark(str(tmp_path / "x.ark"), str(tmp_path / "x.scp"), [("u", values)])
    clock = Clock(stride, first, 2 * first)
    info = LevelInfo("x", ("x",), "none", rows, True, clock, 1, "", FrontEndConfig(), "", "", "", "m")
    level = CachedLevel(tmp_path, "x", info, np.array([b"u"]))
    found = level.frames(0, 2, 40)
    for frame in range(40):
        row = (2 + frame - first) // stride
        expected = values[row] if 0 <= row < rows else np.zeros(rows)
        np.testing.assert_array_equal(found[frame], expected)


def test_loss_of_frames_leaves_out_those_without_target():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    teacher[0, 3:] = 0
    expected = 1 - torch.cat([F.cosine_similarity(student[0, :3], teacher[0, :3]),
                              F.cosine_similarity(student[1], teacher[1])]).mean()
    torch.testing.assert_close(EmbeddingObjective(4, 4)(student, teacher), expected)
    assert EmbeddingObjective(4, 4)(student, torch.zeros_like(teacher)) == 0


# ---- objectives

def test_a_head_that_looks_on_changes_nothing_for_the_network():
    torch.manual_seed(0)
    net, labels = torch.nn.Linear(4, 3), torch.tensor([0, 1, 1])
    feats, target = torch.randn(3, 4), torch.randn(3, 3)
    config = DistillConfig(embedding_weight=2.0, label_weight=0.0)
    results = {}
    for name, head in {"with": AAMSoftmax(3, 2), "without": None}.items():
        objective = Objective(net, head, config, EmbeddingObjective(3, 3))
        net.zero_grad()
        loss, right = objective(feats, labels, 0.2, target)
        loss.backward()
        norm = objective.clip_gradients(0.01)
        results[name] = loss.detach(), norm, net.weight.grad.clone()
        if head is not None:
            assert head.weight.grad.abs().max() > 0 and head.weight.grad.norm() <= 0.0101
    torch.testing.assert_close(results["with"], results["without"])
    torch.testing.assert_close(results["with"][0], 2 * (1 - F.cosine_similarity(net(feats), target).mean()))


@pytest.mark.parametrize("levels", ["[utterance]", "[utterance, wideBN, sp_aggr]", "['wideBN:none']"])
def test_the_student_comes_nearer_and_its_projection_is_left_behind(place, student, levels):
    folder = student(f"near{len(levels)}", f"distill.targets.levels={levels}", "epochs=12",
                     "distill.targets.mean_normalize=true")
    found = losses(folder)
    assert found[-1] < 0.6 * found[0], found
    tensors = load_tensors(folder / "model.safetensors")
    net, config = load_model(folder)
    assert not any("projection" in name for name in tensors) and tensors.keys() == net.state_dict().keys()
    assert net(torch.randn(2, 30, MELS)).shape == (2, 8)
    assert load_tensors(folder / "head.safetensors")["weight"].shape == (3, 8)


FRAMES = ("distill.targets.levels=['wideBN:none', 'narrowBN:none']",)
LOGITS = ("distill.logit_weight=1", "distill.label_weight=0.5", "data.num_workers=2")


@pytest.mark.parametrize("name, settings", [("vectors", ()), ("frames", FRAMES), ("logits", LOGITS)])
def test_resumed_at_any_step_it_gives_the_same_bytes(place, student, name, settings):
    settings = (*settings, "checkpoint_minutes=0", "epochs=2")
    whole = student(f"{name}_whole", *settings)
    student(f"{name}_stop", *settings, stop_at=5)
    resumed = student(f"{name}_stop", *settings)
    for file in ("model.safetensors", "head.safetensors"):
        assert weights(resumed, file) == weights(whole, file)


def test_workers_do_not_matter(place, student):
    assert weights(student("two", "epochs=1", "data.num_workers=2")) == weights(student("none", "epochs=1"))


def test_labels_do_not_reach_a_student_without_label_loss(place, student, tmp_path):
    plain = student("plain", "epochs=1")
    shutil.copytree(place.data, tmp_path / "data")
    lines = [line.split() for line in (place.data / "utt2spk").read_text().splitlines()]
    mixed = "".join(f"{utt} spk{i % 3:02d}\n" for i, (utt, _) in enumerate(lines))
    (tmp_path / "data" / "utt2spk").write_text(mixed)
    other = student("mixed", "epochs=1", data=tmp_path / "data")
    assert weights(other) == weights(plain) and weights(other, "head.safetensors") != weights(plain, "head.safetensors")
    labelled = [student(f"labelled{i}", "epochs=1", "distill.label_weight=1", data=data)
                for i, data in enumerate((place.data, tmp_path / "data"))]
    assert weights(labelled[0]) != weights(labelled[1])


def test_without_speakers_there_is_no_head(place, student, tmp_path):
    """Every utterance a speaker of its own, as Kaldi's data directories have it where none is known."""
    shutil.copytree(place.data, tmp_path / "data")
    lines = (place.data / "utt2spk").read_text().split()[::2]
    (tmp_path / "data" / "utt2spk").write_text("".join(f"{utt} {utt}\n" for utt in lines))
    folder = student("nobody", "epochs=1", data=tmp_path / "data")
    assert not (folder / "head.safetensors").exists() and not (folder / "speakers.txt").exists()
    assert load_model(folder)[1].embed_dim == 8


def test_other_targets_are_another_run(place, student, capsys):
    """Neither another normalization nor a cache made anew from other values goes on with the old checkpoint."""
    settings = ("epochs=1", "checkpoint_minutes=0")
    first = weights(student("same", *settings))
    student("same", *settings)
    assert "at step 4 of 4" in capsys.readouterr().out
    other = student("same", *settings, "distill.targets.mean_normalize=true")
    assert "starting anew" in capsys.readouterr().out and weights(other) != first


def test_any_other_network_may_be_a_student(place, student):
    folder = student("resnet", "model.arch=ResNet18", "model.net={width: 4}", "epochs=1",
                     "distill.targets.levels=[sp_aggr]")
    assert load_model(folder)[1].arch == "ResNet18"


def test_distil_then_quantize(place, student):
    float_student = student("float", "epochs=1")
    folder = student("low", "quant.bits=2", "epochs=1", "schedule.lr=0.001", "schedule.final_lr=0.001",
                     init=float_student)
    assert load_model(folder)[1].quant.bits == 2


def test_config_of_the_targets(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("distill: {targets: {levels: [utterance, narrowBN], mean_normalize: true}}")
    assert load_config(path, TrainConfig).distill.targets == TargetsConfig(("utterance", "narrowBN"), True)
    path.write_text("distill: {embedding_weight: 1}")
    assert load_config(path, TrainConfig).distill.targets is None
    for bad, words in (("[]", "at least one level"), ("[utterance, utterance]", "none twice"),
                       ("utterance", "must be a list")):
        path.write_text(f"distill: {{targets: {{levels: {bad}}}}}")
        with pytest.raises(UserError, match=words):
            load_config(path, TrainConfig)


# ---- bad input

def damaged(place, tmp_path, what):
    """A copy of the cache with something wrong, as options of `student`, and what the error must say."""
    levels = tmp_path / "levels"
    shutil.copytree(place.levels, levels)
    info = json.loads((levels / "utterance.json").read_text())
    if what == "level lacks":
        return {}, ["distill.targets.levels=[sp_aggr, frame1]"], "frame1.json: no such file; steps/teacher_embedd"
    if what == "utterance lacks":
        lines = (levels / "utterance.scp").read_text().splitlines(True)
        (levels / "utterance.scp").write_text("".join(lines[:3] + lines[5:]))
        return {}, [], "utterance.scp: no teacher embedding of spk00-utt03, spk00-utt04 .2 of 24.; steps/"
    if what == "another teacher":
        make_teacher(tmp_path / "teacher", seed=9)
        return {"teacher": tmp_path / "teacher"}, [], "utterance.json: made from another teacher than"
    if what == "another level":
        os.replace(levels / "narrowBN.json", levels / "utterance.json")
        return {}, [], r"holds level 'narrowBN' \(frame4, mean\), the config wants 'utterance' \(embedding, none\)"
    if what == "damaged json":
        (levels / "utterance.json").write_text("{")
        return {}, [], "utterance.json: cannot be read; make the level anew"
    if what == "another format":
        (levels / "utterance.json").write_text(json.dumps({**info, "format": 0}))
        return {}, [], "utterance.json: not of format 1"
    if what == "wrong key":
        (levels / "utterance.json").write_text(json.dumps({**info, "dims": 0}))
        return {}, [], "unknown key 'dims'"
    if what == "cut short":
        (ark,) = (levels / "parts").glob("utterance.*.ark")
        ark.write_bytes(ark.read_bytes()[:-100])
        lines = [line.replace(str(place.levels), str(levels)) for line in open(levels / "utterance.scp")]
        (levels / "utterance.scp").write_text("".join(lines))
        return {}, [], "the archive ends in the middle"
    if what == "mean lacks":
        os.unlink(levels / "utterance.mean.vec")
        return {}, ["distill.targets.mean_normalize=true"], "utterance.mean.vec"
    if what == "frames and vectors":
        return {}, ["distill.targets.levels=['wideBN:none', utterance]"], "are of frames and of whole utterances"
    if what == "no frames":
        return ({}, ["distill.targets.levels=['wideBN:none']", "model.net.pooling=stats"],
                "FCStudent gives no output for each frame")
    if what == "no cache":
        return {"targets": None}, [], "`distill.targets` in the config and --targets go together"
    if what == "no targets":
        return {}, ["distill.targets=null"], "`distill.targets` in the config and --targets go together"
    if what == "unknown level":
        return {}, ["distill.targets.levels=[frame17]"], "no layer 'frame17'"
    raise AssertionError(what)


@pytest.mark.parametrize("what", [
    "level lacks", "utterance lacks", "another teacher", "another level", "damaged json", "another format", "wrong key",
    "cut short", "mean lacks", "frames and vectors", "no frames", "no cache", "no targets", "unknown level"])
def test_what_does_not_fit_is_one_line_and_nothing_is_written(place, student, tmp_path, what):
    options, overrides, words = damaged(place, tmp_path, what)
    options.setdefault("targets", tmp_path / "levels")
    with pytest.raises(UserError, match=words) as error:
        student(f"refused {what}", *overrides, **options)
    assert "\n" not in str(error.value)
    assert not (place.folder / f"refused {what}" / "model.safetensors").exists()
    assert what == "cut short" or not (place.folder / f"refused {what}").exists()


def test_a_teacher_with_another_front_end(place, student, tmp_path):
    """A vector of an utterance is one whatever it was computed from; frames, and what runs beside the student, must agree."""
    make_teacher(tmp_path / "teacher", num_mels=20)
    cache(tmp_path / "teacher", place.data, tmp_path / "levels", "utterance", "wideBN:none")
    where = {"teacher": tmp_path / "teacher", "targets": tmp_path / "levels"}
    with pytest.raises(UserError, match="its front end .* not the student's; where that is meant, set .*other_front"):
        student("refused", "distill.targets.levels=['wideBN:none']", **where)
    with pytest.raises(UserError, match="its front end .* is not the student's$"):
        student("refused", "distill.logit_weight=1", "distill.targets.other_front_end=true", **where)
    assert not (place.folder / "refused").exists()
    student("vectors", "epochs=1", **where)
    frames = ("epochs=1", "distill.targets.other_front_end=true", "distill.targets.levels=['wideBN:none']")
    student("meant_frames", *frames, **where)


def test_a_wrong_cache_is_one_line_and_status_1(place, tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "svq.bin.train", "--config", place.folder / "student.yaml", "--data", place.data,
               "--teacher", place.teacher, "--targets", tmp_path / "gone", "--out", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "gone/utterance.json: no such file; steps/teacher_embeddings.sh makes it" in done.stderr
    assert not (tmp_path / "out").exists()
