"""Weights drawn to quantized ones by the alternating direction method of multipliers (ADMM).

Leng et al., "Extremely low bit neural network: squeeze the last bit out with ADMM", AAAI 2018.
"""

from __future__ import annotations

import torch

from svq.quant.base import Quantizer
from svq.quant.nearest import count_below, least_squares_scale, look_up, midpoints


class ADMMQuantizer(Quantizer):
    """Uniform levels times a scale, reached by training in float with a penalty.

    In training mode the float weight W passes as it is, and to its gradient that of the augmented
    Lagrangian is added, rho / mean(W0^2) * (W - G + U), once for every backward pass: G are quantized
    weights, U the scaled multipliers, W0 the weights at the start. Relative to the mean square, the penalty
    weighs the same in a layer of small weights as in one of large weights. In SGD it shrinks W - G + U by
    the learning rate times rho / mean(W0^2) at a step, which must stay well below 1.

    `outer_update`, between epochs, does G = the levels nearest to W + U, their scale fitted by least squares,
    and U = U + W - G; at the start U is 0. In eval mode forward returns W quantized, with a scale fitted to W at the latest
    update. Nothing is learned but W; G - U and U are buffers of its shape, so that a checkpoint holds them.
    """

    def __init__(self, weight: torch.Tensor, bits: int, levels, rho: float, per_channel: bool = False):
        super().__init__(bits)
        self.per_channel = per_channel
        self.register_buffer("levels", torch.as_tensor(levels).to(weight))
        self.register_buffer("alpha", least_squares_scale(weight, self.levels, per_channel))
        square = weight.square().mean()
        self.register_buffer("strength", torch.where(square > 0, rho / square, 0.0))
        self.register_buffer("multipliers", torch.zeros_like(weight))
        self.register_buffer("target", self._nearest(weight, self.alpha))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.training:
            return _Penalized.apply(weight, self.target, self.strength)
        return super().forward(weight)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        return self.levels * self.alpha[..., None]

    @torch.no_grad()
    def outer_update(self, weight: torch.Tensor) -> None:
        """G = projection of W + U, U = U + W - G, with the present weight W."""
        total = weight + self.multipliers
        projected = self._nearest(total, least_squares_scale(total, self.levels, self.per_channel))
        self.multipliers.copy_(total - projected)
        self.target.copy_(projected - self.multipliers)
        self.refit(weight)

    @torch.no_grad()
    def refit(self, weight: torch.Tensor) -> None:
        """The scale of the quantized weights, fitted to the weight."""
        self.alpha.copy_(least_squares_scale(weight, self.levels, self.per_channel))

    def _nearest(self, weight: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """The weight on the nearest of alpha times the levels."""
        table = self.levels * alpha[..., None]
        return look_up(table, count_below(weight, midpoints(table)))


class _Penalized(torch.autograd.Function):
    """The weight; strength * (weight - target) is added to its gradient."""

    @staticmethod
    def forward(ctx, weight, target, strength):
        ctx.save_for_backward(weight, target, strength)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx, grad):
        weight, target, strength = ctx.saved_tensors
        return torch.addcmul(grad, weight - target, strength), None, None
