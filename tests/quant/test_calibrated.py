"""Quantization without training for the least output error: small networks of all kinds, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.data.frontend import FrontEndConfig
from svq.errors import UserError
from svq.network import ModelConfig
from svq.pack.file import load_packed, save_packed
from svq.quant import QuantConfig, quantize_
from svq.quant.api import FLOAT_BITS, float_weight, quantizable, quantizers
from svq.quant.calibrated import INSIDE, calibrate_, matched_statistics, within_cells
from svq.quant.quantizers import make_quantizer
from tests.deploy.small_nets import trained_like

MELS = 24
NETS = {"ResNet18": {"width": 4}, "ECAPA512": {"channels": 16, "wide": 24}, "XVector": {"width": 32, "wide": 24},
        "DFResNet56": {"width": 4}, "DTDNN": {"width": 16, "growth": 8, "bottleneck": 16}, "FCStudent": {"width": 24},
        "ECAPALite": {"channels": 16, "wide": 24},
        "ReDimNetB2": {"width": 4, "frequency_strides": [1, 2], "depths": [1, 1], "expansions": [100, 200],
                       "reductions": [6], "group_width": 2},
        "ReDimNet2B6": {"width": 4, "frequency_strides": [1, 2], "time_strides": [2, 2], "depths": [1, 1],
                        "expansions": [300, 100], "reductions": [8], "head_width": 6}}


def features(batch=24, frames=50, seed=1):
    x = torch.randn(batch, frames, MELS, generator=torch.Generator().manual_seed(seed)).cumsum(1) / 4
    return x - x.mean(1, keepdim=True)


class Toy(nn.Module):
    """Convolutions with a batch norm of every kind, groups, a layer that runs twice, one that takes frames."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(MELS, 16, 3, padding=1, padding_mode="reflect", bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm1d(16), nn.BatchNorm1d(16, affine=False),
                                    nn.BatchNorm1d(16, track_running_stats=False)])
        self.grouped = nn.Conv1d(16, 16, 3, groups=4, dilation=2, padding="same")
        self.twice = nn.Conv1d(16, 16, 3, padding=1)
        self.frames = nn.Linear(16, 20)
        self.embedding = nn.Linear(40, 12)

    def forward(self, x):
        x = F.relu(self.norms[0](self.conv(x.transpose(1, 2))))
        x = x + F.relu(self.norms[1](self.grouped(x)))
        x = x + self.norms[2](self.twice(F.relu(self.twice(x))))
        rows = x.transpose(1, 2)
        frames = F.relu(self.frames(rows.reshape(-1, 16))).view(*rows.shape[:2], -1)
        return self.embedding(torch.cat([frames.mean(1), frames.std(1)], 1))


def network(arch):
    torch.manual_seed(0)
    if arch == "Toy":
        net = Toy()
        for module in net.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
        return net.eval()
    return trained_like(ModelConfig(arch, NETS[arch], 16, FrontEndConfig(num_mels=MELS)).build())


@torch.no_grad()
def distance(net, reference, feats):
    """The mean cosine distance of embeddings to those of the float network, the mean of which is taken off both."""
    found, expected = net(feats), reference(feats)
    return float((1 - torch.cosine_similarity(found - expected.mean(0), expected - expected.mean(0))).mean())


def calibrated(net, config, feats=None):
    return calibrate_(copy.deepcopy(net), config, features() if feats is None else feats)


def rounded(net, config):
    return quantize_(copy.deepcopy(net), config)


def check_on_levels(net, config):
    """Quantized weights are levels of their codebooks, and quantized again they stay as they are."""
    found = {name: quantizer for name, _, quantizer in quantizers(net)}
    for name, layer in quantizable(net):
        if config.bits_of(name) == FLOAT_BITS:
            assert name not in found
            continue
        quantizer = found[name]
        weight, codebook = quantizer(float_weight(layer)).detach(), quantizer.codebook()
        assert torch.equal(quantizer(weight).detach(), weight)
        assert quantizer.bits == config.bits_of(name) and codebook.shape[-1] <= 2**quantizer.bits
        assert (codebook.diff(dim=-1) >= 0).all() and codebook.isfinite().all()
        for channel, levels in zip(weight, codebook.expand(len(weight), -1)):
            assert torch.isin(channel, levels).all()


@torch.no_grad()
def check_packed(path, arch, net, config):
    """A file gives the same embeddings, up to what it rounds."""
    model = ModelConfig(arch, NETS[arch], 16, FrontEndConfig(num_mels=MELS), config)
    save_packed(path, net, model)
    packed, read = load_packed(path)
    assert read == model
    assert (1 - torch.cosine_similarity(packed(features(seed=2)), net(features(seed=2)))).max() < 1e-5


