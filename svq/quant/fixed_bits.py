"""Quantizers whose bits are fixed: ternary weights, and the static and the adaptive binary one.

Ternary: Li, Liu et al., "Ternary weight networks", 2016. Binary: Liu et al., "Towards lightweight speaker verification
via adaptive neural network quantization", section V.
"""

from __future__ import annotations

import torch
from torch import nn

from svq.quant.base import Quantizer, StraightThrough, along, scale_of

SHARE = 0.7


class TernaryQuantizer(Quantizer):
    """-alpha, 0 or alpha, in 2 bits: nothing is learned but the float weights.

    A weight becomes 0 up to 0.7 times the mean magnitude, and alpha is the mean magnitude of the others.
    Both are computed from the weights at every forward in training mode and kept; in eval mode the last
    ones are used, so that codebook, codes and forward agree whatever comes first.
    """

    def __init__(self, weight: torch.Tensor, per_channel: bool = False):
        super().__init__(2)
        values = torch.zeros(len(weight) if per_channel else (), dtype=weight.dtype, device=weight.device)
        self.register_buffer("threshold", values)
        self.register_buffer("alpha", values.clone())
        self.refit(weight)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.refit(weight)
        return super().forward(weight)

    def codebook(self) -> torch.Tensor:
        return torch.stack([-self.alpha, torch.zeros_like(self.alpha), self.alpha], -1)

    def thresholds(self) -> torch.Tensor:
        # Codes count thresholds strictly below a weight: a weight of exactly -threshold is not below it.
        lower = torch.nextafter(-self.threshold, torch.full_like(self.threshold, -float("inf")))
        return torch.stack([lower, self.threshold], -1)

    @torch.no_grad()
    def refit(self, weight: torch.Tensor) -> None:
        """Threshold and alpha of the present weights."""
        magnitude = weight.detach().abs()
        over = tuple(range(1, weight.dim())) if self.alpha.dim() else tuple(range(weight.dim()))
        threshold = magnitude.mean(over, keepdim=True) * SHARE
        above = magnitude > threshold
        self.threshold.copy_(threshold.view_as(self.threshold))
        self.alpha.copy_(magnitude.mul_(above).sum(over) / above.sum(over).clamp(min=1))


class StaticBinaryQuantizer(Quantizer):
    """-alpha or alpha by the sign of the weight (section V-A); alpha is learned, from the mean magnitude on.

    The weight is divided by its mean magnitude (eq. 10), clipped to [-1, 1] and rounded to -1 or 1
    (eq. 11), zero to -1, and multiplied by alpha (eq. 12). Gradients are those of these equations with
    the rounding passed straight through: a weight beyond the mean magnitude, being clipped, gets none
    but what reaches it through the mean.
    """

    def __init__(self, weight: torch.Tensor, per_channel: bool = False):
        super().__init__(1)
        self.alpha = nn.Parameter(_mean(weight.abs(), per_channel))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        mean = _mean(weight.abs(), bool(self.alpha.dim())).clamp(min=torch.finfo(weight.dtype).tiny)
        clipped = (weight / along(mean, weight)).clamp(-1, 1)
        return StraightThrough.apply(clipped, _signs(weight > 0, weight)) * along(scale_of(self.alpha), weight)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        scale = scale_of(self.alpha)
        return torch.stack([-scale, scale], -1)


class AdaptiveBinaryQuantizer(Quantizer):
    """beta - alpha below beta, beta + alpha above it (section V-B, eq. 13); beta itself takes the lower.

    Both are learned, starting from the mean (eq. 14) and the standard deviation (eq. 16) of the weights.
    Their gradients are those of eq. 13, with each weight on its side of beta; to the weights the
    gradient passes unchanged (eq. 5).
    """

    def __init__(self, weight: torch.Tensor, per_channel: bool = False):
        super().__init__(1)
        centre = _mean(weight, per_channel)
        self.beta = nn.Parameter(centre)
        self.alpha = nn.Parameter(_mean((weight - along(centre, weight)).square(), per_channel).sqrt())

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        beta = along(self.beta, weight)
        return StraightThrough.apply(weight, _signs(weight > beta, weight) * along(scale_of(self.alpha), weight) + beta)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        scale = scale_of(self.alpha)
        return torch.stack([self.beta - scale, self.beta + scale], -1)

    @torch.no_grad()
    def thresholds(self) -> torch.Tensor:
        return self.beta[..., None]


def _mean(x: torch.Tensor, per_channel: bool) -> torch.Tensor:
    """The mean of all of x, (), or of each x[i], (C,)."""
    return x.mean(tuple(range(1, x.dim()))) if per_channel else x.mean()


def _signs(positive: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """1 where `positive`, else -1."""
    return positive.to(like.dtype).mul_(2).sub_(1)
