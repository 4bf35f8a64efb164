"""DF-ResNets: sizes in the papers, layers, what a block computes."""

import pytest
import torch
from torch import nn

from svq.nets import build, num_parameters
from svq.nets.dfresnet import Downsampling, InvertedBottleneck

DEPTHS = {"DFResNet56": (3, 3, 9, 3), "DFResNet110": (3, 3, 27, 3), "DFResNet179": (3, 8, 45, 3),
          "DFResNet233": (3, 8, 63, 3)}
GEMINI = {"GeminiDFResNet60": (3, 3, 9, 3), "GeminiDFResNet114": (3, 3, 27, 3), "GeminiDFResNet183": (3, 8, 45, 3),
          "GeminiDFResNet237": (3, 8, 63, 3)}


def meta(arch, *sizes, **options):
    with torch.device("meta"):
        return build(arch, *sizes, **options)


@pytest.mark.parametrize("arch", DEPTHS)
def test_layers_without_downsampling_are_what_the_name_says(arch):
    net = meta(arch, 80, 256)
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    halvings = [name for name, m in net.named_modules() if isinstance(m, Downsampling)]
    assert len(halvings) == 3 and len(layers) - len(halvings) == int(arch.removeprefix("DFResNet"))


@pytest.mark.parametrize("arch", DEPTHS)
@pytest.mark.parametrize("width, feat_dim, embed_dim", [(32, 80, 256), (4, 23, 64)])
def test_parameters_by_hand(arch, width, feat_dim, embed_dim):
    total = 9 * width + 2 * width
    for stage, count in enumerate(DEPTHS[arch]):
        channels = width * 2**stage
        if stage:
            total += 9 * channels * channels // 2 + 2 * channels
        # 1x1 out to four times as many, 3x3 each by itself, 1x1 back; two numbers a channel of each norm.
        total += count * (8 * channels**2 + 36 * channels + 2 * 9 * channels)
    bands = -(-feat_dim // 8)
    total += (2 * channels * bands + 1) * embed_dim
    assert num_parameters(meta(arch, feat_dim, embed_dim, width=width)) == total


@pytest.mark.parametrize("arch, megabytes", [("DFResNet110", 29.12), ("DFResNet179", 39.97)])
def test_bytes_of_liu_et_al_2024_table_4(arch, megabytes):
    """Every number that the network keeps, as a float; the file itself costs the rest."""
    state = meta(arch, 80, 256).state_dict()
    floats = sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    assert 0.99 * megabytes < 4e-6 * floats < megabytes


def test_a_block_is_the_identity_where_its_last_norm_gives_nothing():
    torch.manual_seed(0)
    block = InvertedBottleneck(4).eval()
    nn.init.zeros_(block.bn3.weight)
    x = torch.rand(2, 4, 5, 6)
    assert torch.equal(block(x), x)
    assert block.conv2.groups == block.conv2.in_channels == 16


def test_downsampling_halves_both_directions_rounding_up():
    assert Downsampling(4, 8)(torch.zeros(2, 4, 5, 7)).shape == (2, 8, 3, 4)


@pytest.mark.parametrize("arch", GEMINI)
def test_names_of_gemini_networks_count_the_layers_between_stages(arch):
    layers = [m for m in meta(arch, 80, 256).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == int(arch.removeprefix("GeminiDFResNet"))


@pytest.mark.parametrize("arch", GEMINI)
@pytest.mark.parametrize("width, feat_dim, embed_dim", [(32, 80, 256), (4, 23, 64)])
def test_parameters_of_gemini_networks_by_hand(arch, width, feat_dim, embed_dim):
    total, inputs, bands = 11 * width, width, feat_dim
    for stage, count in enumerate(GEMINI[arch]):
        channels, bands = width * 2**stage, -(-bands // 2)
        total += 9 * inputs * channels + 2 * channels + count * (8 * channels**2 + 54 * channels)
        inputs = channels
    total += (2 * channels * bands + 1) * embed_dim
    assert num_parameters(meta(arch, feat_dim, embed_dim, width=width)) == total


def test_gemini_networks_halve_frequency_four_times_and_time_once():
    torch.manual_seed(0)
    net, seen = build("GeminiDFResNet60", 48, 8, width=4).eval(), []
    for module in net.layers:
        if isinstance(module, Downsampling):
            module.register_forward_hook(lambda module, given, out: seen.append(tuple(out.shape)))
    net(torch.zeros(1, 50, 48))
    assert seen == [(1, 4, 24, 50), (1, 8, 12, 25), (1, 16, 6, 25), (1, 32, 3, 25)]