@pytest.mark.parametrize("arch, per_channel", [("Toy", False), ("Toy", True), ("XVector", False), ("XVector", True),
                                               ("ECAPA512", True), ("FCStudent", False)])
def test_embeddings_are_much_nearer_than_with_rounded_weights(arch, per_channel):
    net, feats, others = network(arch), features(), features(seed=2)
    for bits, most in ((4, 0.1), (3, 0.15), (2, 0.4)) if arch != "Toy" else ((4, 0.5), (3, 0.6), (2, 0.7)):
        config = QuantConfig(bits=bits, per_channel=per_channel)
        found = calibrated(net, config, feats)
        check_on_levels(found, config)
        assert distance(found, net, others) < most * distance(rounded(net, config), net, others), bits


@pytest.mark.parametrize("arch, bits", [("ResNet18", 2), ("DFResNet56", 3), ("DTDNN", 2), ("ECAPALite", 3),
                                        ("ReDimNetB2", 2), ("ReDimNet2B6", 3)])
def test_so_they_are_of_deeper_networks_and_when_packed(arch, bits, tmp_path):
    net, others, config = network(arch), features(seed=2), QuantConfig(bits=bits)
    found = calibrated(net, config)
    check_on_levels(found, config)
    assert distance(found, net, others) < 0.2 * distance(rounded(net, config), net, others)
    check_packed(tmp_path / "a.svq", arch, found, config)


CONFIGS = [*(QuantConfig(method, bits, per_channel=per_channel) for method in ("uniform", "pot", "apot")
             for bits, per_channel in ((4, False), (3, True))),
           *(QuantConfig("integer", 4, scheme=scheme, per_channel=per_channel) for scheme in ("symmetric", "affine")
             for per_channel in (False, True)),
           QuantConfig("integer", 3, range="percentile", percentile=99.0, per_channel=False),
           *(QuantConfig("kmqat", 3, rescaling="asymmetric", per_channel=per_channel) for per_channel in (False, True)),
           QuantConfig("kmqat", 3, "width"), QuantConfig("kmqat", 3, "count", 0.8),
           QuantConfig("kmqat", 1), QuantConfig("uniform", 1), QuantConfig("pot", 1, binary="adaptive"),
           *(QuantConfig("kmqat", 1, binary="adaptive", per_channel=per_channel) for per_channel in (False, True))]


def named(config):
    return (f"{config.method}{config.bits}-{config.scheme}-{config.partition}-{config.rescaling}-{config.binary}"
            f"{'-channels' * config.per_channel}")


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_all_methods_that_have_a_codebook_to_fit(config, tmp_path):
    net, others = network("XVector"), features(seed=2)
    found = calibrated(net, config)
    check_on_levels(found, config)
    most = 0.5 if config.bits > 1 else 0.75
    assert distance(found, net, others) < most * distance(rounded(net, config), net, others)
    check_packed(tmp_path / "a.svq", "XVector", found, config)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@torch.no_grad()
def test_float_weights_are_moved_no_farther_than_to_where_they_have_their_codes(config):
    generator = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(6, 5, 3, generator=generator)
    quantizer = make_quantizer(weight, config, config.bits)
    quantized = quantizer(weight + 0.05 * torch.randn(weight.shape, generator=generator))
    moved = within_cells(weight, quantized, quantizer)
    assert torch.equal(quantizer(moved), quantized)
    alike, stayed = quantizer(weight) == quantized, moved == weight
    assert 0.1 < alike.float().mean() < 1 and not (stayed & ~alike).any() and stayed[alike].float().mean() > 0.7
    rows = [x.flatten() for x in (weight, quantized, moved)]
    for before, level, after, levels in zip(*rows, quantizer.codebook().expand(6, -1).repeat_interleave(15, 0)):
        if after != before:  # a tenth of the way from the threshold to the level
            nearest = levels[(levels - level).abs().argsort()[1:]]
            threshold = min(((level + other) / 2 for other in nearest), key=lambda t: abs(t + INSIDE * (level - t) - after))
            assert after == pytest.approx(float(threshold + INSIDE * (level - threshold)), abs=1e-6)
            assert (before - after) * (after - level) > 0  # it came from farther away


