"""Depth-first residual networks over log-mel features.

Liu et al., "DF-ResNet: boosting speaker verification performance with depth-first design", Interspeech 2022:
blocks so cheap that the network can be three times as deep as a ResNet of its size.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import StatisticsPooling
from svq.nets.resnet import conv1x1, conv3x3

EXPANSION = 4  # of channels inside a block


class InvertedBottleneck(nn.Module):
    """A 3x3 convolution of each channel by itself between two of 1x1, and the identity: `channels` to as many."""

    def __init__(self, channels: int):
        super().__init__()
        inside = EXPANSION * channels
        self.conv1 = conv1x1(channels, inside)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = conv1x1(inside, channels)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + x)


class Downsampling(nn.Module):
    """A 3x3 convolution of stride 2 and a batch norm between two stages: `inputs` channels to `channels`."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.conv = conv3x3(inputs, channels, stride=2)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class DFResNet(nn.Module):
    """DF-ResNet of inverted bottlenecks over four stages, with a layer of its own for each halving.

    Parameters at width 32 with 80 mel channels and a 256-dim embedding, beside those of the paper:

    ============  ============  ==========  =========
    network       in a stage    parameters  published
    ============  ============  ==========  =========
    DF-ResNet56   3, 3, 9, 3     4,693,920     4.49 M
    DF-ResNet110  3, 3, 27, 3    7,177,632     6.98 M
    DF-ResNet179  3, 8, 45, 3    9,842,464     9.84 M
    DF-ResNet233  3, 8, 63, 3   12,326,176     12.3 M
    ============  ============  ==========  =========

    The first two published counts do not belong to the layout of the other two: from 110 to 179 layers five blocks of
    64 channels and 18 of 128 are added, 2.66 M, where the paper has 2.86 M. That all four networks are built
    alike is what Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization",
    table IV, bear out: 29.12 MB for DF-ResNet110 and 39.97 MB for DF-ResNet179, which are these numbers
    and the batch norms' running statistics as floats of 4 bytes (29.04 and 39.89 MB).

    Names count the stem, three layers a block and the embedding, not the downsampling.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        blocks: how many in each of the four stages.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 256, width: int = 32,
                 blocks: tuple[int, int, int, int] = (3, 3, 9, 3)):
        super().__init__()
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        layers = []
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            if stage > 0:
                layers.append(Downsampling(channels // 2, channels))
            layers += [InvertedBottleneck(channels) for _ in range(count)]
        self.layers = nn.Sequential(*layers)
        self.pool = StatisticsPooling()
        bands = -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.embedding = nn.Linear(2 * channels * bands, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, F) log-mels -> (B, D) embeddings, not length-normalised."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.embedding(self.pool(x.flatten(1, 2)))


NETWORKS = {
    "DFResNet56": partial(DFResNet, blocks=(3, 3, 9, 3)),
    "DFResNet110": partial(DFResNet, blocks=(3, 3, 27, 3)),
    "DFResNet179": partial(DFResNet, blocks=(3, 8, 45, 3)),
    "DFResNet233": partial(DFResNet, blocks=(3, 8, 63, 3)),
}
