"""x-vector and extended x-vector: published sizes, parity with the originals, any length of input."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from formula_weights import features, fill_
from networks_1d import CHECKS, check_packing, check_taps, narrow
from torch import nn

from svq.errors import UserError
from svq.evaluation.operations import count_flops
from svq.nets import build, num_parameters
from svq.nets.tdnn import ETDNN, TDNNLayer, XVector, at_least, mirrored

ORIGINALS = json.loads((Path(__file__).parent / "fixtures" / "originals_1d.json").read_text())
ARCHS = ["XVector", "XVectorSpeechBrain", "ETDNN"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("arch, feat_dim, options, parameters, described", [
    ("XVector", 80, {}, 4_610_524, XVector),
    ("XVector", 80, {"segments": 1}, 4_347_868, XVector),
    ("XVectorSpeechBrain", 24, {}, 4_211_604, XVector),
    ("ETDNN", 30, {}, 6_057_436, ETDNN),
    ("ETDNN", 80, {}, 6_185_436, ETDNN)])
def test_published_sizes(arch, feat_dim, options, parameters, described):
    with torch.device("meta"):
        assert num_parameters(build(arch, feat_dim, 512, **options)) == parameters
    assert f"{parameters:,}" in described.__doc__


def test_multiply_accumulates_are_those_that_wespeaker_prints():
    """0.53 G for 200 frames."""
    with torch.device("meta"):
        net = build("XVector", 80, 512)
    assert round(count_flops(net, 80, 200) / 2e9, 2) == 0.53


@pytest.mark.parametrize("case", [name for name, row in ORIGINALS.items() if row["arch"].startswith("XVector")])
def test_same_embeddings_as_the_original(case):
    row = ORIGINALS[case]
    net = fill_(build(row["arch"], row["feat_dim"], row["embed_dim"], **row["options"]))
    with torch.no_grad():
        embedding = net(features(row["frames"], row["feat_dim"]))[0]
    torch.testing.assert_close(embedding, torch.tensor(row["embedding"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("check", CHECKS)
def test_what_is_asked_of_every_network(check, arch):
    check(arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_quantized_and_packed(arch, tmp_path):
    check_packing(arch, tmp_path / "model.svq")


@pytest.mark.parametrize("arch, frames", [("XVector", 5), ("XVectorSpeechBrain", 5), ("ETDNN", 10)])
def test_taps(arch, frames):
    channels = {f"frame{number}": 24 for number in range(1, frames)} | {f"frame{frames}": 40}
    check_taps(arch, channels)
    net = narrow(arch)
    assert (channels[net.NARROW], channels[net.WIDE]) == (24, 40)


def test_the_order_in_a_layer_is_affine_relu_batch_norm():
    torch.manual_seed(0)
    layer = TDNNLayer(3, 4, context=3, dilation=2, padding="none").eval()
    layer.bn.running_mean.uniform_()
    x = torch.randn(2, 3, 11)
    affine = F.conv1d(x, layer.conv.weight, layer.conv.bias, dilation=2)
    torch.testing.assert_close(layer(x), layer.bn(affine.clamp(min=0)))
    assert layer(x).shape == (2, 4, 7)


@pytest.mark.parametrize("padding, frames", [("none", 6), ("zero", 10), ("reflect", 10)])
def test_edges(padding, frames):
    layer = TDNNLayer(1, 1, context=5, padding=padding).eval()
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    x = torch.arange(1.0, 11.0).view(1, 1, 10)
    out = layer(x)[0, 0] * (1 + 1e-5) ** 0.5
    assert len(out) == frames
    first = {"none": 1 + 2 + 3 + 4 + 5, "zero": 1 + 2 + 3, "reflect": 3 + 2 + 1 + 2 + 3}[padding]
    assert out[0].item() == pytest.approx(first)


def test_leaky_relu_keeps_a_hundredth_of_what_is_negative():
    layer = TDNNLayer(1, 1, activation="leaky_relu").eval()
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    assert layer(torch.tensor([[[-2.0, 3.0]]]))[0, 0].tolist() == pytest.approx([-0.02, 3.0], rel=1e-4)


def test_a_separable_layer_filters_each_channel_alone_and_then_mixes():
    layer = TDNNLayer(6, 4, context=3, separable=True)
    assert layer.depthwise.weight.shape == (6, 1, 3) and layer.conv.weight.shape == (4, 6, 1)
    assert layer(torch.randn(2, 6, 9)).shape == (2, 4, 9)


@pytest.mark.parametrize("frames", range(1, 5))
def test_mirrored_is_torchs_reflection(frames):
    x = torch.randn(2, 3, 5)
    assert torch.equal(mirrored(x, frames), F.pad(x, (frames, frames), mode="reflect"))


def test_at_least_repeats_the_outermost_frames():
    x = torch.tensor([[[1.0, 2.0]]])
    assert at_least(x, 5)[0, 0].tolist() == [1, 1, 2, 2, 2]
    assert at_least(x, 2) is x


def test_short_input_is_as_if_its_ends_were_repeated():
    net = narrow("XVector")
    x = torch.randn(1, 12, 20)
    longer = torch.cat([x[:, :1], x, x[:, -1:], x[:, -1:]], dim=1)
    assert longer.shape[1] == 15 == net.least_frames
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(longer))


def test_two_segment_layers():
    net = narrow("XVector").eval()
    assert net.segment2 is not None and narrow("XVector", segments=1).segment2 is None
    pooled = torch.randn(2, 80)
    with torch.no_grad():
        expected = net.segment2(net.bn(F.relu(net.segment1(pooled))))
        net.pool.forward = lambda x: pooled
        torch.testing.assert_close(net(torch.randn(2, 30, 20)), expected)


@pytest.mark.parametrize("arch, options, words", [
    ("XVector", {"segments": 3}, "arch XVector: segments is 3; it must be 1 or 2"),
    ("XVector", {"padding": "same"}, "padding is 'same'; it must be one of none, zero, reflect"),
    ("ETDNN", {"activation": "gelu"}, "activation is 'gelu'; it must be one of relu, leaky_relu"),
    ("ETDNN", {"variance_floor": 0.0}, "variance_floor is 0.0"),
    ("XVector", {"affine": 1}, "must be true or false"),
    ("XVector", {"layers": 3}, "takes no option 'layers'")])
def test_mistakes(arch, options, words):
    with pytest.raises(UserError) as error:
        build(arch, 80, 512, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
