"""Two-dimensional residual networks over log-mel features, and depth-first ones.

He et al., "Deep residual learning for image recognition", CVPR 2016, table 1, in the form that the
speaker verification field uses: a 3x3 stem without max pooling, narrow stages, statistics pooling
(Zeinali et al., "BUT system description to VoxSRC 2019").

Liu et al., "DF-ResNet: boosting speaker verification performance with depth-first design", Interspeech 2022:
blocks so cheap that the network can be three times as deep as a ResNet of its size.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import VARIANCE_FLOOR, StatisticsPooling

EXPANSION = 4  # times as many channels inside an inverted bottleneck


Stride = int | tuple[int, int]  # of frequency and time, where they differ


def conv3x3(inputs: int, outputs: int, stride: Stride = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: Stride = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)


def shortcut(inputs: int, outputs: int, stride: Stride) -> nn.Sequential:
    """Makes a shortcut: the identity, or a 1x1 convolution and a batch norm where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs))


def second_embedding(embed_dim: int) -> nn.Sequential:
    """Makes what follows a first embedding layer where there are two: ReLU, batch norm, linear: (B, D) -> (B, D)."""
    return nn.Sequential(nn.ReLU(), nn.BatchNorm1d(embed_dim, affine=False), nn.Linear(embed_dim, embed_dim))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: `inputs` channels to `channels`."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: Stride):
        super().__init__()
        self.conv1 = conv3x3(inputs, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = shortcut(inputs, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """A 3x3 convolution, with the stride, between two of 1x1, and a shortcut: `inputs` channels to 4 `channels`."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        outputs = self.expansion * channels
        self.conv1 = conv1x1(inputs, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet of basic or bottleneck blocks over four stages.

    Parameters at width 32 with 80 mel channels and a 256-dim embedding, and how many of them are convolution and
    linear weights, which are quantized:

    =========  ==========  =============  ==========  ==========
    network    blocks      in a stage     parameters     weights
    =========  ==========  =============  ==========  ==========
    ResNet18   basic       2, 2, 2, 2      4,105,440   4,100,384
    ResNet34   basic       3, 4, 6, 3      6,634,336   6,625,568
    ResNet50   bottleneck  3, 4, 6, 3     11,131,360  11,104,544
    ResNet101  bottleneck  3, 4, 23, 3    15,892,448  15,839,520
    ResNet152  bottleneck  3, 8, 36, 3    19,814,880  19,738,912
    ResNet221  bottleneck  6, 16, 48, 3   23,792,224  23,690,528
    ResNet293  bottleneck  10, 20, 64, 3  28,626,016  28,495,136
    =========  ==========  =============  ==========  ==========

    Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization", table III, give
    ResNet34 26.66 MB and ResNet101 63.86 MB; these parameters and the batch norms' running statistics, as floats of 4
    bytes, make 26.57 and 63.78 MB. WeSpeaker counts 6.63, 11.13, 15.89, 19.81, 23.79 and 28.62 M from ResNet34 on.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage's 3x3 convolutions; the later ones have 2, 4 and 8 times as many.
        block: class of the blocks; each gives `expansion` times those channels.
        blocks: number of blocks in each of the four stages.
        second_layer: whether ReLU, batch norm (without scale and shift) and one more linear layer follow the embedding
            layer, as in Kaldi's x-vector; the embedding is then the output of that layer.
        variance_floor: argument of the statistics pooling; 3D-Speaker's networks have 1e-8.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 256, width: int = 32,
                 block: type[BasicBlock] | type[BottleneckBlock] = BasicBlock,
                 blocks: tuple[int, int, int, int] = (3, 4, 6, 3), second_layer: bool = False,
                 variance_floor: float = VARIANCE_FLOOR):
        super().__init__()
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        channels, stages = width, []
        for stage, count in enumerate(blocks):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                stages.append(block(channels, width * 2**stage, stride))
                channels = width * 2**stage * block.expansion
        self.layers = nn.Sequential(*stages)
        self.pool = StatisticsPooling(variance_floor)
        bands = -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.embedding = nn.Linear(2 * channels * bands, embed_dim)
        self.second = second_embedding(embed_dim) if second_layer else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        x = self.embedding(self.pool(x.flatten(1, 2)))
        return x if self.second is None else self.second(x)

class InvertedBottleneck(nn.Module):
    """A 3x3 convolution of each channel by itself between two of 1x1, and the identity: `channels` to `channels`."""

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
    """DF-ResNet of inverted bottlenecks over four stages, with a separate layer for each halving.

    Parameters at width 32 with 80 mel channels and a 256-dim embedding, beside those of the paper:

    ============  ============  ==========  =========
    network       in a stage    parameters  published
    ============  ============  ==========  =========
    DF-ResNet56   3, 3, 9, 3     4,693,920     4.49 M
    DF-ResNet110  3, 3, 27, 3    7,177,632     6.98 M
    DF-ResNet179  3, 8, 45, 3    9,842,464     9.84 M
    DF-ResNet233  3, 8, 63, 3   12,326,176     12.3 M
    ============  ============  ==========  =========

    The first two published counts do not fit the layout of the other two: from 110 to 179 layers five blocks of
    64 channels and 18 of 128 are added, 2.66 M parameters, where the paper has 2.86 M. Liu et al., "Towards lightweight
    speaker verification via adaptive neural network quantization", table IV, confirm that all four networks are built
    alike: they give 29.12 MB for DF-ResNet110 and 39.97 MB for DF-ResNet179; these parameters and the batch norms'
    running statistics, as floats of 4 bytes, make 29.04 and 39.89 MB.

    Names count the stem, three layers a block and the embedding, not the downsampling.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        blocks: number of blocks in each of the four stages.
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
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.embedding(self.pool(x.flatten(1, 2)))


RESNETS = {
    "ResNet18": partial(ResNet, block=BasicBlock, blocks=(2, 2, 2, 2)),
    "ResNet34": partial(ResNet, block=BasicBlock, blocks=(3, 4, 6, 3)),
    "ResNet50": partial(ResNet, block=BottleneckBlock, blocks=(3, 4, 6, 3)),
    "ResNet101": partial(ResNet, block=BottleneckBlock, blocks=(3, 4, 23, 3)),
    "ResNet152": partial(ResNet, block=BottleneckBlock, blocks=(3, 8, 36, 3)),
    "ResNet221": partial(ResNet, block=BottleneckBlock, blocks=(6, 16, 48, 3)),
    "ResNet293": partial(ResNet, block=BottleneckBlock, blocks=(10, 20, 64, 3)),
}
NETWORKS = RESNETS | {
    "DFResNet56": partial(DFResNet, blocks=(3, 3, 9, 3)),
    "DFResNet110": partial(DFResNet, blocks=(3, 3, 27, 3)),
    "DFResNet179": partial(DFResNet, blocks=(3, 8, 45, 3)),
    "DFResNet233": partial(DFResNet, blocks=(3, 8, 63, 3)),
}