def test_calibration_changes_float_weights_little():
    """Less than putting them on their levels would."""
    net = network("XVector")
    found = calibrated(net, QuantConfig(bits=3, per_channel=False))
    for name, layer, quantizer in quantizers(found):
        now, before = float_weight(layer), net.get_submodule(name).weight
        assert (now == before).float().mean() > 0.2
        assert (now - before).square().mean() < 0.5 * (quantizer(now) - before).square().mean()


def test_layers_have_the_bits_that_the_config_gives_them():
    net, others = network("ECAPA512"), features(seed=2)
    config = QuantConfig(bits=2, layers={"layer1.*": 8, "layer[34].*": 3, "pool.*": 32, "embedding": 32})
    found = calibrated(net, config)
    check_on_levels(found, config)
    assert {quantizer.bits for _, _, quantizer in quantizers(found)} == {2, 3, 8}
    assert torch.equal(found.embedding.weight, net.embedding.weight)
    assert distance(found, net, others) < distance(calibrated(net, QuantConfig(bits=2)), net, others)
    untouched = calibrated(net, QuantConfig(layers={"*": 32}))
    assert not list(quantizers(untouched)) and distance(untouched, net, others) < 1e-3


def test_the_same_data_give_the_same_network(tmp_path):
    net, config = network("XVector"), QuantConfig(bits=3)
    torch.manual_seed(1)
    one = calibrated(net, config)
    torch.manual_seed(2)
    other = calibrated(net, config)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    model = ModelConfig("XVector", NETS["XVector"], 16, FrontEndConfig(num_mels=MELS), config)
    for name, each in (("a", one), ("b", other)):
        save_packed(tmp_path / name, each, model)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_layers_may_be_in_another_memory_layout():
    """Sums are rounded in another way then, and single codes differ."""
    net, config, others = network("ResNet18"), QuantConfig(bits=3), features(seed=2)
    one = calibrated(net, config, features(12, 20))
    turned = net.to(memory_format=torch.channels_last)
    other = calibrated(turned, config, features(12, 20))
    check_on_levels(other, config)
    assert distance(other, net, others) < 1.5 * distance(one, net, others)
    assert float_weight(other.layers[1].conv1).stride() == turned.layers[1].conv1.weight.stride()


@torch.no_grad()
def test_one_layer_gets_the_bias_that_keeps_its_mean():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(MELS, 8)).eval()
    feats = features() + torch.randn(MELS, generator=torch.Generator().manual_seed(3))
    found = calibrated(net, QuantConfig(bits=2), feats)
    torch.testing.assert_close(found(feats).mean((0, 1)), net(feats).mean((0, 1)), rtol=1e-4, atol=1e-4)
    off, before = (((other(feats) - net(feats)) ** 2).mean() for other in (found, rounded(net, QuantConfig(bits=2))))
    assert off < 0.5 * before


@torch.no_grad()
def test_a_norm_gets_the_statistics_that_keep_its_output():
    net = network("ResNet18")
    feats = features(12)
    found = calibrated(net, QuantConfig(bits=2), feats)
    outputs = {}

    def listen(which):
        def hook(module, inputs, output):
            outputs[which] = output
        return hook

    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            hooks = [each.get_submodule(name).register_forward_hook(listen(i)) for i, each in enumerate((net, found))]
            net(feats), found(feats)
            for hook in hooks:
                hook.remove()
            (_, means), (_, others) = (torch.var_mean(outputs[i], (0, 2, 3)) for i in range(2))
            torch.testing.assert_close(others, means, rtol=0, atol=2e-3)
            variances, others = (outputs[i].var((0, 2, 3)) for i in range(2))
            torch.testing.assert_close(others, variances, rtol=2e-2, atol=1e-4)


def test_statistics_of_inputs_that_never_change_stay():
    norm = nn.BatchNorm1d(3).eval()
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0)
    before, after = torch.full((5, 3), 1.0), torch.full((5, 3), 1.5)
    mean, var = matched_statistics(norm, before, after)
    torch.testing.assert_close(mean, torch.full((3,), 2.5))
    torch.testing.assert_close(var, norm.running_var)
    wild = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    mean, var = matched_statistics(norm, wild, 1000 * wild)
    assert var.tolist() == [16.0] * 3  # no more than four times


ODD = {"one utterance": features(1, 20), "few frames": features(2, 9), "zeros": torch.zeros(3, 20, MELS),
       "loud": features() * 1e4, "large means": features() + 1e3}


