"""Ternary weights.

Li, Liu et al., "Ternary weight networks", 2016.
"""

from __future__ import annotations

import torch

from svq.quant.base import Quantizer

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
