"""What weighs features by what they hold: squeeze-and-excitation over channels, attention over frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class SqueezeExcitation(nn.Module):
    """Every channel times a factor between 0 and 1, which the means of all channels set.

    (B, C, T) -> (B, C, T), or maps (B, C, F, T) -> (B, C, F, T). Hu et al., "Squeeze-and-excitation networks", CVPR
    2018, section 3.

    Args:
        channels: C.
        hidden: outputs of the first of the two linear layers.
        activation: between the two.
    """

    def __init__(self, channels: int, hidden: int, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.squeeze = nn.Linear(channels, hidden)
        self.activation = activation()
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean(dim=tuple(range(2, x.dim())))
        factors = torch.sigmoid(self.excite(self.activation(self.squeeze(means))))
        return x * factors.view(*factors.shape, *[1] * (x.dim() - 2))


def attended(x: torch.Tensor, scores: torch.Tensor, deviation: bool, floor: float = 1e-5) -> torch.Tensor:
    """Means over time of `x` (B, C, T) with the weights softmax(scores), and with `deviation` their deviations.

    scores: (B, C, T), or (B, 1, T) for weights that all channels share; a softmax over T makes them sum to 1.
    Returns (B, C), or (B, 2C) with the standard deviations behind the means, whose squares are at least `floor`.
    Computed in float32 under autocast: a difference of squares has few digits left in bfloat16.
    """
    x, weights = x.float(), F.softmax(scores.float(), dim=-1)
    mean = (x * weights).sum(dim=-1)
    if not deviation:
        return mean
    variance = (x.square() * weights).sum(dim=-1) - mean.square()
    return torch.cat([mean, variance.clamp(min=floor).sqrt()], dim=1)


def init_he_(net: nn.Module) -> None:
    """He's initialisation of every 2-d convolution, by its outputs; other layers keep torch's."""
    for module in net.modules():
        # Where there are shapes only, drawing nothing takes torch seconds: it first imports what it compiles with.
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
