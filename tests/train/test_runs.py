"""Whole training runs: stopped and resumed, alone and together, and what stops them."""

import csv
import os
import shutil
import signal
import time

import numpy as np
import pytest
import soundfile
import torch

from svq.errors import UserError
from svq.models import load_model
from svq.network import load_tensors
from svq.quant import quantized_layers
from svq.train.checkpoint import load_checkpoint
from svq.train.loop import NonFiniteLoss, Trainer
from tests.builders import data_dir

STEPS = 12  # 24 utterances in batches of 6, 3 epochs


def weights(folder, name="model.safetensors"):
    return (folder / name).read_bytes()


def test_a_run_leaves_all_that_belongs_to_a_model(teacher):
    assert sorted(os.listdir(teacher)) == ["checkpoints", "config.yaml", "curves.csv", "head.safetensors",
                                           "model.safetensors", "provenance.yaml", "speakers.txt"]
    assert os.listdir(teacher / "checkpoints") == ["last.pt"]
    assert (teacher / "speakers.txt").read_text().split() == ["spk00", "spk01", "spk02"]
    rows = list(csv.DictReader(open(teacher / "curves.csv")))
    assert [int(row["step"]) for row in rows] == [4, 8, 12]
    assert [float(row["margin"]) for row in rows] == [0, pytest.approx(0.15), 0.2]
    net, config = load_model(teacher)
    assert config.embed_dim == 8 and net(torch.randn(2, 30, 24)).shape == (2, 8)


def test_same_command_same_bytes_with_any_number_of_workers(runs, teacher):
    for name, workers in (("again", 0), ("two_workers", 2)):
        again = runs(name, f"data.num_workers={workers}", "checkpoint_minutes=0")
        for file in ("model.safetensors", "head.safetensors", "config.yaml", "speakers.txt"):
            assert weights(again, file) == weights(teacher, file)


def test_another_seed_gives_other_weights(runs, teacher):
    assert weights(runs("seed2", "seed=2", "epochs=1")) != weights(teacher)


def test_a_killed_run_resumes_to_the_same_bytes(runs, teacher):
    process = runs.process("killed", "checkpoint_minutes=0")
    checkpoint = runs.folder / "killed" / "checkpoints" / "last.pt"
    while not checkpoint.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close(), process.stderr.close()
    assert 0 < load_checkpoint(checkpoint)["step"] < STEPS
    killed = runs("killed", "checkpoint_minutes=0")
    assert weights(killed) == weights(teacher)
    assert weights(killed, "head.safetensors") == weights(teacher, "head.safetensors")
    assert os.listdir(killed / "checkpoints") == ["last.pt"]  # nor anything half-written beside it


# 3: inside an epoch; 4: at its end; 9: after the average over the last two epochs has begun.
@pytest.mark.parametrize("step", [3, 4, 9])
def test_resuming_at_any_step_gives_the_same_bytes(runs, teacher, step):
    runs.stopped(step, f"stop{step}", "checkpoint_minutes=0")
    assert load_checkpoint(runs.folder / f"stop{step}" / "checkpoints" / "last.pt")["step"] == step
    resumed = runs(f"stop{step}", "checkpoint_minutes=0")
    assert weights(resumed) == weights(teacher)
    assert weights(resumed, "curves.csv") == weights(teacher, "curves.csv")


def test_adamw_with_augmentation_off_resumes_too(runs):
    settings = ("optimizer.name=adamw", "schedule.lr=0.01", "schedule.decay=cosine", "checkpoint_minutes=0", "epochs=2")
    whole = runs("adamw", *settings)
    runs.stopped(5, "adamw_stop", *settings)
    assert weights(runs("adamw_stop", *settings)) == weights(whole)


def test_a_finished_run_repeated_changes_nothing(runs, teacher, capsys):
    before = weights(teacher)
    os.unlink(teacher / "model.safetensors")
    runs("teacher", "checkpoint_minutes=0")
    assert weights(teacher) == before and f"at step {STEPS} of {STEPS}" in capsys.readouterr().out


