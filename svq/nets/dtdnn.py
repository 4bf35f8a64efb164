"""Densely connected time delay neural network.

Yu and Li, "Densely connected time delay neural network for speaker verification", Interspeech 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import StatisticsPooling

BLOCKS = ((6, 1), (12, 3))  # layers and dilation of each dense block


class FirstLayer(nn.Module):
    """Convolution over 5 frames, batch norm, ReLU: (B, F, T) -> (B, C, T)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 5, padding=2, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class DenseLayer(nn.Module):
    """1x1 bottleneck and a convolution over 3 frames, batch norm and ReLU before each: (B, C, T) -> (B, growth, T)."""

    def __init__(self, inputs: int, bottleneck: int, growth: int, dilation: int):
        super().__init__()
        self.bn1 = nn.BatchNorm1d(inputs)
        self.conv1 = nn.Conv1d(inputs, bottleneck, 1, bias=False)
        self.bn2 = nn.BatchNorm1d(bottleneck)
        self.conv2 = nn.Conv1d(bottleneck, growth, 3, padding=dilation, dilation=dilation, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(x)))


class DenseBlock(nn.ModuleList):
    """Dense layers, each of which sees the input and all that the ones before it gave:
    (B, C, T) -> (B, C + layers growth, T)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [x]
        for layer in self:
            found.append(layer(torch.cat(found, dim=1)))
        return torch.cat(found, dim=1)


class Transit(nn.Module):
    """Batch norm, ReLU and a 1x1 convolution to half the channels: (B, C, T) -> (B, C // 2, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(channels)
        self.conv = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.relu(self.bn(x)))


class DTDNN(nn.Module):
    """D-TDNN: 6 and 12 dense layers, halved after each block, statistics pooling, affine, batch norm.

    With 30 cepstra and a 512-dim embedding 2,822,272 parameters (the paper's table 2: 2.8 M); with 80 mel
    channels 2,854,272.

    Taps: the wide frame-level layer before pooling is `block2` (1024 channels), the narrow one `transit2` (512).
    Blocks and transits end in a convolution; what follows them normalises.

    Args:
        feat_dim: channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D), the output of the last batch norm.
        width: channels of the first layer.
        growth: channels that each dense layer adds.
        bottleneck: channels inside a dense layer.
    """

    FRAME_LAYERS = ("frame1", "block1", "transit1", "block2", "transit2")
    NARROW = "transit2"
    WIDE = "block2"

    def __init__(self, feat_dim: int = 80, embed_dim: int = 512, width: int = 128, growth: int = 64,
                 bottleneck: int = 128):
        super().__init__()
        self.frame1 = FirstLayer(feat_dim, width)
        channels = width
        for number, (layers, dilation) in enumerate(BLOCKS, start=1):
            block = [DenseLayer(channels + index * growth, bottleneck, growth, dilation) for index in range(layers)]
            channels += layers * growth
            self.add_module(f"block{number}", DenseBlock(block))
            self.add_module(f"transit{number}", Transit(channels))
            channels //= 2
        self.pool = StatisticsPooling()
        self.embedding = nn.Linear(2 * channels, embed_dim, bias=False)
        self.bn = nn.BatchNorm1d(embed_dim, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, F) features -> (B, D) embeddings, not length-normalised."""
        x = x.transpose(1, 2)
        for name in self.FRAME_LAYERS:
            x = self.get_submodule(name)(x)
        return self.bn(self.embedding(self.pool(x)))


NETWORKS = {"DTDNN": DTDNN}
