"""ResNets: sizes as published, any length of input, gradients everywhere."""

import numpy as np
import pytest
import torch
from torch import nn

from svq.errors import UserError
from svq.nets import ARCHITECTURES, build, num_parameters
from svq.nets.pooling import StatisticsPooling
from svq.nets.resnet import BottleneckBlock, ResNet


def weights(net):
    return sum(m.weight.numel() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_resnet34_has_the_published_size():
    net = build("ResNet34", 80, 256, width=32)
    assert num_parameters(net) == 6_634_336
    assert weights(net) == 6_625_568
    # 34 layers: the stem, 2 in each of 16 blocks, the embedding; shortcuts are not counted.
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "shortcut" not in name]) == 34


def test_resnet101_has_the_published_size():
    net = build("ResNet101", 80, 256)
    assert num_parameters(net) == 15_892_448 and weights(net) == 15_839_520
    # The paper's 63.86 MB hold the running statistics of batch norm too, and what the file itself costs.
    floats = sum(tensor.numel() for tensor in net.state_dict().values() if tensor.is_floating_point())
    assert 63.7e6 < 4 * floats < 63.86e6


@pytest.mark.parametrize("arch, depth, parameters", [("ResNet50", 50, 11_131_360), ("ResNet101", 101, 15_892_448),
                                                     ("ResNet152", 152, 19_814_880)])
def test_depth_of_bottleneck_networks(arch, depth, parameters):
    """The stem, 3 layers a block, the embedding; shortcuts are not counted. At width 32 as the docstring says."""
    net = build(arch, 80, 256)
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "shortcut" not in name]) == depth
    assert num_parameters(net) == parameters and f"{parameters:,}" in ResNet.__doc__
    assert f"{weights(net):,}" in ResNet.__doc__


def closed_form(blocks, expansion, width, feat_dim, embed_dim):
    """Parameters by hand: convolutions, 1x1 shortcuts, two numbers a channel of batch norm, the embedding."""
    total, inputs = 9 * width + 2 * width, width
    for stage, count in enumerate(blocks):
        channels = width * 2**stage
        outputs = expansion * channels
        for block in range(count):
            if expansion == 1:
                total += 9 * inputs * channels + 9 * channels**2 + 4 * channels
            else:
                total += inputs * channels + 9 * channels**2 + channels * outputs + 4 * channels + 2 * outputs
            if inputs != outputs or (block == 0 and stage > 0):
                total += inputs * outputs + 2 * outputs
            inputs = outputs
    bands = feat_dim
    for _ in range(3):
        bands = (bands + 1) // 2
    return total + (2 * inputs * bands + 1) * embed_dim


@pytest.mark.parametrize("arch, expansion, blocks", [
    ("ResNet18", 1, (2, 2, 2, 2)), ("ResNet34", 1, (3, 4, 6, 3)), ("ResNet50", 4, (3, 4, 6, 3)),
    ("ResNet101", 4, (3, 4, 23, 3)), ("ResNet152", 4, (3, 8, 36, 3))])
@pytest.mark.parametrize("width, feat_dim, embed_dim", [(4, 80, 32), (8, 40, 64), (16, 23, 128)])
def test_sizes_at_other_widths(arch, expansion, blocks, width, feat_dim, embed_dim):
    net = build(arch, feat_dim, embed_dim, width=width)
    assert num_parameters(net) == closed_form(blocks, expansion, width, feat_dim, embed_dim)
    assert net(torch.zeros(2, 30, feat_dim)).shape == (2, embed_dim)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("arch", ["ResNet18", "ResNet50"])
def test_very_short_inputs_are_finite_with_finite_gradients(arch, train):
    torch.manual_seed(0)
    net = build(arch, 80, 16, width=4).train(train)
    for frames in range(1, 11):
        net.zero_grad()
        out = net(torch.randn(2, frames, 80))
        assert out.shape == (2, 16) and out.isfinite().all()
        out.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("arch", ["ResNet34", "ResNet101"])
def test_gradient_reaches_every_parameter_and_the_input(arch):
    torch.manual_seed(0)
    net = build(arch, 80, 16, width=4).train()
    feats = torch.randn(3, 50, 80, requires_grad=True)
    net(feats).square().sum().backward()
    assert feats.grad.abs().sum(dim=(0, 2)).min() > 0  # every frame counts
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_embedding_does_not_depend_on_the_rest_of_the_batch():
    torch.manual_seed(0)
    net = build("ResNet18", 80, 16, width=4).eval()
    feats = torch.randn(5, 60, 80)
    with torch.no_grad():
        torch.testing.assert_close(net(feats)[2:3], net(feats[2:3]), rtol=1e-5, atol=1e-5)


def test_same_seed_same_weights():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build("ResNet18", 80, 8, width=4).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["conv1.weight"], states[2]["conv1.weight"])


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution():
    """Where torchvision and WeSpeaker have it ("ResNet v1.5"), not in the first 1x1 as He et al. had."""
    block = BottleneckBlock(8, 4, stride=2)
    assert [conv.stride[0] for conv in (block.conv1, block.conv2, block.conv3, block.shortcut[0])] == [1, 2, 1, 2]
    assert [conv.kernel_size[0] for conv in (block.conv1, block.conv2, block.conv3)] == [1, 3, 1]
    assert block(torch.zeros(1, 8, 7, 9)).shape == (1, 16, 4, 5)
    assert len(BottleneckBlock(16, 4, stride=1).shortcut) == 0


def test_statistics_pooling_against_numpy():
    x = np.random.default_rng(0).normal(3, 2, (2, 5, 17))
    pooled = StatisticsPooling()(torch.tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(pooled[:, :5], x.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(pooled[:, 5:], x.std(-1, ddof=1), rtol=1e-5)


def test_one_frame_and_constant_input_pool_to_a_small_finite_deviation():
    for frames in (1, 9):
        x = torch.ones(1, 3, frames, requires_grad=True)
        pooled = StatisticsPooling()(x)
        pooled.sum().backward()
        assert (pooled[:, 3:] < 1e-3).all() and x.grad.isfinite().all()


@pytest.mark.parametrize("arch, options, words", [
    ("ResNet35", {}, "arch 'ResNet35' is unknown; known: " + ", ".join(ARCHITECTURES)),
    ("ResNet34", {"depth": 3}, "takes no option 'depth'; it takes: width"),
    ("ResNet34", {"blocks": (1, 1, 1, 1)}, "takes no option 'blocks'"),
    ("ResNet101", {"block": 1}, "takes no option 'block'"),
    ("ResNet34", {"width": "32"}, "'width' is '32'; it must be a positive integer"),
    ("ResNet34", {"width": 0}, "must be a positive integer"),
    ("ResNet34", {"width": True}, "must be a positive integer")])
def test_mistakes(arch, options, words):
    with pytest.raises(UserError) as error:
        build(arch, 80, 256, **options)
    assert words in str(error.value)
