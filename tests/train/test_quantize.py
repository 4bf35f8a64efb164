"""Quantizing with and without finetuning, bits per layer, and what a config may say beside --init."""

import argparse
import dataclasses
import os
import shutil

import pytest
import torch
import yaml

from svq.bin import quantize
from svq.bits.table import LayerBits, write_bits
from svq.config import load_config, read_tree
from svq.errors import UserError
from svq.models import load_model
from svq.nets import ARCHITECTURES
from svq.network import ModelConfig, load_tensors
from svq.quant import QuantConfig, quantize_
from svq.quant.api import float_weight, quantizable, quantizers
from svq.train.folders import check_model_keys
from tests.helpers import run_worker

QAT = ("epochs=1", "schedule.lr=0.001", "schedule.final_lr=0.0001", "average=1")
WIDTHS = (4, 1, 2, 32)


def quantized(runs, name, *overrides, init, **options):
    """Runs svq.bin.quantize and returns the folder it wrote."""
    words = ["--config", runs.config, "--out", runs.folder / name, "--init", init]
    for pair in overrides:
        words += ["--set", pair]
    for option, value in options.items():
        words += [f"--{option}", value]
    run_worker(quantize.main, *words)
    return runs.folder / name


def content(folder, name):
    return (folder / name).read_bytes()


@pytest.fixture
def bits(runs, teacher, tmp_path):
    """A bits.tsv in which widths take turns, its rows not in the order of the network; and the bits by layer."""
    rows = [LayerBits(name, tuple(module.weight.shape), None, WIDTHS[i % len(WIDTHS)])
            for i, (name, module) in enumerate(quantizable(load_model(teacher)[0]))]
    write_bits(tmp_path / "bits.tsv", rows[::-1])
    return tmp_path / "bits.tsv", {row.layer: row.bits for row in rows}


@pytest.mark.parametrize("method", ["kmqat", "uniform", "admm"])
def test_quantizing_is_quantize_on_the_float_weights(runs, teacher, method):
    folder = quantized(runs, f"ptq_{method}", f"quant.method={method}", "quant.bits=3", init=teacher)
    assert sorted(os.listdir(folder)) == ["config.yaml", "head.safetensors", "model.safetensors", "provenance.yaml",
                                          "speakers.txt"]
    for name in ("head.safetensors", "speakers.txt"):
        assert content(folder, name) == content(teacher, name)
    net, config = load_model(folder)
    assert config.quant == QuantConfig(method, bits=3) and config.arch == "ResNet18"
    parent, _ = load_model(teacher)
    feats = torch.randn(2, 30, 24)
    before = parent(feats)
    assert torch.equal(net(feats), quantize_(parent, config.quant)(feats)) and not torch.equal(net(feats), before)
    provenance = yaml.safe_load(content(folder, "provenance.yaml"))
    assert provenance["config"]["quant"]["bits"] == 3 and provenance["config"]["model"]["net"] == {"width": 4}
    again = quantized(runs, f"ptq_{method}_2", f"quant.method={method}", "quant.bits=3", init=teacher)
    assert all(content(again, name) == content(folder, name) for name in os.listdir(folder))


def test_a_model_without_classifier_is_quantized_too(runs, teacher, tmp_path):
    parent = tmp_path / "bare"
    parent.mkdir()
    for name in ("config.yaml", "model.safetensors"):
        shutil.copy(teacher / name, parent)
    folder = quantized(runs, "ptq_bare", "quant.bits=4", init=parent)
    assert sorted(os.listdir(folder)) == ["config.yaml", "model.safetensors", "provenance.yaml"]


def test_quantizing_refuses_what_cannot_be_quantized(runs, teacher):
    with pytest.raises(UserError, match="tiny conf.yaml: no `quant` in the config"):
        quantized(runs, "refused", init=teacher)
    with pytest.raises(UserError, match="none: --init takes the folder of a model"):
        quantized(runs, "refused", "quant.bits=4", init=runs.folder / "none")
    once = quantized(runs, "ptq_once", "quant.bits=4", init=teacher)
    with pytest.raises(UserError, match="ptq_once: quantized already"):
        quantized(runs, "refused", "quant.bits=4", init=once)
    assert not (runs.folder / "refused").exists()


@pytest.mark.parametrize("worker", ["train", "quantize"])
def test_bits_by_layer(runs, teacher, bits, worker):
    path, by_layer = bits
    if worker == "train":
        folder = runs("mixed", "quant.bits=3", *QAT, init=teacher, bits=path)
    else:
        folder = quantized(runs, "mixed_ptq", "quant.bits=3", init=teacher, bits=path)
    net, config = load_model(folder)
    assert config.quant == QuantConfig(bits=3, layers=by_layer)
    assert list(load_config(folder / "config.yaml", type(config)).quant.layers) == list(by_layer)  # the network's order
    found = {name: quantizer.bits for name, _, quantizer in quantizers(net)}
    assert found == {name: n for name, n in by_layer.items() if n != 32}
    for name, module in quantizable(net):
        most = max(len(channel.unique()) for channel in module.weight)
        assert len(module.weight.unique()) > 16 if by_layer[name] == 32 else most <= 2 ** by_layer[name], name


def test_bits_are_part_of_what_a_run_is(runs, teacher, bits, capsys):
    path, by_layer = bits
    runs("rebit", "quant.bits=3", *QAT, init=teacher, bits=path)
    capsys.readouterr()
    runs("rebit", "quant.bits=3", *QAT, init=teacher, bits=path)
    assert "resuming from" in capsys.readouterr().out
    changed = path.read_text().replace("\t1\n", "\t2\n", 1)
    path.write_text(changed)
    runs("rebit", "quant.bits=3", *QAT, init=teacher, bits=path)
    assert "another config or other data: starting anew" in capsys.readouterr().out


