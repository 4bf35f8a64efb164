"""Two-dimensional residual networks over log-mel features.

He et al., "Deep residual learning for image recognition", CVPR 2016, table 1, in the form that the
speaker verification field uses: a 3x3 stem without max pooling, narrow stages, statistics pooling
(Zeinali et al., "BUT system description to VoxSRC 2019").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import StatisticsPooling


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet with basic blocks: 18 = (2, 2, 2, 2), 34 = (3, 4, 6, 3) blocks per stage.

    ResNet34 of width 32 with a 256-dim embedding has 6,634,336 parameters, of which 6,625,568 are
    convolution and linear weights; the paper that we reproduce lists it as 6.63 M (26.66 MB).

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        blocks: residual blocks in each of the four stages.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 256, width: int = 32,
                 blocks: tuple[int, int, int, int] = (3, 4, 6, 3)):
        super().__init__()
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        channels, stages = width, []
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(channels, outputs, stride))
                channels = outputs
        self.layers = nn.Sequential(*stages)
        self.pool = StatisticsPooling()
        bands = -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.embedding = nn.Linear(2 * channels * bands, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, F) log-mels -> (B, D) embeddings, not length-normalised."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.embedding(self.pool(x.flatten(1, 2)))
