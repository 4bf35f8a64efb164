"""ECAPA-TDNN: published sizes, parity with both published implementations, any length of input."""

import json
from pathlib import Path

import pytest
import torch
from formula_weights import features, fill_
from networks_1d import CHECKS, check_packing, check_taps
from torch import nn

from svq.errors import UserError
from svq.evaluation.operations import count_flops
from svq.nets import build, num_parameters
from svq.nets.ecapa import ECAPA, Res2Layer, SERes2Block

ORIGINALS = json.loads((Path(__file__).parent / "fixtures" / "originals_1d.json").read_text())
ARCHS = ["ECAPA512", "ECAPASpeechBrain", "ECAPALite"]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("arch, parameters, published", [
    ("ECAPA512", 6_190_720, 6.19), ("ECAPA1024", 14_657_088, 14.65), ("ECAPASpeechBrain512", 6_194_048, 6.2),
    ("ECAPASpeechBrain", 20_767_552, 20.8), ("ECAPALite", 319_066, 0.318)])
def test_published_sizes(arch, parameters, published):
    with torch.device("meta"):
        assert num_parameters(build(arch, 80, 192)) == parameters
    assert f"{parameters:,}" in ECAPA.__doc__
    assert parameters / 1e6 == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("arch, frames, millions, digits", [
    ("ECAPA512", 200, 1040, -1), ("ECAPA1024", 200, 2650, -1), ("ECAPALite", 100, 11.6, 1)])
def test_multiply_accumulates_as_published(arch, frames, millions, digits):
    """1.04 and 2.65 G for 200 frames: WeSpeaker; 11.6 M: Lin et al."""
    with torch.device("meta"):
        net = build(arch, 80, 192)
    assert round(count_flops(net, 80, frames) / 2e6, digits) == millions


@pytest.mark.parametrize("case", [name for name, row in ORIGINALS.items() if row["arch"].startswith("ECAPA")])
def test_same_embeddings_as_the_original(case):
    row = ORIGINALS[case]
    net = fill_(build(row["arch"], row["feat_dim"], row["embed_dim"], **row["options"]))
    with torch.no_grad():
        embedding = net(features(row["frames"], row["feat_dim"]))[0]
    torch.testing.assert_close(embedding, torch.tensor(row["embedding"]), rtol=0, atol=1e-5)


def test_the_two_forms_are_not_the_same_network():
    assert ORIGINALS["wespeaker-ecapa512"]["embedding"] != ORIGINALS["speechbrain-ecapa512"]["embedding"]
    assert ORIGINALS["3dspeaker-ecapa"]["embedding"] == ORIGINALS["speechbrain-ecapa"]["embedding"]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("check", CHECKS)
def test_what_is_asked_of_every_network(check, arch):
    check(arch)


@pytest.mark.parametrize("arch", ARCHS)
def test_quantized_and_packed(arch, tmp_path):
    check_packing(arch, tmp_path / "model.svq")


@pytest.mark.parametrize("arch, wide", [("ECAPA512", 48), ("ECAPASpeechBrain", 96), ("ECAPALite", 24)])
def test_taps(arch, wide):
    check_taps(arch, {"layer1": 32, "layer2": 32, "layer3": 32, "layer4": 32, "mfa": wide})
    assert (ECAPA.NARROW, ECAPA.WIDE) == ("layer4", "mfa")


@pytest.mark.parametrize("untouched, kept", [("first", slice(0, 2)), ("last", slice(6, 8))])
def test_one_group_passes_a_res2net_layer_as_it_is(untouched, kept):
    layer = Res2Layer(8, scale=4, untouched=untouched, context=3, dilation=2).eval()
    x = torch.randn(2, 8, 12)
    out = layer(x)
    assert len(layer.parts) == 3 and torch.equal(out[:, kept], x[:, kept])
    changed = [group for group in range(4) if not torch.equal(out[:, 2 * group : 2 * group + 2],
                                                              x[:, 2 * group : 2 * group + 2])]
    assert len(changed) == 3


@pytest.mark.parametrize("untouched, groups", [("first", [1, 2, 3]), ("last", [0, 1, 2])])
def test_each_group_of_a_res2net_layer_sees_those_before_it(untouched, groups):
    layer = Res2Layer(4, scale=4, untouched=untouched, context=3).eval()
    for part in layer.parts:  # the identity of what is positive
        nn.init.zeros_(part.conv.weight)
        part.conv.weight.data[0, 0, 1] = 1
        nn.init.zeros_(part.conv.bias)
    x = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1).expand(1, 4, 5)
    out, total = layer(x)[0, :, 0], 0.0
    for group in groups:
        total += 2.0**group
        assert out[group].item() == pytest.approx(total, rel=1e-4)


def test_a_block_is_added_to_its_input():
    block = SERes2Block(16, 4, 8, context=3).eval()
    nn.init.zeros_(block.expand.conv.weight)
    nn.init.zeros_(block.expand.conv.bias)
    x = torch.randn(2, 16, 7)
    assert torch.equal(block(x), x)


def test_the_last_three_layers_are_aggregated():
    """Each of layer2, layer3 and layer4 has weights of its own in `mfa`."""
    net = build("ECAPA512", 20, 8, channels=16, wide=8, squeeze=4, attention=4)
    assert net.mfa.conv.in_channels == 3 * 16


@pytest.mark.parametrize("options, words", [
    ({"form": "kaldi"}, "arch ECAPA512: form is 'kaldi'; it must be one of wespeaker, speechbrain"),
    ({"channels": 100}, "channels is 100 and scale 8; scale must be at least 2 and divide channels"),
    ({"scale": 1}, "scale must be at least 2"),
    ({"channels": -8}, "must be a positive integer"),
    ({"global_context": "yes"}, "must be true or false"),
    ({"groups": 2}, "takes no option 'groups'")])
def test_mistakes(options, words):
    with pytest.raises(UserError) as error:
        build("ECAPA512", 80, 192, **options)
    assert words in str(error.value) and "\n" not in str(error.value)
