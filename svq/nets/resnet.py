"""Two-dimensional residual networks over log-mel features.

He et al., "Deep residual learning for image recognition", CVPR 2016, table 1, in the form that the
speaker verification field uses: a 3x3 stem without max pooling, narrow stages, statistics pooling
(Zeinali et al., "BUT system description to VoxSRC 2019").
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import VARIANCE_FLOOR, make_pooling


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


def stages(block: type[nn.Module], width: int, blocks: tuple[int, ...],
           strides: tuple[int, ...] = (1, 2, 2, 2)) -> nn.Sequential:
    """Makes the blocks of four stages, one after another: `width` channels, doubled from stage to stage.

    block: their class, which gives `expansion` times those channels. blocks, strides: number of blocks in each stage,
    and stride of its first one in both directions.
    """
    inputs, made = width, []
    for stage, (count, stride) in enumerate(zip(blocks, strides)):
        for index in range(count):
            made.append(block(inputs, width * 2**stage, stride if index == 0 else 1))
            inputs = width * 2**stage * block.expansion
    return nn.Sequential(*made)


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
        variance_floor: argument of the pooling; 3D-Speaker's networks have 1e-8, and 1e-10 with attention.
        pooling: one of svq.nets.pooling.POOLINGS: `tstp`, means and deviations; `tap`, means; `tsdp`, deviations;
            `astp`, `mhastp` and `mqmhastp`, attentive statistics. ResNet34 then has 6,634,336, 5,978,976, 5,978,976,
            7,292,384, 6,798,434 and 8,606,560 parameters.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 256, width: int = 32,
                 block: type[BasicBlock] | type[BottleneckBlock] = BasicBlock,
                 blocks: tuple[int, int, int, int] = (3, 4, 6, 3), second_layer: bool = False,
                 variance_floor: float = VARIANCE_FLOOR, pooling: str = "tstp"):
        super().__init__()
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = stages(block, width, blocks)
        bands = -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.pool, pooled = make_pooling(pooling, 8 * width * block.expansion * bands, variance_floor)
        self.embedding = nn.Linear(pooled, embed_dim)
        self.second = second_embedding(embed_dim) if second_layer else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        x = self.embedding(self.pool(x.flatten(1, 2)))
        return x if self.second is None else self.second(x)


NETWORKS = {
    "ResNet18": partial(ResNet, block=BasicBlock, blocks=(2, 2, 2, 2)),
    "ResNet34": partial(ResNet, block=BasicBlock, blocks=(3, 4, 6, 3)),
    "ResNet50": partial(ResNet, block=BottleneckBlock, blocks=(3, 4, 6, 3)),
    "ResNet101": partial(ResNet, block=BottleneckBlock, blocks=(3, 4, 23, 3)),
    "ResNet152": partial(ResNet, block=BottleneckBlock, blocks=(3, 8, 36, 3)),
    "ResNet221": partial(ResNet, block=BottleneckBlock, blocks=(6, 16, 48, 3)),
    "ResNet293": partial(ResNet, block=BottleneckBlock, blocks=(10, 20, 64, 3)),
}
