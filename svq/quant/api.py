"""`quantize_(net, config)`: quantizers on the weights of any network; `quantized_layers`: a look inside."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

from svq.errors import UserError
from svq.quant.quantizers import KMeansQuantizer

QUANTIZED_MODULES = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclasses.dataclass(frozen=True)
class QuantConfig:
    """How weights are quantized.

    method: `kmqat`, k-means levels with a learned scale (Liu et al., section III-B).
    bits: bits per weight, 1 to 8.
    retention: share of the weights, round the centre, that the levels are fitted to.
    """

    method: Literal["kmqat"] = "kmqat"
    bits: int = 4
    retention: float = 0.9

    def __post_init__(self):
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits is {self.bits}; it must be from 1 to 8")
        if not 0 < self.retention <= 1:
            raise ValueError(f"retention is {self.retention}; it must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """One quantized weight: `name` of its module, float weights, codebook (ascending), bits."""

    name: str
    weight: np.ndarray
    levels: np.ndarray
    bits: int


def quantize_(net: nn.Module, config: QuantConfig) -> nn.Module:
    """Quantizes, in place, every convolution and linear weight of `net`; returns `net`.

    Biases and batch norm stay in float. The float weights stay as the trained parameters
    (`module.parametrizations.weight.original`). Raises UserError if `net` is quantized already.
    """
    layers = [(name, m) for name, m in net.named_modules() if isinstance(m, QUANTIZED_MODULES)]
    for name, module in layers:
        if parametrize.is_parametrized(module, "weight"):
            raise UserError(f"layer {name} is quantized already; quantize a float network")
    for _, module in layers:
        quantizer = KMeansQuantizer(module.weight, config.bits, config.retention)
        parametrize.register_parametrization(module, "weight", quantizer)
    return net


def quantizers(net: nn.Module):
    """Yields (name, module, quantizer) for every quantized weight, in the order of the network."""
    for name, module in net.named_modules():
        if isinstance(module, QUANTIZED_MODULES) and parametrize.is_parametrized(module, "weight"):
            yield name, module, module.parametrizations.weight[0]


def quantized_layers(net: nn.Module) -> list[QuantizedLayer]:
    """The quantized layers of `net` as arrays, for reports."""
    return [
        QuantizedLayer(name, float_weight(module).detach().cpu().numpy(), q.codebook().cpu().numpy(), q.bits)
        for name, module, q in quantizers(net)
    ]


def float_weight(module: nn.Module):
    """The float weight behind a quantized one."""
    return module.parametrizations.weight.original


def average_bits(net: nn.Module) -> float:
    """Bits per convolution or linear weight; 32 for those in float."""
    total = bits = 0
    for module in net.modules():
        if isinstance(module, QUANTIZED_MODULES):
            quantized = parametrize.is_parametrized(module, "weight")
            count = (float_weight(module) if quantized else module.weight).numel()
            total += count
            bits += count * (module.parametrizations.weight[0].bits if quantized else 32)
    return bits / total if total else 32.0
