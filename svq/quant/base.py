"""What all quantizers share: a weight's codes, the values they stand for, and what a method says of itself.

A quantizer is a parametrization: float weight in, quantized weight out, gradients straight through (eq. 5 of
Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from svq.quant.nearest import count_below, look_up, midpoints

FLOAT_BITS = 32


class Quantizer(nn.Module):
    """Base of the quantizers of one weight, of `bits` bits. A subclass says which values there are: `codebook`.

    Scales, thresholds and the like are (), or with a codebook for each output channel (C,). What is
    learned is a parameter, what is fixed or computed from the weights a buffer.
    """

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def codebook(self) -> torch.Tensor:
        """(K,) or, per channel, (C, K): the values that quantized weights take, ascending."""
        raise NotImplementedError

    def thresholds(self) -> torch.Tensor:
        """(..., K-1): where one code ends and the next one begins."""
        return midpoints(self.codebook())

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """Indices (uint8, shape of the weight) into the codebook."""
        return count_below(weight, self.thresholds()).to(torch.uint8)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The quantized weight; the gradient passes unchanged."""
        return StraightThrough.apply(weight, look_up(self.codebook(), count_below(weight, self.thresholds())))


@dataclasses.dataclass(frozen=True)
class Method:
    """What a method of quantization is to `QuantConfig`; svq.quant.quantizers.METHODS has one for each name.

    make: (weight, config, bits) -> the quantizer of one weight. settings: the fields of QuantConfig that only this method
    and others that name them have. bits: the only number of bits that it has; None: those of the config. check: raises
    ValueError for a config that it cannot follow.
    """

    make: Callable[..., Quantizer]
    settings: tuple[str, ...] = ()
    bits: int | None = None
    check: Callable[[object], None] | None = None


class StraightThrough(torch.autograd.Function):
    """The second argument, which has the shape of the first; the gradient goes to both as it is."""

    @staticmethod
    def forward(ctx, soft, hard):
        return hard.view_as(hard)

    @staticmethod
    def backward(ctx, grad):
        return grad, grad if ctx.needs_input_grad[1] else None


def scale_of(alpha: torch.Tensor) -> torch.Tensor:
    """The scale that a learned alpha stands for: |alpha|, so that levels keep their order.

    A step of the optimizer may take a small alpha below zero. Its magnitude is a scale again, and the
    gradient's sign turns with it, so that training goes on. Never quite zero, by which it is divided.
    """
    return alpha.abs().clamp(min=torch.finfo(alpha.dtype).tiny)


def along(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Values () or (C,) in a shape that broadcasts with the weight."""
    return values.view(-1, *[1] * (weight.dim() - 1)) if values.dim() else values


def sum_to(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """x summed to the shape of `values`: over all of it, or over each channel."""
    return x.sum(tuple(range(1, x.dim()))) if values.dim() else x.sum()