def test_a_checkpoint_of_other_recordings_is_not_resumed(runs, teacher, monkeypatch, capsys):
    """utils/once.py says whether what lists point to is the same."""
    monkeypatch.setenv("SVQ_INPUTS", "a")
    runs.stopped(5, "recordings", "checkpoint_minutes=0")
    runs.stopped(6, "recordings", "checkpoint_minutes=0")
    assert "at step 5 of 12" in capsys.readouterr().out
    monkeypatch.setenv("SVQ_INPUTS", "b")
    runs("recordings", "checkpoint_minutes=0")
    assert "starting anew" in capsys.readouterr().out and weights(runs.folder / "recordings") == weights(teacher)


def test_a_checkpoint_of_another_config_is_not_resumed(runs, capsys):
    shutil.copytree(runs("config_a", "epochs=1"), runs.folder / "config_b")
    capsys.readouterr()
    other = runs("config_b", "epochs=1", "schedule.lr=0.04")
    assert "another config or other data: starting anew" in capsys.readouterr().out
    assert weights(other) == weights(runs("config_c", "epochs=1", "schedule.lr=0.04"))


def test_final_weights_are_the_mean_of_the_last_epochs(runs, monkeypatch):
    ends = []
    original = Trainer._save_if_due

    def record(self):
        original(self)
        if self.step % self.steps_per_epoch == 0:
            ends.append({name: t.clone() for name, t in self.objective.net.state_dict().items()})

    monkeypatch.setattr(Trainer, "_save_if_due", record)
    final = load_tensors(runs("average", "average=2") / "model.safetensors")
    assert len(ends) == 3
    for name, tensor in final.items():
        expected = (ends[1][name].double() + ends[2][name].double()) / 2 if tensor.is_floating_point() else ends[2][name]
        torch.testing.assert_close(tensor, expected.to(tensor.dtype), rtol=1e-6, atol=1e-9)
    assert not torch.equal(final["conv1.weight"], ends[2]["conv1.weight"])


def batch_of(runs, epoch, batch):
    from svq.data.dataset import EpochBatches, TrainSet

    train_set = TrainSet(runs.data)
    return {train_set.utterance(i) for i in list(EpochBatches(len(train_set), 6, 1, epoch))[batch]}


def test_a_loss_that_is_no_number_stops_names_the_batch_and_keeps_the_checkpoint(runs, monkeypatch):
    kept = []
    original = Trainer._features

    def spoilt(self, inputs):
        feats = original(self, inputs)
        if self.step == 6:
            kept.append(load_checkpoint(self.checkpoint_path))
            feats[2, 5] = float("nan")
        return feats

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_features", spoilt)
        with pytest.raises(NonFiniteLoss) as error:
            runs("nan", "checkpoint_minutes=0")
    message = str(error.value)
    assert message.startswith("the loss is nan at step 7 (epoch 2, batch 3: ") and "and 1 more" in message
    named = set(message.split("batch 3: ")[1].split(" and 1 more")[0].split(", "))
    assert len(named) == 5 and named < batch_of(runs, 1, 2)
    path = runs.folder / "nan" / "checkpoints" / "last.pt"
    assert str(path) in message and load_checkpoint(path)["step"] == kept[0]["step"] == 6
    assert not (runs.folder / "nan" / "model.safetensors").exists()


def test_a_runaway_learning_rate_never_overwrites_the_good_checkpoint(runs):
    with pytest.raises(NonFiniteLoss, match="lower schedule.lr"):
        runs("runaway", "schedule.lr=1e30", "schedule.warmup_epochs=0", "checkpoint_minutes=0")
    path = runs.folder / "runaway" / "checkpoints" / "last.pt"
    if path.exists():
        state = load_checkpoint(path)["objective"]
        assert all(t.isfinite().all() for name, t in state.items() if not name.endswith(("running_mean", "running_var")))


def test_weights_that_left_the_numbers_are_not_saved(runs, monkeypatch):
    original = Trainer._train_step

    def spoilt(self, *arguments):
        original(self, *arguments)
        if self.step == 4:
            with torch.no_grad():
                self.objective.net.conv1.weight[0] = float("inf")

    monkeypatch.setattr(Trainer, "_train_step", spoilt)
    with pytest.raises(NonFiniteLoss, match="largest weight of net.conv1.weight is inf at step 4 .epoch 1, batch 4"):
        runs("infinite", "checkpoint_minutes=0")
    assert load_checkpoint(runs.folder / "infinite" / "checkpoints" / "last.pt")["step"] == 3


