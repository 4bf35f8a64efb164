"""Joint finetuning of a nested network: killed and resumed, and its members with the rest of the workers."""

import pytest
import torch
import yaml

from svq.bin import at_precision, quantize
from svq.errors import UserError
from svq.models import load_model
from svq.network import load_tensors
from svq.quant.nested import precisions_of
from tests.helpers import run_worker

QAT = ("quant.method=nested", "quant.bits=4", "quant.precisions=[2, 4]", "epochs=1", "schedule.lr=0.001",
       "schedule.final_lr=0.0001", "average=1", "checkpoint_minutes=0")


@pytest.fixture(scope="module")
def folder(runs, teacher):
    return runs("nested", *QAT, init=teacher)


def test_resumed_run_equals_an_undisturbed_one(runs, teacher, folder, capsys):
    runs.stopped(2, "nested_killed", *QAT, init=teacher)
    again = runs("nested_killed", *QAT, init=teacher)
    assert "resuming from" in capsys.readouterr().out
    for name in ("model.safetensors", "head.safetensors", "config.yaml"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_every_precision_learns(runs, teacher, folder):
    words = [word for pair in QAT[:3] for word in ("--set", pair)]
    run_worker(quantize.main, "--config", runs.config, "--init", teacher, "--out", runs.folder / "nested_ptq", *words)
    before, after = (load_tensors(path / "model.safetensors") for path in (runs.folder / "nested_ptq", folder))
    assert before.keys() == after.keys()
    for part in ("bn1.2.weight", "bn1.2.running_var", "bn1.4.bias", "conv1.parametrizations.weight.0.lower.2",
                 "conv1.parametrizations.weight.0.top.alpha", "conv1.parametrizations.weight.original"):
        assert not torch.equal(before[part], after[part]), part
    assert not torch.equal(after["bn1.2.running_var"], after["bn1.4.running_var"])
    net, config = load_model(folder)
    assert precisions_of(net) == config.quant.precisions == (2, 4)


def test_a_member_is_finetuned_on_as_any_model(runs, folder):
    out = runs.folder / "nested_2bit"
    run_worker(at_precision.main, "--model", folder, "--precision", 2, "--out", out)
    assert (out / "speakers.txt").read_bytes() == (folder / "speakers.txt").read_bytes()
    on = runs("nested_2bit_on", *QAT[3:], init=out)
    assert yaml.safe_load((on / "config.yaml").read_text())["quant"]["method"] == "kmqat"


def test_without_training_nothing_is_done_for_single_precisions(runs, teacher):
    words = [word for pair in (*QAT[:3], "ptq.fold_batch_norm=true") for word in ("--set", pair)]
    with pytest.raises(UserError, match="ptq is for one precision"):
        run_worker(quantize.main, "--config", runs.config, "--init", teacher, "--out", runs.folder / "refused", *words)
