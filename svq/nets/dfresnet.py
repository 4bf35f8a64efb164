"""Depth-first residual networks over log-mel features: blocks so cheap that there can be three times as many.

Liu et al., "DF-ResNet: boosting speaker verification performance with depth-first design", Interspeech 2022.

Liu et al., "Golden Gemini is all you need: finding the sweet spots for speaker verification", IEEE/ACM TASLP 2024:
the same blocks, where frequency is halved four times, the first time before the first block, and time but once.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import VARIANCE_FLOOR, make_pooling
from svq.nets.resnet import conv1x1, conv3x3, second_embedding

EXPANSION = 4  # times as many channels inside an inverted bottleneck


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
    """A 3x3 convolution and a batch norm before a stage: `inputs` channels to `channels`.

    stride: over frequency and over time; an integer is both.
    """

    def __init__(self, inputs: int, channels: int, stride: int | tuple[int, int] = 2):
        super().__init__()
        self.conv = conv3x3(inputs, channels, stride)
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

    Gemini DF-ResNets, where the strides over frequency are 2 in all four stages and those over time 2 in the second
    alone:

    ====================  ============  ==========  =========
    network               in a stage    parameters  published
    ====================  ============  ==========  =========
    Gemini DF-ResNet60    3, 3, 9, 3     4,047,840          -
    Gemini DF-ResNet114   3, 3, 27, 3    6,531,552     6.53 M
    Gemini DF-ResNet183   3, 8, 45, 3    9,196,384          -
    Gemini DF-ResNet237   3, 8, 63, 3   11,680,096          -
    ====================  ============  ==========  =========

    Names count the stem, three layers a block and the embedding; those of Gemini DF-ResNets the four layers between the
    stages, too.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        blocks: number of blocks in each of the four stages.
        strides: strides over frequency and time before each stage; None: there is no layer before it.
        second_layer: whether a second embedding layer follows, as in `svq.nets.resnet.ResNet`.
        variance_floor: argument of the pooling.
        pooling: one of svq.nets.pooling.POOLINGS.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 256, width: int = 32,
                 blocks: tuple[int, int, int, int] = (3, 3, 9, 3),
                 strides: tuple[tuple[int, int] | None, ...] = (None, (2, 2), (2, 2), (2, 2)),
                 second_layer: bool = False, variance_floor: float = VARIANCE_FLOOR, pooling: str = "tstp"):
        super().__init__()
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        layers, inputs, bands = [], width, feat_dim
        for stage, (count, stride) in enumerate(zip(blocks, strides)):
            channels = width * 2**stage
            if stride is not None:
                layers.append(Downsampling(inputs, channels, stride))
                bands = -(-bands // stride[0])
            layers += [InvertedBottleneck(channels) for _ in range(count)]
            inputs = channels
        self.layers = nn.Sequential(*layers)
        self.pool, pooled = make_pooling(pooling, channels * bands, variance_floor)
        self.embedding = nn.Linear(pooled, embed_dim)
        self.second = second_embedding(embed_dim) if second_layer else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        x = self.embedding(self.pool(x.flatten(1, 2)))
        return x if self.second is None else self.second(x)


GEMINI_STRIDES = ((2, 1), (2, 2), (2, 1), (2, 1))
GEMINI = {
    "GeminiDFResNet60": partial(DFResNet, blocks=(3, 3, 9, 3), strides=GEMINI_STRIDES),
    "GeminiDFResNet114": partial(DFResNet, blocks=(3, 3, 27, 3), strides=GEMINI_STRIDES),
    "GeminiDFResNet183": partial(DFResNet, blocks=(3, 8, 45, 3), strides=GEMINI_STRIDES),
    "GeminiDFResNet237": partial(DFResNet, blocks=(3, 8, 63, 3), strides=GEMINI_STRIDES),
}
NETWORKS = {
    "DFResNet56": partial(DFResNet, blocks=(3, 3, 9, 3)),
    "DFResNet110": partial(DFResNet, blocks=(3, 3, 27, 3)),
    "DFResNet179": partial(DFResNet, blocks=(3, 8, 45, 3)),
    "DFResNet233": partial(DFResNet, blocks=(3, 8, 63, 3)),
} | GEMINI
