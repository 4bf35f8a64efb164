"""Pooling: frame-level features to one vector per utterance."""

from __future__ import annotations

import torch
from torch import nn

VARIANCE_FLOOR = 1e-7


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time (Snyder et al., "X-vectors", ICASSP 2018, section 2.1).

    (B, C, T) -> (B, 2C). The deviation is the unbiased one; a single frame has deviation 0.
    Computed in float32 under autocast, because squares of bfloat16 lose what tells speakers apart.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        variance = x.var(dim=-1, correction=min(1, x.shape[-1] - 1))
        return torch.cat([x.mean(dim=-1), (variance + VARIANCE_FLOOR).sqrt()], dim=1)