@pytest.mark.parametrize("arch", ["Toy", "FCStudent"])
@pytest.mark.parametrize("feats", ODD, ids=ODD)
def test_odd_features_give_finite_embeddings(arch, feats):
    config = QuantConfig(bits=3)
    found = calibrated(network(arch), config, ODD[feats])
    check_on_levels(found, config)
    with torch.no_grad():
        assert found(features(seed=2)).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_weights_that_are_all_equal_stay(value):
    net = network("Toy")
    net.grouped.weight.data.fill_(value)
    for config in (QuantConfig(bits=3), QuantConfig("integer", 3, per_channel=True)):
        found = calibrated(net, config)
        check_on_levels(found, config)
        with torch.no_grad():
            assert found(features(seed=2)).isfinite().all()


class Aside(nn.Module):
    """A network with a layer that does not run."""

    def __init__(self):
        super().__init__()
        self.first, self.unused, self.last = nn.Linear(MELS, 8), nn.Linear(MELS, 8), nn.Linear(8, 4)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.last(self.norm(F.relu(self.first(x)).mean(1)))


class TimeFirst(Aside):
    def forward(self, x):
        return self.last(F.relu(self.first(x.transpose(0, 1))).mean(0))


def nan_in_the_fourth():
    feats = features(5)
    feats[3, 7, 2] = float("nan")
    return feats


WITHOUT = {"unused": 32}


@pytest.mark.parametrize("net, config, feats, words", [
    (Aside(), QuantConfig(bits=2), features(4), r"unused takes no part .*leave it in float: layers: \{unused: 32\}"),
    (TimeFirst(), QuantConfig(layers=WITHOUT), features(4, 7), "first: its input has 7 rows for 8 utterances"),
    *((Aside(), config, features(4), f"method {config.method} cannot be calibrated; take one of kmqat") for config in (
        QuantConfig("twn", 2), QuantConfig("admm", 2), QuantConfig("static", 1), QuantConfig("adaptive", 1),
        QuantConfig("nested", 4))),
    (Aside(), QuantConfig(binary="static", layers={"first": 1}), features(4), "binary static cannot be calibrated"),
    (Aside(), QuantConfig(layers={"second": 2}), features(4), "no layer second to quantize; it has first, unused"),
    (Aside(), QuantConfig(layers=WITHOUT), features(4).double(), r"be \(utterances, frames, mel channels\), float32"),
    (Aside(), QuantConfig(layers=WITHOUT), features(4).half(), r"these are \(4, 50, 24\), torch.float16"),
    (Aside(), QuantConfig(layers=WITHOUT), features(4)[:0], r"these are \(0, 50, 24\)"),
    (Aside(), QuantConfig(layers=WITHOUT), features(4)[:, :0], r"these are \(4, 0, 24\)"),
    (Aside(), QuantConfig(layers=WITHOUT), features(4)[0], r"these are \(50, 24\)"),
    (Aside(), QuantConfig(layers=WITHOUT), nan_in_the_fourth(), "utterance 4 of 5 are not finite"),
    (Aside(), QuantConfig(layers=WITHOUT), features(2) * float("inf"), "utterance 1 of 2 are not finite"),
    (Aside().double(), QuantConfig(layers=WITHOUT), features(4), "first: its weights are torch.float64; .* in float32"),
    (quantize_(Aside(), QuantConfig(bits=2)), QuantConfig(), features(4), "layer first is quantized already"),
])
def test_what_cannot_be_calibrated_is_refused_and_stays_as_it_was(net, config, feats, words):
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=words) as refused:
        calibrate_(net, config, feats)
    assert "\n" not in str(refused.value)
    after = net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_with_the_unused_layer_in_float_it_works():
    torch.manual_seed(0)
    net = Aside().eval()
    found = calibrated(net, QuantConfig(bits=3, layers=WITHOUT))
    assert [name for name, _, _ in quantizers(found)] == ["first", "last"]
    assert distance(found, net, features(seed=2)) < 0.1


def test_a_network_that_fails_stays_as_it_was():
    class Fails(Aside):
        def forward(self, x):
            if len(x) > 4:
                raise RuntimeError("no")
            return super().forward(x)

    net = Fails()
    with pytest.raises(RuntimeError, match="no"):
        calibrate_(net, QuantConfig(layers=WITHOUT), features(4))
    assert not any(module._forward_hooks for module in net.modules()) and not list(quantizers(net))


def test_a_calibrated_network_trains_on():
    net = calibrated(network("Toy"), QuantConfig(bits=3)).train()
    net(features(4)).square().sum().backward()
    for name, layer, quantizer in quantizers(net):
        for parameter in (float_weight(layer), *quantizer.parameters()):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
