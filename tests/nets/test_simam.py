"""SimAM-ResNets: the attention against numpy, on maps of one point, and where it stands in a block."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from svq.nets import build
from svq.nets.simam import SimAMBlock, attended_maps


def test_attention_against_numpy():
    x = np.random.default_rng(0).normal(1, 2, (2, 3, 5, 7))
    found = attended_maps(torch.tensor(x, dtype=torch.float32)).numpy()
    for batch in range(2):
        for channel in range(3):
            chart = x[batch, channel]
            energy = (chart - chart.mean()) ** 2 / (4 * (chart.var(ddof=1) + 1e-4)) + 0.5
            np.testing.assert_allclose(found[batch, channel], chart / (1 + np.exp(-energy)), rtol=1e-5)


def test_a_single_point_and_a_constant_map_are_scaled_by_the_least_factor():
    least = torch.sigmoid(torch.tensor(0.5))
    for x in (torch.full((1, 2, 1, 1), 3.0), torch.full((1, 2, 4, 6), -2.0)):
        x.requires_grad_()
        out = attended_maps(x)
        torch.testing.assert_close(out, x * least)
        out.sum().backward()
        assert x.grad.isfinite().all()


def test_bfloat16_stays_and_large_values_do_not_overflow():
    x = (1e4 * torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))).to(torch.float16)
    out = attended_maps(x)
    assert out.dtype == torch.float16 and out.isfinite().all()
    torch.testing.assert_close(out.float(), attended_maps(x.float()), rtol=2e-3, atol=1)


def test_a_block_attends_before_the_shortcut_is_added():
    torch.manual_seed(0)
    block, x = SimAMBlock(4, 8, 2).eval(), torch.randn(2, 4, 6, 9)
    y = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), F.relu(attended_maps(y) + block.shortcut(x)))


@pytest.mark.parametrize("arch", ["SimAMResNet34", "SimAMResNet100"])
def test_layers_are_what_the_name_says(arch):
    """The stem, 2 in each block, the embedding; shortcuts and pooling are not counted."""
    with torch.device("meta"):
        net = build(arch)
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if "shortcut" not in name]) == int(arch.removeprefix("SimAMResNet"))
