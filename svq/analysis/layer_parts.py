"""The parts of a network that are quantized together or left in float: stages, blocks or single layers."""

from __future__ import annotations

import dataclasses
import itertools

from torch import nn

from svq.nets.blocks import LISTS, blocks_of, module_of, titles_of
from svq.quant.api import float_weight, quantizable

LEVELS = ("stage", "block", "layer")


@dataclasses.dataclass(frozen=True)
class Part:
    """Layers that belong together. name: `layers.2-5` for members 2 to 5 of a list. kind: what it is, to read.
    layers: names of its layers. end: the module whose output is the part's; of a recurrent module's matrices the
    module, which is then the end of each of them."""

    name: str
    kind: str
    layers: tuple[str, ...]
    end: str


def parts_of(net: nn.Module, level: str) -> list[Part]:
    """The parts of `net`, in its order; every layer that can be quantized lies in just one.

    level `layer` and `block`: those of svq.nets.blocks. `stage`: neighbouring blocks of one list that are of the same
    class and as wide make one stage, as the four of a ResNet; every other block is a stage by itself (the stem,
    the pooling, the embedding). ValueError for another level.
    """
    if level not in LEVELS:
        raise ValueError(f"level is '{level}'; it must be one of {', '.join(LEVELS)}")
    blocks = blocks_of(net, "layer" if level == "layer" else "block")
    titles = titles_of(net, blocks)
    if level != "stage":
        return [Part(name, titles[name], tuple(layers), module_of(net, name)) for name, layers in blocks.items()]
    grouped = itertools.groupby(blocks, key=lambda name: _stage_of(net, name, blocks[name]))
    stages = [list(names) for _, names in grouped]
    return [Part(_joined(names), _kind(net, names, titles), tuple(layer for name in names for layer in blocks[name]),
                 names[-1]) for names in stages]


def _stage_of(net: nn.Module, block: str, layers: list[str]) -> tuple:
    """What blocks of one stage share."""
    parent = block.rpartition(".")[0]
    if not parent or type(net.get_submodule(parent)) not in LISTS:
        return (block,)
    weights = dict(quantizable(net))
    return parent, type(net.get_submodule(block)), float_weight(weights[layers[-1]]).shape[0]


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1].rpartition('.')[2]}"


def _kind(net: nn.Module, names: list[str], titles: dict[str, str]) -> str:
    return titles[names[0]] if len(names) == 1 else f"{len(names)} x {type(net.get_submodule(names[0])).__name__}"
