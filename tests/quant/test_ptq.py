"""Batch norms folded into convolutions, biases corrected, and the worker that does both."""

import dataclasses
import os

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from svq.bin import pack, quantize
from svq.config import from_dict
from svq.data.extraction import calibration_features
from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.models import load_model, save_model
from svq.network import ModelConfig
from svq.pack.file import load_packed, packed_bytes, save_packed
from svq.pack.reading import read_packed
from svq.quant import QuantConfig, batchnorm_fold as fold, quantize_
from svq.quant.api import quantizable, quantizers
from svq.quant.ptq_config import PTQConfig
from svq.quant.ptq import channel_means, correct_biases_, output_means, quantize_without_training_
from svq.train.config import TrainConfig
from tests.builders import data_dir
from tests.helpers import run_worker

MELS = 24
NETS = {"ResNet18": {"width": 4}, "ECAPA512": {"channels": 16, "wide": 24}, "XVector": {"width": 8, "wide": 12},
        "DTDNN": {"width": 16, "growth": 8, "bottleneck": 16}, "FastResNet34": {"width": 4}, "DFResNet56": {"width": 4},
        "KiwanoResNet36": {"width": 8}, "ResNet50": {"width": 4}}


def model(arch, **more):
    return ModelConfig(arch, NETS[arch], 16, FrontEndConfig(num_mels=MELS), **more)


def trained(arch, seed=0):
    """A network whose batch norms have seen data and learned, where they learn."""
    torch.manual_seed(seed)
    config = model(arch)
    net = config.build()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                if module.affine:
                    module.weight.uniform_(-1.5, 1.5)
                    module.bias.normal_(0, 0.3)
    return net.eval(), config


