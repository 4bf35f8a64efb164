"""What ECAPA-TDNN is made of: Res2Net layers, and blocks of them with squeeze-and-excitation."""

from __future__ import annotations

import torch
from torch import nn

from svq.nets.attention import SqueezeExcitation
from svq.nets.tdnn import TDNNLayer


class Res2Layer(nn.Module):
    """A convolution in steps: one group of channels after another, each with the result of the one before.

    (B, C, T) -> (B, C, T). Gao et al., "Res2Net: a new multi-scale backbone architecture", TPAMI 2021, section 3.1.

    Args:
        channels: C, a multiple of `scale`.
        scale: groups; one of them passes as it is.
        untouched: which: the `first` (as in the paper, and in SpeechBrain) or the `last` (WeSpeaker).
        layer: `TDNNLayer`'s arguments.
    """

    def __init__(self, channels: int, scale: int = 8, untouched: str = "last", **layer):
        super().__init__()
        if scale < 2 or channels % scale:
            raise ValueError(f"channels is {channels} and scale {scale}; scale must be at least 2 and divide channels")
        self.scale = scale
        self.untouched = untouched
        width = channels // scale
        self.parts = nn.ModuleList(TDNNLayer(width, width, **layer) for _ in range(scale - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = list(x.chunk(self.scale, dim=1))
        kept = groups.pop(0 if self.untouched == "first" else -1)
        done = []
        for part, group in zip(self.parts, groups):
            done.append(part(group + done[-1] if done else group))
        return torch.cat([kept, *done] if self.untouched == "first" else [*done, kept], dim=1)


class SERes2Block(nn.Module):
    """1x1 layer, Res2Net layer, 1x1 layer, squeeze-and-excitation, and the input added: (B, C, T) -> (B, C, T).

    Desplanques et al., "ECAPA-TDNN", section 3.2.

    Args:
        channels: C.
        bottleneck: channels inside squeeze-and-excitation.
        scale, untouched, layer: of the Res2Net layer.
    """

    def __init__(self, channels: int, bottleneck: int = 128, scale: int = 8, untouched: str = "last", **layer):
        super().__init__()
        self.reduce = TDNNLayer(channels, channels)
        self.res2 = Res2Layer(channels, scale, untouched, **layer)
        self.expand = TDNNLayer(channels, channels)
        self.se = SqueezeExcitation(channels, bottleneck)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.se(self.expand(self.res2(self.reduce(x))))
