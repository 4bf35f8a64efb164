"""CAM++: published size, segments of the context, masks, any length of input. tests/importing proves parity."""

import pytest
import torch
from networks_1d import CHECKS, check_packing, check_taps, narrow
from torch import nn

from svq.errors import UserError
from svq.evaluation.operations import count_flops
from svq.nets import build, num_parameters
from svq.nets.campplus import CAMPPlus, ContextMask, FrequencyHead, MaskedDenseLayer, segment_means


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("embed_dim, parameters", [(512, 7_176_224), (192, 6_848_544)])
def test_published_size(embed_dim, parameters):
    with torch.device("meta"):
        net = build("CAMPPlus", 80, embed_dim)
    assert num_parameters(net) == parameters and f"{parameters:,}" in CAMPPlus.__doc__
    assert [len(net.block1), len(net.block2), len(net.block3)] == [12, 24, 16]


def test_multiply_accumulates_as_wespeaker_counts_them():
    """1.15 G for 200 frames; those of batch norms are among them, and not among ours."""
    with torch.device("meta"):
        assert count_flops(build("CAMPPlus"), 80, 200) / 2e9 == pytest.approx(1.15, rel=0.025)


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_asked_of_every_network(check):
    check("CAMPPlus")


def test_quantized_and_packed(tmp_path):
    check_packing("CAMPPlus", tmp_path / "model.svq")


def test_taps():
    check_taps("CAMPPlus", {"frame1": 16, "block1": 32, "transit1": 16, "block2": 40, "transit2": 20, "block3": 36,
                            "transit3": 18})
    with torch.device("meta"):
        net = build("CAMPPlus")
    assert (net.transit3.bn.num_features, net.transit3.conv.out_channels) == (1024, 512)


@pytest.mark.parametrize("frames", [1, 2, 99, 100, 101, 200, 250])
def test_segments_by_hand(frames):
    x = torch.randn(2, 3, frames, dtype=torch.float64)
    parts = [part.mean(-1, keepdim=True).expand_as(part) for part in x.split(100, dim=-1)]
    torch.testing.assert_close(segment_means(x), torch.cat(parts, dim=-1))


def test_a_mask_is_made_of_the_whole_and_the_segment():
    """Frames of one segment share their factors; another last segment changes them only through the mean of all."""
    mask, x = ContextMask(6, 4), torch.randn(1, 6, 250)
    nn.init.ones_(mask.squeeze.bias)  # no context is cut off at 0
    with torch.no_grad():
        factors = mask(x)
    assert factors.shape == (1, 4, 250) and ((0 < factors) & (factors < 1)).all()
    assert all((part == part[..., :1]).all() for part in factors.split(100, dim=-1))
    assert len(factors[0, 0].unique()) == 3
    moved = x.clone()
    moved[..., 200:] = x[..., 200:].flip(-1)  # all means stay
    with torch.no_grad():
        torch.testing.assert_close(mask(moved), factors)


def test_a_mask_without_weights_halves_the_layer():
    layer = MaskedDenseLayer(6, 8, 4, dilation=2).eval()
    nn.init.zeros_(layer.mask.excite.weight)
    x = torch.randn(2, 6, 30)
    torch.testing.assert_close(layer(x), layer.conv2(layer.hidden(x)) / 2)


@pytest.mark.parametrize("feat_dim, bands", [(80, 10), (64, 8), (23, 3), (8, 1), (1, 1)])
def test_the_head_takes_any_number_of_mel_channels_and_keeps_frames(feat_dim, bands):
    head = FrequencyHead(feat_dim, 4).eval()
    assert head(torch.randn(2, 11, feat_dim)).shape == (2, 4 * bands, 11) and head.channels == 4 * bands
    assert build("CAMPPlus", feat_dim, 6, width=2, layers=(1, 1, 1)).eval()(torch.randn(2, 9, feat_dim)).shape == (2, 6)


def test_every_second_frame_is_kept():
    net, seen = narrow("CAMPPlus"), []
    net.pool.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[-1]))
    for frames in (1, 2, 3, 50, 51):
        net(torch.randn(1, frames, 20))
    assert seen == [1, 1, 2, 25, 26]


def test_training_needs_two_utterances():
    """The last batch norm has one value of an utterance; torch says so."""
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        narrow("CAMPPlus").train()(torch.randn(1, 30, 20))


@pytest.mark.parametrize("options, words", [
    ({"layers": (12, 24)}, "arch CAMPPlus: layers is [12, 24]; it must be 3 numbers, each at most 100"),
    ({"layers": (1, 1, 10**9)}, "each at most 100"), ({"layers": (0, 1, 1)}, "a list of positive integers"),
    ({"bottleneck": 1}, "bottleneck is 1; it must be at least 2"),
    ({"variance_floor": 0.0}, "variance_floor is 0.0; it must be above 0 and below 1"),
    ({"segment": 50}, "takes no option 'segment'")])
def test_mistakes(options, words):
    with pytest.raises(UserError) as error:
        build("CAMPPlus", 80, 512, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
