"""Kiwano's pre-activation networks: layers, where squeeze-and-excitation is, the order in a block, the originals."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from formula_weights import features, fill_
from torch import nn

from svq.nets import build
from svq.nets.seresnet import PreActivationBlock

CASES = json.loads((Path(__file__).parent / "fixtures" / "originals_2d.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("arch, layers", [("KiwanoResNet36", 36), ("KiwanoResNet200", 200)])
def test_layers(arch, layers):
    """Convolutions and batch norms of the stem, the blocks and their shortcuts."""
    with torch.device("meta"):
        net = build(arch, 81, 256)
    counted = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    assert len(counted) == layers and {name.split(".")[0] for name in counted} == {"conv1", "bn1", "layers"}


@pytest.mark.parametrize("arch, channels, excited", [
    ("KiwanoResNet36", [128] * 2 + [256] * 3, 2),
    ("KiwanoResNet200", [128] * 11 + [256] * 21, 11)])
def test_channels_and_squeeze_and_excitation_of_the_first_two_stages_only(arch, channels, excited):
    with torch.device("meta"):
        blocks = build(arch, 81, 256).layers
    assert [block.conv3.out_channels for block in blocks] == channels
    assert [len(list(block.se.parameters())) > 0 for block in blocks] == [n < excited for n in range(len(blocks))]
    kernels = {tuple(conv.kernel_size[0] for conv in (b.conv1, b.conv2, b.conv3)) for b in blocks}
    assert kernels == {(3, 3, 1)}


def test_a_block_adds_what_comes_out_of_norm_relu_and_convolution_to_its_input():
    torch.manual_seed(0)
    block = PreActivationBlock(4, 4, 1, excite=False).eval()
    x = torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        y = x
        for n in "123":
            y = getattr(block, f"conv{n}")(F.relu(getattr(block, f"bn{n}")(y)))
        torch.testing.assert_close(block(x), x + y)
        assert (block(x) < 0).any()  # nothing clips the sum
        for conv in (block.conv1, block.conv2, block.conv3):
            conv.weight.zero_()
        assert torch.equal(block(x), x)


@pytest.mark.parametrize("case", [case for case in CASES if "Kiwano" in case["arch"]], ids=lambda case: case["name"])
def test_embedding_is_that_of_the_original_code(case):
    net = fill_(build(case["arch"], case["feat_dim"], len(case["embedding"]), **case["options"]))
    expected = torch.tensor(case["embedding"])
    with torch.no_grad():
        out = net(features(case["frames"], case["feat_dim"]))[0]
    assert (out - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
