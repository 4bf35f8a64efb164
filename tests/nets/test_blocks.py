"""Blocks: every quantizable layer of every network in just one of them, in order, and named as the networks are."""

import pytest
import torch
from torch import nn

from svq.nets import ARCHITECTURES, build, usual_sizes
from svq.nets.blocks import blocks_of, titles_of
from svq.quant import QuantConfig, quantize_
from svq.quant.api import quantizable


def network(arch, **options):
    with torch.device("meta"):
        return build(arch, *usual_sizes(arch), **options)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_layer_is_in_one_block(arch):
    net = network(arch)
    layers = [name for name, _ in quantizable(net)]
    for level in ("block", "layer"):
        blocks = blocks_of(net, level)
        assert [layer for block in blocks.values() for layer in block] == layers
        assert all(layer == name or layer.startswith(f"{name}.") for name, block in blocks.items() for layer in block)
    assert list(blocks) == layers
    assert 2 <= len(blocks_of(net)) <= len(layers)
    titles = titles_of(net, blocks_of(net))
    assert list(titles) == list(blocks_of(net)) and len(set(titles.values())) == len(titles)


@pytest.mark.parametrize("arch", ["ECAPA512", "ECAPASpeechBrain", "ECAPALite"])
def test_ecapa(arch):
    net = network(arch)
    assert list(blocks_of(net)) == ["layer1", "layer2", "layer3", "layer4", "mfa", "pool", "embedding"]
    titles = titles_of(net, blocks_of(net))
    assert [titles[f"layer{i}"] for i in (2, 3, 4)] == [f"SERes2Block {i}" for i in (1, 2, 3)]


@pytest.mark.parametrize("arch, options, first, last, count", [
    ("ResNet34", {}, "conv1", "embedding", 1 + 16 + 1),
    ("ResNet18", {"second_layer": True}, "conv1", "second.2", 1 + 8 + 2),
    ("DFResNet56", {}, "conv1", "embedding", 1 + 18 + 3 + 1),
    ("DTDNN", {}, "frame1", "embedding", 6),
    ("CAMPPlus", {}, "head", "embedding", 9),
    ("ERes2NetBase", {}, "conv1", "embedding", 1 + 16 + 3 + 3 + 1),
    ("ERes2NetV2", {"second_layer": True}, "conv1", "second.2", 1 + 16 + 1 + 1 + 2),
    ("FCStudent", {}, "hidden.0", "embedding", 8),
    ("XVector", {}, "frame1", "segment2", 7),
])
def test_blocks_are_what_a_reader_expects(arch, options, first, last, count):
    blocks = list(blocks_of(network(arch, **options)))
    assert (blocks[0], blocks[-1], len(blocks)) == (first, last, count)


def test_a_quantized_network_has_the_same_blocks():
    net = nn.ModuleDict({"stem": nn.Conv1d(4, 4, 3), "rest": nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(4, 2)))})
    before = blocks_of(net), titles_of(net, blocks_of(net))
    assert before == ({"stem": ["stem"], "rest.1.0": ["rest.1.0"]}, {"stem": "Conv1d", "rest.1.0": "Linear"})
    quantize_(net, QuantConfig("uniform", 4))
    assert (blocks_of(net), titles_of(net, blocks_of(net))) == before


def test_another_level_is_refused():
    with pytest.raises(ValueError, match="level is 'stage'; it must be one of block, layer"):
        blocks_of(nn.Linear(2, 2), "stage")
