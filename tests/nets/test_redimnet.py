"""ReDimNet and ReDimNet2: published sizes, maps and frames, context, frame rates, any length of input, mistakes."""

import pytest
import torch
from networks_1d import CHECKS, FEAT_DIM, check_gradients, check_packing, narrow
from torch import nn

from svq.errors import UserError
from svq.evaluation.operations import count_flops
from svq.nets import build, num_parameters, options_of, usual_sizes
from svq.nets.redimnet import Aggregation, ChannelNorm, ContextBlock, ReDimNet, Repeat, ResidualBlock, to_frames, to_maps
from svq.nets.redimnet2 import ReDimNet2

BOTH = ["ReDimNetB2", "ReDimNet2B6"]
# Parameters, multiply-accumulates of the paper for 2 s, and frames in these: every 15 ms in ReDimNet, 10 in ReDimNet2.
PUBLISHED = {"ReDimNetB0": (1_004_250, 0.43, 134), "ReDimNetB1": (2_126_936, 0.54, 134),
             "ReDimNetB2": (4_892_848, 0.90, 134), "ReDimNetB3": (3_225_020, 3.00, 134),
             "ReDimNetB4": (6_441_520, 4.80, 134), "ReDimNetB5": (7_659_760, 9.87, 134),
             "ReDimNetB6": (15_015_472, 20.27, 134), "ReDimNet2B0": (1_114_356, 0.33, 200),
             "ReDimNet2B1": (2_160_336, 0.56, 200), "ReDimNet2B2": (3_676_320, 0.95, 200),
             "ReDimNet2B3": (4_179_848, 2.70, 200), "ReDimNet2B4": (6_657_440, 4.62, 200),
             "ReDimNet2B5": (8_955_816, 9.62, 200), "ReDimNet2B6": (12_390_176, 13.05, 200)}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def meta(arch, **options):
    with torch.device("meta"):
        return build(arch, *usual_sizes(arch), **options)


@pytest.mark.parametrize("arch", PUBLISHED)
def test_published_sizes(arch):
    net = meta(arch)
    assert num_parameters(net) == PUBLISHED[arch][0] and f"{num_parameters(net):,}" in type(net).__doc__


@pytest.mark.parametrize("arch", PUBLISHED)
def test_published_operations(arch):
    """Those of ReDimNet2 to 2.5 %; those of ReDimNet as near as its parameters, which are not the paper's either."""
    _, gmacs, frames = PUBLISHED[arch]
    found = count_flops(meta(arch), usual_sizes(arch)[0], frames) / 2e9
    assert found == pytest.approx(gmacs, rel=0.025 if arch.startswith("ReDimNet2") else 0.12)


@pytest.mark.parametrize("arch", BOTH)
@pytest.mark.parametrize("check", CHECKS)
def test_what_is_asked_of_every_network(check, arch):
    if (check, arch) != (check_gradients, "ReDimNet2B6"):  # frames beyond a multiple of four are left out there
        check(arch)


@pytest.mark.parametrize("arch", BOTH)
def test_quantized_and_packed(arch, tmp_path):
    check_packing(arch, tmp_path / "model.svq")


@pytest.mark.parametrize("arch", BOTH)
def test_a_batch_of_one_cannot_be_trained(arch):
    net = narrow(arch).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net(torch.randn(1, 30, FEAT_DIM))
    assert net.eval()(torch.randn(1, 30, FEAT_DIM)).shape == (1, 12)


@torch.no_grad()
def test_frames_beyond_a_multiple_of_four_are_left_out():
    net, x = narrow("ReDimNet2B6"), torch.randn(2, 27, FEAT_DIM)
    assert net.least_frames == 4
    assert torch.equal(net(x), net(x[:, :24])) and not torch.equal(net(x), net(x[:, :20]))
    assert torch.equal(net(x[:, :1]), net(x[:, :1].expand(-1, 4, -1)))


def test_frames_are_maps_with_the_channels_of_the_lowest_frequency_first():
    x = torch.randn(2, 3, 5, 7)
    frames = to_frames(x)
    assert frames.shape == (2, 15, 7) and torch.equal(frames[:, 3:6], x[:, :, 1])
    assert torch.equal(to_maps(frames, 5), x)


