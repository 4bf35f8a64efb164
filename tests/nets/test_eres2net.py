"""ERes2Net and ERes2NetV2: published sizes, fusions, blocks, any length of input. tests/importing proves parity."""

import pytest
import torch
import torch.nn.functional as F
from networks_1d import CHECKS, check_gradients, check_packing
from torch import nn

from svq.errors import UserError
from svq.evaluation.operations import count_flops
from svq.nets import build, num_parameters
from svq.nets.eres2net import NETWORKS, AttentionalFusion, ERes2Net, Res2Block, clipped


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("arch, parameters, published", [
    ("ERes2NetBase", 6_610_688, 6.61), ("ERes2NetLarge", 22_462_784, 22.46), ("ERes2NetV2", 17_859_632, 17.8),
    ("ERes2NetHuge", 55_165_024, None), ("ERes2NetV2w24s4ep4", 53_513_632, None)])
def test_published_sizes(arch, parameters, published):
    with torch.device("meta"):
        assert num_parameters(build(arch, 80, 192)) == parameters
    assert f"{parameters:,}" in ERes2Net.__doc__
    assert published is None or parameters / 1e6 == pytest.approx(published, rel=0.005)


def test_the_table_is_that_of_the_networks():
    for name, make in NETWORKS.items():
        width, base_width, scale, expansion = (make.keywords.get(key, default) for key, default in (
            ("width", 32), ("base_width", 32), ("scale", 2), ("expansion", 2)))
        row = next(line.split() for line in ERes2Net.__doc__.splitlines() if line.split()[:1] == [name])
        assert row[1:5] == [str(width), str(base_width), str(scale), str(expansion)]


def test_multiply_accumulates_as_published():
    """12.69 G for 300 frames: 3D-Speaker, in the file of the network; ours are without batch norms."""
    with torch.device("meta"):
        assert count_flops(build("ERes2NetV2", 80, 192), 80, 300) / 2e9 == pytest.approx(12.69, rel=0.02)


@pytest.mark.parametrize("arch", ["ERes2NetBase", "ERes2NetV2"])
@pytest.mark.parametrize("check", [check for check in CHECKS if check is not check_gradients])
def test_what_is_asked_of_every_network(check, arch):
    check(arch)


@pytest.mark.parametrize("arch", ["ERes2NetBase", "ERes2NetV2"])
def test_gradients(arch):
    """A batch norm takes away what the biases of a fusion add."""
    check_gradients(arch, idle=r"\.(squeeze|excite)\.bias$")


@pytest.mark.parametrize("arch", ["ERes2NetBase", "ERes2NetV2"])
def test_quantized_and_packed(arch, tmp_path):
    check_packing(arch, tmp_path / "model.svq")


@pytest.mark.parametrize("x, y", [(-3.0, 0.0), (0.5, 0.5), (19.5, 19.5), (20.5, 20.0), (1e9, 20.0)])
def test_activations_have_a_ceiling(x, y):
    assert clipped(torch.tensor(x)).item() == y


def test_a_fusion_weighs_its_two_inputs_against_each_other():
    fusion, x, y = AttentionalFusion(8).eval(), torch.randn(2, 8, 5, 7), torch.randn(2, 8, 5, 7)
    with torch.no_grad():
        hidden = F.silu(F.conv2d(torch.cat([x, y], 1), fusion.squeeze.weight, fusion.squeeze.bias) / (1 + 1e-5) ** 0.5)
        attention = torch.tanh(F.conv2d(hidden, fusion.excite.weight, fusion.excite.bias) / (1 + 1e-5) ** 0.5)
        torch.testing.assert_close(fusion(x, y), x + y + attention * (x - y))
        torch.testing.assert_close(fusion(x, x), 2 * x)  # equal inputs: whatever the attention


@pytest.mark.parametrize("stride", [1, 2])
def test_each_group_of_a_block_sees_those_before_it(stride):
    """Every convolution the identity, so that groups add up."""
    block = Res2Block(3, 3, 1, 3, stride, fuse=False).eval()
    for conv in (block.conv1, block.conv3):
        conv.weight.data = torch.eye(3).view(3, 3, 1, 1)
    for conv in block.convs:
        nn.init.zeros_(conv.weight)
        conv.weight.data[0, 0, 1, 1] = 1
    if stride > 1:
        nn.init.zeros_(block.shortcut[0].weight)
    x = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1).expand(1, 3, 6, 6)
    out = block(x)
    assert out.shape == (1, 3, 6 // stride, 6 // stride)
    expected = torch.tensor([1.0, 3.0, 7.0]) + (x[0, :, 0, 0] if stride == 1 else 0)
    torch.testing.assert_close(out[0, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch, stages, blocks", [("ERes2NetBase", [2, 3, 4], 9), ("ERes2NetV2", [4], 9)])
def test_which_stages_and_blocks_are_fused(arch, stages, blocks):
    net = build(arch, 16, 8, width=4)
    assert [stage for stage in (1, 2, 3, 4) if hasattr(net, f"fuse{stage}")] == stages
    fused = [name for name, m in net.named_modules() if isinstance(m, Res2Block) and m.fusions is not None]
    assert len(fused) == blocks and {name.split(".")[0] for name in fused} == {"layer3", "layer4"}


@pytest.mark.parametrize("feat_dim, bands", [(80, 10), (64, 8), (23, 3), (1, 1)])
def test_any_number_of_mel_channels(feat_dim, bands):
    net = build("ERes2NetBase", feat_dim, 6, width=4).eval()
    assert net.fused(torch.zeros(2, 11, feat_dim)).shape == (2, 64, bands, 2)
    assert net(torch.zeros(2, 11, feat_dim)).shape == (2, 6)


def test_two_embedding_layers():
    net = build("ERes2NetV2", 16, 6, width=4, second_layer=True).eval()
    one = build("ERes2NetV2", 16, 6, width=4).eval()
    one.load_state_dict({name: tensor for name, tensor in net.state_dict().items() if not name.startswith("second")})
    x = torch.randn(2, 20, 16)
    torch.testing.assert_close(net(x), net.second[2](net.second[1](F.relu(one(x)))))


def test_one_utterance_can_be_trained_with_unless_there_is_a_second_layer():
    x = torch.randn(1, 9, 16)
    assert build("ERes2NetBase", 16, 6, width=4)(x).isfinite().all()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        build("ERes2NetBase", 16, 6, width=4, second_layer=True)(x)


def test_the_least_groups():
    for width, base_width in ((64, 1), (1, 64), (8, 8), (5, 13)):
        net = build("ERes2NetBase", 16, 6, width=width, base_width=base_width, scale=3).eval()
        assert net.layer1[0].width == 1 and net(torch.zeros(1, 9, 16)).isfinite().all()


@pytest.mark.parametrize("options, words", [
    ({"width": 1}, "arch ERes2NetBase: width is 1 and base_width 32: groups of the first stage would have no channel; "
                   "their product must be at least 64"),
    ({"width": 7, "base_width": 9, "scale": 1}, "width is 7 and base_width 9"),
    ({"scale": 65}, "scale is 65; it must be at most 64"),
    ({"variance_floor": 1.0}, "variance_floor is 1.0; it must be above 0 and below 1"),
    ({"scale": 0}, "must be a positive integer"), ({"blocks": (1, 1, 1, 1)}, "takes no option 'blocks'")])
def test_mistakes(options, words):
    with pytest.raises(UserError) as error:
        build("ERes2NetBase", 80, 512, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