def test_two_processes_train_as_one(runs):
    """Weights, running statistics and head agree up to the order of sums: one step, for more amplify what it rounds."""
    settings = ("epochs=1", "batch_size=24", "schedule.warmup_epochs=0", "average=1")
    one = runs("one", *settings)
    processes = runs.processes(2, "two", *settings)
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    two = runs.folder / "two"
    for file in ("model.safetensors", "head.safetensors"):
        alone, together = load_tensors(one / file), load_tensors(two / file)
        assert alone.keys() == together.keys()
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=2e-5, msg=lambda m: f"{name}: {m}")
    rows = [list(csv.DictReader(open(folder / "curves.csv"))) for folder in (one, two)]
    for a, b in zip(*rows, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-4) and a["accuracy"] == b["accuracy"]


QAT = ("quant.bits=4", "epochs=1", "schedule.lr=0.001", "schedule.final_lr=0.0001", "average=1")


def test_quantization_aware_finetuning_starts_from_the_teacher_and_its_head(runs, teacher):
    student = runs("q4", *QAT, init=teacher)
    net, config = load_model(student)
    assert config.quant.bits == 4 and config.embed_dim == 8
    for layer in quantized_layers(net):
        before = load_tensors(teacher / "model.safetensors")[f"{layer.name}.weight"].numpy()
        assert layer.levels.shape == (len(before), 16)
        assert np.abs(layer.weight - before).max() < 0.3 * np.abs(before).max()
        assert not np.array_equal(layer.weight, before)
    alphas = {name: t for name, t in load_tensors(student / "model.safetensors").items() if name.endswith("alpha")}
    assert len(alphas) == 21
    heads = [load_tensors(folder / "head.safetensors")["weight"] for folder in (teacher, student)]
    assert torch.cosine_similarity(*heads).min() > 0.99 and not torch.equal(*heads)


def test_finetuning_resumes_to_the_same_bytes(runs, teacher):
    settings = (*QAT, "checkpoint_minutes=0")
    whole = runs("q_whole", *settings, init=teacher)
    runs.stopped(2, "q_stop", *settings, init=teacher)
    assert weights(runs("q_stop", *settings, init=teacher)) == weights(whole)


def test_finetuning_on_other_speakers_is_refused(runs, teacher, tmp_path):
    data = data_dir(tmp_path, speakers=4, utts=3, seconds=0.6)
    with pytest.raises(UserError, match="speakers.txt: the classifier there was trained on other speakers"):
        runs("q_other", *QAT, init=teacher, data=data)
    assert not (runs.folder / "q_other" / "model.safetensors").exists()


def test_init_without_its_speakers_is_refused(runs, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "m")
    os.unlink(tmp_path / "m" / "speakers.txt")
    with pytest.raises(UserError, match="speakers.txt: no such file"):
        runs("q_none", *QAT, init=tmp_path / "m")


def test_distillation_to_a_smaller_embedding(runs, teacher):
    """After some epochs on the embedding loss alone, the student's space follows the teacher's."""
    student = runs("student", "model.embed_dim=6", "distill.label_weight=0", "epochs=6", "average=1", teacher=teacher)
    net, config = load_model(student)
    assert config.embed_dim == 6 and net(torch.randn(1, 30, 24)).shape == (1, 6)
    losses = [float(row["loss"]) for row in csv.DictReader(open(student / "curves.csv"))]
    assert losses[-1] < 0.5 * losses[0]
    assert not any("projection" in name for name in load_tensors(student / "model.safetensors"))


def test_finetuning_under_quantization_with_the_float_parent_as_teacher(runs, teacher):
    """All three losses at once; and the logits alone hold the student to its parent closer than labels do."""
    settings = (*QAT, "distill.embedding_weight=1", "distill.logit_weight=2", "checkpoint_minutes=0")
    whole = runs("kd", *settings, init=teacher, teacher=teacher)
    runs.stopped(2, "kd_stop", *settings, init=teacher, teacher=teacher)
    assert weights(runs("kd_stop", *settings, init=teacher, teacher=teacher)) == weights(whole)
    assert load_model(whole)[1].quant.bits == 4
    assert weights(whole) != weights(runs("kd_cold", *settings, "distill.temperature=1", init=teacher, teacher=teacher))