def test_aggregation_is_a_mean_by_shares_of_each_channel():
    mean = Aggregation(3, 4)
    outputs = [torch.randn(2, 4, 5) for _ in range(3)]
    torch.testing.assert_close(mean(outputs), torch.stack(outputs).mean(0))
    with torch.no_grad():
        mean.scores[1, 2] = 100.0
    torch.testing.assert_close(mean(outputs)[:, 2], outputs[1][:, 2])
    torch.testing.assert_close(mean(outputs)[:, 1], torch.stack(outputs).mean(0)[:, 1])
    alone = Aggregation(1, 4)
    assert alone(outputs[:1]) is outputs[0] and not list(alone.parameters())


def test_channel_norm_by_hand():
    norm, x = ChannelNorm(6), torch.randn(2, 6, 3, 4)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    expected = expected * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(norm(x), expected)


def test_repeat():
    x = torch.arange(6.0).reshape(1, 2, 3)
    assert Repeat(2)(x).tolist() == [[[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5]]] and Repeat(1)(x) is x


def test_excitation_is_of_frequencies():
    """A frequency whose factor is 0 passes by the input alone; that of every channel is the same."""
    block = ResidualBlock(4, 6, 2, excite=True).eval()
    assert (block.se.squeeze.in_features, block.se.squeeze.out_features, block.conv1.groups) == (6, 32, 2)
    nn.init.zeros_(block.se.excite.weight)
    with torch.no_grad():
        block.se.excite.bias.copy_(torch.tensor([-1e9, 1e9] * 3))
        x = torch.rand(2, 4, 6, 5)
        y = block(x)
    assert torch.equal(y[:, :, ::2], x[:, :, ::2]) and not torch.equal(y[:, :, 1::2], x[:, :, 1::2])


@torch.no_grad()
def test_context_sees_all_frames():
    block = ContextBlock(24, 3).eval()
    x = torch.randn(1, 24, 200)
    other = x.clone()
    other[..., 199] += 1
    assert block.reduce.out_channels == 8
    assert ((block(x) - block(other)).abs().amax(1) > 0).all()


@pytest.mark.parametrize("arch, sizes, options, words", [
    ("ReDimNetB2", (70, 192), {}, "takes 70 mel channels, but its frequency_strides (1, 2, 1, 2, 1, 2) divide them by 8"),
    ("ReDimNetB1", (80, 192), {}, "divide them by 24; give a multiple"),
    ("ReDimNet2B2", (80, 192), {}, "divide them by 12; give a multiple"),
    ("ReDimNetB2", (72, 192), {"form": "vgg"}, "form is 'vgg'; it must be one of convnext, resnet, resnet_se"),
    ("ReDimNetB2", (72, 192), {"depths": (1, 2)}, "6 frequency_strides, 2 depths, 6 expansions and 6 reductions"),
    ("ReDimNetB2", (72, 192), {"reductions": (4,) * 7}, "and 7 reductions; there must be one of each"),
    ("ReDimNet2B0", (72, 192), {"time_strides": (1, 2)}, "2 time_strides and 6 depths"),
    ("ReDimNetB2", (72, 192), {"group_width": 3}, "group_width is 3; 16 channels cannot be divided into groups of that"),
    ("ReDimNetB2", (72, 192), {"group_width": 40}, "group_width is 40; 16 channels cannot"),
    ("ReDimNetB2", (72, 192), {"width": 4, "reductions": (100,)}, "reduction 100 of 288 numbers a frame"),
    ("ReDimNetB2", (72, 192), {"expansions": (1,) * 6}, "expansions 1 of 16 channels leaves none"),
    ("ReDimNet2B0", (72, 192), {"blocks": (1, 2)}, "takes no option 'blocks'")])
def test_mistakes(arch, sizes, options, words):
    with pytest.raises(UserError) as error:
        build(arch, *sizes, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("arch", ["ReDimNetB0", "ReDimNet2B0"])
def test_eighty_mel_channels_will_do(arch):
    with torch.device("meta"):
        assert build(arch, 80, 192).eval()(torch.zeros(1, 20, 80)).shape == (1, 192)


def test_the_defaults_are_b2_and_b3():
    assert type(meta("ReDimNetB2")) is ReDimNet and type(meta("ReDimNet2B3")) is ReDimNet2
    assert options_of("ReDimNet2B6")["head"] is True and options_of("ReDimNet2B3")["head"] is False
