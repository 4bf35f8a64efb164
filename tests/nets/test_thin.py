"""Thin and fast ResNet34 and ResNetSE34V2: the originals' embeddings, their poolings, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from formula_weights import features, fill_
from torch import nn

from svq.errors import UserError
from svq.nets import build, num_parameters
from svq.nets.seresnet import ChannelAttention, FrameAttention, SqueezeExcitation, attended

CASES = json.loads((Path(__file__).parent / "fixtures" / "originals_2d.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", [case for case in CASES if "34" in case["arch"]], ids=lambda case: case["name"])
def test_embedding_is_that_of_the_original_code(case):
    net = fill_(build(case["arch"], case["feat_dim"], len(case["embedding"]), **case["options"]))
    with torch.no_grad():
        out = net(features(case["frames"], case["feat_dim"]))[0]
    assert (out - torch.tensor(case["embedding"])).abs().max() < 1e-5


def test_there_is_a_case_of_every_network_and_pooling():
    found = {(case["arch"], case["options"]["pooling"]) for case in CASES if "34" in case["arch"]}
    assert found == {("ThinResNet34", "sap"), *((arch, pooling) for arch in ("FastResNet34", "ResNetSE34V2")
                                                for pooling in ("sap", "asp"))}


@pytest.mark.parametrize("arch", ["ThinResNet34", "FastResNet34", "ResNetSE34V2"])
def test_34_layers(arch):
    """The stem, 2 in each of 16 blocks, the embedding; shortcuts and attention are not counted."""
    with torch.device("meta"):
        net = build(arch, 64, 512)
    layers = [name for name, m in net.named_modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear))]
    assert len([name for name in layers if not {"shortcut", "se", "pool"} & set(name.split("."))]) == 34


@pytest.mark.parametrize("arch, frames", [("ThinResNet34", 8), ("FastResNet34", 16)])
def test_frames_that_are_pooled(arch, frames):
    net, seen = build(arch, 40, 8, width=4), []
    net.pool.register_forward_hook(lambda module, given, out: seen.append(given[0].shape))
    net(torch.zeros(2, 64, 40))
    assert seen == [(2, 32, frames)]


def test_attentive_statistics_double_the_embedding_layer_only():
    with torch.device("meta"):
        sap, asp = (build("FastResNet34", 40, 512, pooling=pooling) for pooling in ("sap", "asp"))
    assert num_parameters(asp) - num_parameters(sap) == 128 * 512 and f"{num_parameters(asp):,}" in asp.__doc__


@pytest.mark.parametrize("shared", [False, True])
def test_attended_against_numpy(shared):
    rng = np.random.default_rng(0)
    x, scores = rng.normal(3, 2, (2, 5, 17)), rng.normal(0, 2, (2, 1 if shared else 5, 17))
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mean = (weights * x).sum(-1)
    deviation = np.sqrt((weights * (x - mean[..., None]) ** 2).sum(-1))
    pooled = attended(torch.tensor(x).float(), torch.tensor(scores).float(), deviation=True).numpy()
    np.testing.assert_allclose(pooled, np.concatenate([mean, deviation], 1), rtol=1e-4)
    means = attended(torch.tensor(x).float(), torch.tensor(scores).float(), deviation=False).numpy()
    np.testing.assert_allclose(means, mean, rtol=1e-5)


@pytest.mark.parametrize("pool", [FrameAttention(6, True), ChannelAttention(6, 4, True)])
def test_frames_in_another_order_pool_to_the_same(pool):
    x = torch.randn(3, 6, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(pool.eval()(x.flip(-1)), pool(x))


@pytest.mark.parametrize("shape", [(2, 4, 15), (2, 4, 3, 5)])
def test_squeeze_and_excitation_scales_whole_channels(shape):
    """One factor for a channel of an utterance: other channels and other utterances have others."""
    torch.manual_seed(0)
    block, x = SqueezeExcitation(4, 2), torch.rand(2, 4, 15) * torch.tensor([1.0, 3.0]).view(2, 1, 1) + 1
    factors = (block(x.view(shape)) / x.view(shape)).flatten(2)
    torch.testing.assert_close(factors, factors[..., :1].expand_as(factors))
    assert ((0 < factors) & (factors < 1)).all() and factors[0, :, 0].unique().numel() == 4
    assert not torch.allclose(factors[0], factors[1])
    torch.testing.assert_close(block(x.view(shape)).flatten(2), block(x))


@pytest.mark.parametrize("options, words", [
    ({"pooling": "mean"}, "arch FastResNet34: pooling is 'mean'; it must be sap (means) or asp (means and deviations)"),
    ({"pooling": 1}, "'pooling' is 1; it must be a string"),
    ({"strides": [1, 1, 1, 1]}, "takes no option 'strides'; it takes: width, pooling"),
    ({"stem": "pooled"}, "takes no option 'stem'")])
def test_mistakes(options, words):
    with pytest.raises(UserError) as error:
        build("FastResNet34", 40, 512, **options)
    assert words in str(error.value)