def test_the_loss_from_logits_is_small_for_a_student_that_is_its_teacher(runs, teacher):
    """Not zero: in training, batch norm has the batch's statistics."""
    settings = ("epochs=1", "average=1", "schedule.lr=1e-12", "schedule.final_lr=1e-12", "distill.embedding_weight=0",
                "distill.label_weight=0", "distill.logit_weight=1", "spec_augment=null")
    losses = {}
    for name, options in {"same": {"init": teacher}, "another": {}}.items():
        folder = runs(f"logits_{name}", *settings, teacher=teacher, **options)
        (row,) = csv.DictReader(open(folder / "curves.csv"))
        losses[name] = float(row["loss"])
    assert 0 < 3 * losses["same"] < losses["another"], losses


def test_soft_labels_need_the_teachers_classifier(runs, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "t")
    (tmp_path / "t" / "speakers.txt").write_text("spk00\nspk02\nspk01\n")
    with pytest.raises(UserError, match="t/speakers.txt: the classifier there was trained on other speakers"):
        runs("refused", "distill.logit_weight=1", "epochs=1", teacher=tmp_path / "t")
    runs("embeddings_only", "distill.embedding_weight=1", "epochs=1", teacher=tmp_path / "t")
    os.unlink(tmp_path / "t" / "head.safetensors")
    shutil.copy(teacher / "speakers.txt", tmp_path / "t")
    with pytest.raises(UserError, match="t/head.safetensors: no such file"):
        runs("refused", "distill.logit_weight=1", "epochs=1", teacher=tmp_path / "t")
    with pytest.raises(UserError, match="distill.temperature is 0"):
        runs("refused", "distill.temperature=0", teacher=teacher)


@pytest.mark.parametrize("overrides, options, words", [
    (["distill.label_weight=1"], {}, "go together"), (["quant.bits=4"], {}, "name it with --init"),
    (["batch_size=25"], {}, "24 training utterances do not fill a batch of 25"),
    (["model.arch=ResNet9"], {}, "arch 'ResNet9' is unknown"), (["model.net.widht=9"], {}, "takes no option 'widht'")])
def test_settings_that_do_not_go_together(runs, overrides, options, words):
    with pytest.raises(UserError, match=words):
        runs("refused", *overrides, **options)
    assert not (runs.folder / "refused").exists()


def test_teacher_with_another_front_end_is_refused(runs, teacher):
    with pytest.raises(UserError, match="its front end .* is not the student's"):
        runs("refused", "distill.label_weight=1", "model.front_end.num_mels=40", teacher=teacher)


def test_a_wrong_key_is_one_line_and_status_1(runs):
    process = runs.process("wrong", "schedule.lrr=1")
    out, errors = process.communicate()
    assert process.returncode == 1 and out == ""
    assert errors == f"svq.bin.train: {runs.config}: unknown key 'schedule.lrr'; did you mean 'schedule.lr'?\n"
    assert not (runs.folder / "wrong").exists()


def test_training_from_features(runs, tmp_path):
    """The same crops' features from an archive: the same shapes, and a mismatch of dimensions is named."""
    data = data_dir(tmp_path, speakers=3, utts=4, seconds=0.6)
    from svq.data.features import write_ark

    pairs = [(f"spk{s:02d}-utt{u:02d}", np.random.default_rng(s).normal(size=(58, 24)).astype(np.float32))
             for s in range(3) for u in range(4)]
    write_ark(str(data / "feats.ark"), str(data / "feats.scp"), pairs, "none")
    model = runs("feats", "data.input=feats", "epochs=1", data=data)
    assert (model / "model.safetensors").exists()
    with pytest.raises(UserError, match="feats.scp: features of 24 dimensions, the config's .*num_mels is 30"):
        runs("feats30", "data.input=feats", "epochs=1", "model.front_end.num_mels=30", data=data)


def test_sampling_rate_of_the_front_end_reaches_the_data(runs, tmp_path):
    data = data_dir(tmp_path, speakers=3, utts=2, seconds=0.6)
    for path in (tmp_path / "data_wav").iterdir():
        samples, _ = soundfile.read(path)
        soundfile.write(path, samples[::2], 8000, subtype="PCM_16")
    model = runs("rate8k", "epochs=1", "model.front_end.rate=8000", data=data)
    assert load_model(model)[1].front_end.rate == 8000


def test_bf16_trains(runs):
    model = runs("bf16", "epochs=1", "precision=bf16")
    assert all(t.isfinite().all() for t in load_tensors(model / "model.safetensors").values())