def test_mistakes_with_bits(runs, teacher, bits):
    path, _ = bits
    with pytest.raises(UserError, match="tiny conf.yaml: --bits .* no `quant`"):
        runs("refused", *QAT, init=teacher, bits=path)
    with pytest.raises(UserError, match="tiny conf.yaml: quant.layers and --bits both"):
        runs("refused", "quant.layers={conv1: 4}", *QAT, init=teacher, bits=path)
    with pytest.raises(UserError, match="bits.tsv: does not go with `quant`: layers: .* a layer has all precisions"):
        runs("refused", "quant.method=nested", "quant.bits=8", *QAT, init=teacher, bits=path)
    path.write_text(path.read_text().replace("4x1x3x3", "8x1x3x3"))
    with pytest.raises(UserError, match="bits.tsv.*layer conv1 has shape 8x1x3x3"):
        runs("refused", "quant.bits=3", *QAT, init=teacher, bits=path)
    assert not (runs.folder / "refused").exists()


@pytest.mark.parametrize("override, words", [
    ("model.arch=ResNet34", "model.arch is ResNet34, but the model of --init .* has ResNet18"),
    ("model.net.width=8", "model.net.width is 8, but the model of --init .* has 4"),
    ("model.net.wide=8", "model.net.wide is 8, but the model of --init .* has None"),
    ("model.embed_dim=16", "model.embed_dim is 16"),
    ("model.front_end.mean_normalize=false", "model.front_end.mean_normalize is False"),
])
@pytest.mark.parametrize("worker", ["train", "quantize"])
def test_another_model_than_that_of_init_is_refused(runs, teacher, worker, override, words):
    make = runs if worker == "train" else lambda *given, **options: quantized(runs, *given, **options)
    with pytest.raises(UserError, match=words) as error:
        make("refused", "quant.bits=4", override, init=teacher)
    assert str(error.value).startswith(f"{runs.config}: ") and "\n" not in str(error.value)
    assert not (runs.folder / "refused").exists()


@pytest.mark.parametrize("model", [None, {"net": {"width": 4}}, {"arch": "ResNet18", "front_end": {"rate": 16000}}])
def test_the_model_of_init_may_be_left_out_or_said_again(runs, teacher, tmp_path, model):
    """Keys that are not given are those of --init, whatever their defaults."""
    path = tmp_path / "finetune.yaml"
    path.write_text(yaml.safe_dump({"quant": {"bits": 4}, **({"model": model} if model else {})}))
    run_worker(quantize.main, "--config", path, "--init", teacher, "--out", tmp_path / "out")
    assert load_model(tmp_path / "out")[1] == dataclasses.replace(load_model(teacher)[1], quant=QuantConfig(bits=4))


def test_an_option_of_the_network_may_be_said_with_its_default(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {net: {width: 32}}")
    starting = argparse.Namespace(config=path, set=[], init="parent")
    check_model_keys(read_tree(path)["model"], ModelConfig(), starting)
    with pytest.raises(UserError, match="model.net.width is 32, .* parent has 16"):
        check_model_keys(read_tree(path)["model"], ModelConfig(net={"width": 16}), starting)


@pytest.mark.parametrize("net", [{}, {"dilations": [2, 3]}])
def test_a_tuple_option_may_be_said_as_a_list(tmp_path, monkeypatch, net):
    monkeypatch.setitem(ARCHITECTURES, "Dilated", lambda feat_dim=80, embed_dim=8, dilations=(1, 2): None)
    starting = argparse.Namespace(config="c.yaml", set=[], init="parent")
    has = net.get("dilations", [1, 2])
    check_model_keys({"net": {"dilations": has}}, ModelConfig("Dilated", net), starting)
    with pytest.raises(UserError, match=r"model.net.dilations is \[1, 3\], but .* parent has \[\d, \d\]"):
        check_model_keys({"net": {"dilations": [1, 3]}}, ModelConfig("Dilated", net), starting)


def test_finetuning_in_float_is_the_control(runs, teacher):
    """--init without `quant`: the network moves on from the parent's weights and head, and nothing is quantized."""
    folder = runs("float", "epochs=1", "schedule.lr=0.001", "schedule.final_lr=0.0001", "average=1", init=teacher)
    net, config = load_model(folder)
    parent, _ = load_model(teacher)
    assert config.quant is None and not list(quantizers(net))
    for (name, module), (_, before) in zip(quantizable(net), quantizable(parent), strict=True):
        now, then = float_weight(module), float_weight(before)
        assert not torch.equal(now, then) and (now - then).abs().max() < 0.3 * then.abs().max(), name
    heads = [load_tensors(f / "head.safetensors")["weight"] for f in (teacher, folder)]
    assert torch.cosine_similarity(*heads).min() > 0.99 and not torch.equal(*heads)


def test_finetuning_goes_on_from_a_quantized_model(runs, teacher):
    """Without `quant` in the config a quantized --init stays what it is, and is trained further."""
    first = quantized(runs, "on_0", "quant.bits=2", init=teacher)
    second = runs("on_1", *QAT, init=first)
    assert load_model(second)[1].quant == QuantConfig(bits=2)
    before, after = load_tensors(first / "model.safetensors"), load_tensors(second / "model.safetensors")
    assert before.keys() == after.keys()
    levels = [name for name in before if name.endswith(".levels")]
    assert levels and all(torch.equal(before[name], after[name]) for name in levels)
    assert not torch.equal(before["conv1.parametrizations.weight.original"], after["conv1.parametrizations.weight.original"])
