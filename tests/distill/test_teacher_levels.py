"""Levels: what their names mean, and their values against a plain computation in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from svq import nets
from svq.distill.aggregation import Aggregation
from svq.distill.levels import Clock, LevelOutputs, file_of, find_level, side_by_side
from svq.errors import UserError
from svq.nets.tdnn import XVector


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = XVector(9, 6, width=7, wide=11)
    net(torch.randn(8, 50, 9))
    return net.eval()


@pytest.mark.parametrize("text, layers, pool", [
    ("utterance", ("embedding",), "none"), ("embedding", ("embedding",), "none"), ("narrowBN", ("frame4",), "mean"),
    ("wideBN", ("frame5",), "mean"), ("wideBN:none", ("frame5",), "none"), ("narrowBN:stats", ("frame4",), "stats"),
    ("sp_aggr", tuple(f"frame{i}" for i in range(1, 6)), "stats"), ("lde_aggr", XVector.FRAME_LAYERS, "lde"),
    ("frame2+frame4:stats", ("frame2", "frame4"), "stats"), ("frame3", ("frame3",), "mean"),
    ("segment1:none", ("segment1",), "none"), ("frame1.conv", ("frame1.conv",), "mean")])
def test_what_a_name_means(net, text, layers, pool):
    level = find_level(text, net)
    assert (level.layers, level.pool, level.name) == (layers, pool, text) and ":" not in level.file


@pytest.mark.parametrize("text, words", [
    ("frame9", "XVector has no layer 'frame9'; it has frame1"), ("frame4:max", "no pooling 'max'"),
    ("", "no layer ''"), ("frame1+", "no layer ''"), ("frame1+embedding:stats", "a vector already"),
    ("utterance:mean", "a vector already"), ("frame4:", "no pooling ''")])
def test_names_that_mean_nothing(net, text, words):
    with pytest.raises(UserError, match=words):
        find_level(text, net)


def test_other_networks_have_their_layers_named():
    resnet = nets.build("ResNet18", 16, 8, width=2)
    with pytest.raises(UserError, match="ResNet does not say which layers that are; write their names, for .* 'conv1:"):
        find_level("narrowBN", resnet)
    level = find_level("layers.5:mean", resnet)
    values = LevelOutputs(resnet, [level], 16)(torch.randn(2, 40, 16))
    assert values["layers.5:mean"].shape == (2, 8 * 4)  # channels x bands


@given(st.text())
def test_any_text_is_a_level_or_one_line(text):
    net = nn.Sequential(nn.Conv1d(3, 4, 1))
    try:
        level = find_level(text, net)
        assert level.layers and ":" not in file_of(text)
    except UserError:
        pass


def by_hand(net, feats):
    """Outputs of the layers (T', C), float64, and the embedding, of one utterance (T, F)."""
    net, found = net.double(), {}
    with torch.no_grad():
        x = feats.double().T[None]
        for name in net.FRAME_LAYERS:
            x = getattr(net, name)(x)
            found[name] = x[0].T.numpy().copy()
        x = torch.cat([x.mean(2), (x.var(2) + 1e-7).sqrt()], dim=1)
        found["embedding"] = net.segment2(net.bn(torch.relu(net.segment1(x))))[0].numpy()
    net.float()
    return found


def test_every_level_against_a_plain_computation(net):
    texts = ["utterance", "narrowBN", "wideBN", "sp_aggr", "narrowBN:none", "frame1+frame5:none", "frame1+frame3:mean"]
    feats = torch.randn(3, 41, 9)
    values = LevelOutputs(net, [find_level(text, net) for text in texts], 9)(feats)
    for row in range(3):
        plain = by_hand(net, feats[row])
        frames = [plain[name] for name in net.FRAME_LAYERS]
        expected = {
            "utterance": plain["embedding"], "narrowBN": plain["frame4"].mean(0), "wideBN": plain["frame5"].mean(0),
            "sp_aggr": np.concatenate([part for x in frames for part in
                                       (x.mean(0), np.sqrt(x.var(0, ddof=1) + 1e-7))]),
            "narrowBN:none": plain["frame4"],
            # frame1 sees 5 frames, frame5 15: it starts 5 frames later
            "frame1+frame5:none": np.concatenate([plain["frame1"][5:-5], plain["frame5"]], axis=1),
            "frame1+frame3:mean": np.concatenate([plain["frame1"].mean(0), plain["frame3"].mean(0)])}
        for text in texts:
            np.testing.assert_allclose(values[text][row].numpy(), expected[text], atol=2e-6, rtol=1e-5, err_msg=text)


def test_learned_dictionary_works_on_the_frames_side_by_side(net):
    torch.manual_seed(3)
    level = find_level("frame2+frame4:lde", net)
    aggregation = Aggregation(14, channels=5, components=3, dim=4).eval()
    feats = torch.randn(2, 33, 9)
    outputs = LevelOutputs(net, [level], 9, {level.name: aggregation})
    for row in range(2):
        plain = by_hand(net, feats[row])
        frames = np.concatenate([plain["frame2"][3:-3], plain["frame4"]], axis=1)
        with torch.no_grad():
            expected = aggregation(torch.from_numpy(frames.T[None]).float())[0]
        torch.testing.assert_close(outputs(feats)[level.name][row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths, starts", [((10, 10), (0, 0)), ((10, 6), (2, 0)), ((9, 6), (1, 0)), ((3, 8), (0, 2))])
def test_frames_side_by_side_are_cut_at_both_ends(lengths, starts):
    outputs = [torch.arange(n, dtype=torch.float32).expand(1, 2, n) for n in lengths]
    joined = side_by_side(outputs)
    shortest = min(lengths)
    assert joined.shape == (1, 4, shortest)
    for part, start in enumerate(starts):
        assert joined[0, 2 * part].tolist() == list(range(start, start + shortest))


def test_clocks(net):
    outputs = LevelOutputs(net, [find_level("frame1+frame5:stats", net)], 9)
    assert outputs.clocks == {"frame1": Clock(1, 2, 4), "frame5": Clock(1, 7, 14)} and outputs.shortest == 15
    assert outputs.clock(find_level("frame1+frame5:none", net)) == Clock(1, 7, 14)
    resnet = nets.build("ResNet18", 16, 8, width=2)
    assert LevelOutputs(resnet, [find_level("layers.5:none", resnet)], 16).clocks == {"layers.5": Clock(4, 0, 0)}


@pytest.mark.parametrize("text, words", [
    ("layers.1+layers.5:none", "different frame rates"), ("layers.1+layers.5:lde", "different frame rates"),
    ("pool:mean", "nothing to pool: write it with ':none'")])
def test_layers_that_do_not_go_together(text, words):
    resnet = nets.build("ResNet18", 16, 8, width=2)
    with pytest.raises(UserError, match=words):
        LevelOutputs(resnet, [find_level(text, resnet)], 16)
    assert LevelOutputs(resnet, [find_level("layers.1+layers.5:stats", resnet)], 16).clocks["layers.5"].stride == 4


class Odd(nn.Module):
    """`twice` runs twice, `never` never, `pair` gives two tensors, `fixed` keeps no time, `inner` is overwritten."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.pair, self.inner = nn.ReLU(), nn.ReLU(), nn.LSTM(4, 3), nn.Identity()
        self.fixed = nn.AdaptiveAvgPool1d(7)

    def forward(self, x):
        x = self.twice(self.twice(x.transpose(1, 2)))
        self.pair(x.permute(2, 0, 1)), self.fixed(x)
        y = self.inner(x.clone())
        y.zero_()
        return x.mean(2)


@pytest.mark.parametrize("layer, words", [
    ("twice", "runs more than once"), ("never", "does not run"), ("pair", "gives no tensor"),
    ("fixed", "7 frames for 256")])
def test_layers_without_a_use(layer, words):
    net = Odd()
    with pytest.raises(UserError, match=words):
        LevelOutputs(net, [find_level(layer, net)], 4)


def test_what_works_in_place_afterwards_does_not_reach_a_tap():
    net = Odd()
    assert LevelOutputs(net, [find_level("inner", net)], 4)(torch.ones(1, 9, 4))["inner"].tolist() == [[1.0] * 4]


def test_no_hook_is_left_and_the_teacher_is_frozen(net):
    outputs = LevelOutputs(net, [find_level("sp_aggr", net)], 9).train()
    outputs(torch.randn(1, 30, 9))
    assert not any(module._forward_hooks for module in net.modules()) and not net.training
    assert not any(parameter.requires_grad for parameter in outputs.parameters())
