"""Choices of layers to quantize that papers recommend, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from svq.bits.table import LayerBits
from svq.errors import UserError
from svq.nets.blocks import blocks_of
from svq.nets.ecapa_blocks import SERes2Block
from svq.quant.api import FLOAT_BITS, float_weight, quantizable


@dataclasses.dataclass(frozen=True)
class Preset:
    """left_in_float: a network -> names of the blocks that stay in float; empty where it is not for that network.

    bits: of all other layers. networks: which it is for, in words. source: who recommends it.
    """

    bits: int
    left_in_float: Callable[[nn.Module], list[str]]
    networks: str
    source: str


def _later_se_res2_blocks(net: nn.Module) -> list[str]:
    blocks = [name for name in blocks_of(net) if isinstance(net.get_submodule(name), SERes2Block)]
    return blocks[1:3] if len(blocks) == 3 else []


PRESETS = {
    "ecapa-selective": Preset(
        8, _later_se_res2_blocks, "ECAPA-TDNN",
        "all but the second and third SE-Res2Block at 8 bits: Optimization of DNN-based speaker verification model "
        "through efficient quantization technique, arXiv 2407.08991"),
}


def float_blocks(name: str, net: nn.Module) -> list[str]:
    """Names of the blocks of `net` that the preset leaves in float; UserError for one that is not for this network."""
    if name not in PRESETS:
        raise UserError(f"preset '{name}' is unknown; known: {', '.join(PRESETS)}")
    blocks = PRESETS[name].left_in_float(net)
    if not blocks:
        raise UserError(f"preset {name} is for {PRESETS[name].networks}; this network is a {type(net).__name__}")
    return blocks


def preset_bits(name: str, net: nn.Module, bits: int | None = None) -> list[LayerBits]:
    """The preset's bits of every layer of `net`, as rows of a bits.tsv; `bits` in place of the preset's own."""
    bits = PRESETS[name].bits if bits is None and name in PRESETS else bits
    return bits_rows(net, float_blocks(name, net), bits)


def bits_rows(net: nn.Module, left_in_float, bits: int, level: str = "block") -> list[LayerBits]:
    """Rows of a bits.tsv: `bits` for every layer, 32 for those of the blocks named in `left_in_float`."""
    blocks = blocks_of(net, level)
    kept = {layer for name in left_in_float for layer in blocks[name]}
    return [LayerBits(name, tuple(float_weight(layer).shape), None, FLOAT_BITS if name in kept else bits)
            for name, layer in quantizable(net)]