def features(batch=2, frames=60, seed=0):
    return torch.randn(batch, frames, MELS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("arch", NETS)
def test_folded_networks_give_the_same_embeddings_and_come_back(tmp_path, arch):
    net, config = trained(arch)
    with torch.no_grad():
        before = net(features(3))
    norms = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    pairs = fold.fold_into_layers_(net, features())
    with torch.no_grad():
        torch.testing.assert_close(net(features(3)), before, rtol=1e-3, atol=1e-4 * before.abs().max().item())
    left = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
    assert left == norms - len(pairs) and len(set(pairs.values())) == len(pairs)
    if arch in ("ResNet18", "ResNet50"):
        assert left == 0  # all of them follow a convolution
    if arch in ("XVector", "ECAPA512"):
        assert not pairs  # all of them follow an activation, or the pooling
        return
    assert pairs and all(isinstance(net.get_submodule(norm), nn.Identity) for norm in pairs)
    config = dataclasses.replace(config, folded=pairs)
    save_model(tmp_path / "float", net, config)
    other, read = load_model(tmp_path / "float")
    assert read == config and torch.equal(other(features()), net(features()))
    quant = QuantConfig("integer", 4, per_channel=True)
    config = dataclasses.replace(config, quant=quant)
    expected = packed_bytes(net, quant, config)
    assert save_packed(tmp_path / "a.svq", quantize_(net, quant), config) == expected
    packed, read = load_packed(tmp_path / "a.svq")
    assert read == config and "biases" in read_packed(tmp_path / "a.svq")[1]
    assert not [name for name in read_packed(tmp_path / "a.svq")[1] if name in {f"{x}.bias" for x in pairs.values()}]
    with torch.no_grad():
        assert (1 - torch.cosine_similarity(packed(features()), net(features()))).abs().max() < 1e-5
    if arch == "ResNet18":
        assert "norms" not in read_packed(tmp_path / "a.svq")[1]
        for name in pairs.values():
            assert torch.equal(packed.get_submodule(name).bias, net.get_submodule(name).bias)


class Odd(nn.Module):
    """Convolutions whose norm must stay: seen by another, behind an activation, used twice, over another dimension."""

    def __init__(self):
        super().__init__()
        for name in ("seen", "active", "twice", "good"):
            setattr(self, name, nn.Conv1d(MELS, MELS, 1))
            setattr(self, f"{name}_bn", nn.BatchNorm1d(MELS))
        self.linear, self.linear_bn = nn.Linear(MELS, 60), nn.BatchNorm1d(60)

    def forward(self, x):
        x = x.transpose(1, 2)
        y = self.seen(x)
        x = self.seen_bn(y) + y.tanh()
        x = self.active_bn(F.relu(self.active(x)))
        x = self.twice_bn(self.twice(x)) + self.twice(x)
        x = self.good_bn(self.good(x))
        return self.linear_bn(self.linear(x.transpose(1, 2)))[..., 0]


def test_only_norms_that_are_a_layers_one_reader_are_folded():
    net = Odd().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
    assert fold.norms_after_layers(net, features()) == {"good_bn": "good"}
    before = net(features())
    assert fold.fold_into_layers_(net, features()) == {"good_bn": "good"}
    torch.testing.assert_close(net(features()), before, rtol=1e-4, atol=1e-4)


def test_a_fold_that_changes_the_embedding_is_refused(monkeypatch):
    net = Odd().eval()
    net.active_bn.running_mean.fill_(3.0)
    monkeypatch.setattr(fold, "norms_after_layers", lambda net, feats: {"active_bn": "active"})
    with pytest.raises(UserError, match="folding batch norms changed embeddings by .* without ptq.fold_batch_norm"):
        fold.fold_into_layers_(net, features())


@pytest.mark.parametrize("pairs", [{"bn9": "conv1"}, {"bn1": "conv9"}, {"conv1": "bn1"}])
def test_names_that_are_not_in_the_network_are_refused(pairs):
    with pytest.raises(UserError, match="the network has no such batch norm or layer; its norms are bn1"):
        model("ResNet18", folded=pairs).build()


@pytest.mark.parametrize("arch", ["ResNet18", "ECAPA512", "XVector", "DTDNN"])
@pytest.mark.parametrize("folded", [False, True])
def test_correction_takes_the_shift_off_every_layer(arch, folded):
    """Layer by layer, with the layers before corrected: on the same data nothing is left."""
    net, _ = trained(arch)
    feats = features(6)
    result = quantize_without_training_(net, QuantConfig("integer", 3), PTQConfig(folded, True), feats)
    reference, _ = trained(arch)
    wanted = output_means(reference, feats) if not folded else None
    done = {correction.layer: correction for correction in result.corrections}
    assert list(done) != [] and done.keys() == {name for name, _, _ in quantizers(net)}
    assert all(correction.shift > 0 for correction in result.corrections)
    skipped = {name for name, correction in done.items() if correction.where is None}
    assert bool(skipped) == (arch == "DTDNN") and ("neither bias nor norm" in result.summary()) == bool(skipped)
    if folded:
        return
    found = output_means(net, feats)
    for name, correction in done.items():
        shift = found[name] - wanted[name]
        if correction.where == "norm":  # the layer keeps its shift, the norm takes it off
            norm = next(n for n, layer in fold.norms_after_layers(net, feats).items() if layer == name)
            shift = shift - (net.get_submodule(norm).running_mean - reference.get_submodule(norm).running_mean)
        if correction.where is not None:
            assert shift.abs().max() < 1e-4 * (1 + wanted[name].abs().max()), name


def test_correction_is_that_of_the_formula_for_one_layer():
    """The bias loses E[(W~ - W) x]."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(MELS, 5)).eval()
    weight, bias, feats = net[0].weight.detach().clone(), net[0].bias.detach().clone(), features() + 0.5
    means = output_means(net, feats)
    quantize_(net, QuantConfig("integer", 2))
    (correction,) = correct_biases_(net, feats, means)
    expected = bias - (net[0].weight - weight) @ feats.mean((0, 1))
    torch.testing.assert_close(net[0].bias.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
    assert correction.where == "bias"
    torch.testing.assert_close(channel_means(nn.Conv2d(1, 2, 1), torch.arange(12.0).view(1, 2, 3, 2)),
                               torch.tensor([2.5, 8.5], dtype=torch.float64))


def test_correction_brings_embeddings_nearer():
    net, _ = trained("ResNet18")
    feats, distances = features(16), []
    with torch.no_grad():
        expected = net(features(8, seed=1))
        for correct in (False, True):
            net, _ = trained("ResNet18")
            quant = QuantConfig("integer", 3)
            if correct:
                quantize_without_training_(net, quant, PTQConfig(bias_correction=True), feats)
            else:
                quantize_(net, quant)
            distances.append(float((net(features(8, seed=1)) - expected).square().mean()))
    assert distances[1] < 0.9 * distances[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A float model folder and a data directory of eight short utterances."""
    folder = tmp_path_factory.mktemp("a place")
    net, config = trained("ResNet18")
    save_model(folder / "float", net, config)
    return folder, data_dir(folder, speakers=2, utts=4, seconds=0.6)


def quantized(place, name, ptq, *more):
    folder, _ = place
    (folder / "c.yaml").write_text(yaml.safe_dump({"quant": {"method": "integer", "bits": 4}, "num_threads": 1, **ptq}))
    run_worker(quantize.main, "--config", folder / "c.yaml", "--init", folder / "float", "--out", folder / name, *more)
    return folder / name


def test_worker_folds_and_corrects_and_the_folder_is_packed(place, capsys):
    folder, data = place
    ptq = {"ptq": {"fold_batch_norm": True, "bias_correction": True, "utterances": 3, "crop_seconds": 0.5}}
    out = quantized(place, "both", ptq, "--data", data)
    said = capsys.readouterr().out
    assert "4 bits per weight, not finetuned; 20 batch norms folded; 21 of 21 layers corrected" in said
    net, config = load_model(out)
    assert len(config.folded) == 20 and config.quant == QuantConfig("integer")
    again = quantized(place, "again", ptq, "--data", data)
    for name in os.listdir(out):
        assert (out / name).read_bytes() == (again / name).read_bytes(), name
    expected, _ = load_model(folder / "float")
    feats = calibration_features(data, config.front_end, 3, 0.5, 1)
    quantize_without_training_(expected, config.quant, PTQConfig(True, True), feats)
    assert torch.equal(net(features()), expected(features()))
    run_worker(pack.main, out)
    assert "largest cosine distance to the network before packing" in capsys.readouterr().out
    packed, read = load_model(out / "model.svq")
    assert read == config and len(list(quantizable(packed))) == 21
    onward = quantized((folder, data), "plain", {}, "--data", data)
    assert "--data is not used: neither ptq.calibrate nor ptq.bias_correction" in capsys.readouterr().out
    assert load_model(onward)[1].folded is None


def test_folding_alone_needs_no_data(place):
    net, config = load_model(quantized(place, "folded", {"ptq": {"fold_batch_norm": True}}))
    assert len(config.folded) == 20 and not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_correction_without_data_is_refused(place):
    with pytest.raises(UserError, match="c.yaml: ptq.bias_correction is measured on speech; give .* --data"):
        quantized(place, "refused", {"ptq": {"bias_correction": True}})
    assert not (place[0] / "refused").exists()


@pytest.mark.parametrize("tree, words", [
    ({}, "none of calibrate, fold_batch_norm and bias_correction"),
    ({"bias_correction": True, "utterances": 0}, "utterances is 0"),
    ({"bias_correction": True, "crop_seconds": 0}, "crop_seconds is 0"),
    ({"bias_corection": True}, "did you mean 'ptq.bias_correction'")])
def test_settings_are_checked(tree, words):
    with pytest.raises(UserError, match=words):
        from_dict({"quant": {}, "ptq": tree}, TrainConfig)
    with pytest.raises(UserError, match="ptq is about quantization"):
        from_dict({"ptq": {"bias_correction": True}}, TrainConfig)


def test_calibration_data_depends_on_the_seed_alone(place):
    _, data = place
    front_end = FrontEndConfig(num_mels=MELS)
    first = calibration_features(data, front_end, 4, 0.3, seed=1)
    assert first.shape == (4, 28, MELS) and torch.equal(first, calibration_features(data, front_end, 4, 0.3, seed=1))
    assert not torch.equal(first, calibration_features(data, front_end, 4, 0.3, seed=2))
    assert calibration_features(data, front_end, 99, 2.0).shape == (8, 198, MELS)  # repeated, and all there are
