"""RepVGG over log-mel features: trained with branches beside every convolution, used with the convolutions alone.

Ding et al., "RepVGG: making VGG-style ConvNets great again", CVPR 2021: what a 3x3 convolution, one of 1x1 and the
identity, each with its batch norm, add up to is one 3x3 convolution with a bias. Ma et al., "Rep Works in Speaker
Verification", arXiv 2110.09720, brought it to speaker verification, with a dilated 3x3 convolution in place of that of
1x1 ("RSBB", here `dilated`); both are in WeSpeaker, with statistics pooling.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import VARIANCE_FLOOR, make_pooling
from svq.nets.seresnet import SqueezeExcitation, init_he_

DILATION = 2  # of the second branch, where it is dilated
REDUCTION = 4  # channels are divided by this inside squeeze-and-excitation


def normed(inputs: int, outputs: int, kernel: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """Makes a convolution and its batch norm that keep the size of maps, but for the stride."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class RepBlock(nn.Module):
    """Branches that are added up, and ReLU: (B, `inputs`, F, T) -> (B, `channels`, F / stride, T / stride), rounded up.

    The branches are a 3x3 convolution, a second one of 1x1 or, with `dilated`, of 3x3 with gaps, and the identity where
    the shape stays, each with a batch norm. With `merged` there is one convolution with a bias instead, of 3x3, or 5x5
    with `dilated`. With `excite` squeeze-and-excitation follows.
    """

    def __init__(self, inputs: int, channels: int, stride: int, dilated: bool, excite: bool, merged: bool):
        super().__init__()
        self.kernel = 1 + 2 * (DILATION if dilated else 1)
        self.stride = stride
        self.conv = self.dense = self.second = self.identity = None
        if merged:
            self.conv = nn.Conv2d(inputs, channels, self.kernel, stride, padding=self.kernel // 2)
        else:
            self.dense = normed(inputs, channels, 3, stride)
            self.second = normed(inputs, channels, 3, stride, DILATION) if dilated else \
                normed(inputs, channels, 1, stride)
            self.identity = nn.BatchNorm2d(channels) if inputs == channels and stride == 1 else None
        self.se = SqueezeExcitation(channels, max(1, channels // REDUCTION)) if excite else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.conv is not None:
            y = self.conv(x)
        else:
            y = self.dense(x) + self.second(x)
            if self.identity is not None:
                y = y + self.identity(x)
        y = F.relu(y)
        return y if self.se is None else self.se(y)

    @torch.no_grad()
    def merge_(self) -> None:
        """Puts one convolution in the place of the branches; it computes what they compute in eval mode."""
        if self.conv is not None:
            return
        first = self.dense[0]
        conv = nn.Conv2d(first.in_channels, first.out_channels, self.kernel, self.stride, padding=self.kernel // 2)
        conv = conv.to(first.weight.device)
        kernel, bias = torch.zeros_like(conv.weight, dtype=torch.float64), torch.zeros_like(conv.bias, dtype=torch.float64)
        branches = [(branch[0].weight, branch[0].dilation[0], branch[1]) for branch in (self.dense, self.second)]
        if self.identity is not None:
            branches.append((torch.eye(first.in_channels, device=kernel.device)[:, :, None, None], 1, self.identity))
        middle = self.kernel // 2
        for weight, dilation, norm in branches:
            scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            reach = dilation * (weight.shape[-1] // 2)
            taps = slice(middle - reach, middle + reach + 1, dilation)
            kernel[:, :, taps, taps] += weight.double() * scale.view(-1, 1, 1, 1)
            bias += norm.bias.double() - norm.running_mean.double() * scale
        conv.weight.copy_(kernel)
        conv.bias.copy_(bias)
        self.conv, self.dense, self.second, self.identity = conv.train(self.training), None, None, None


class RepVGG(nn.Module):
    """RepVGG over a first block and four stages of blocks.

    Parameters with 80 mel channels and a 256-dim embedding:

    ===============  ============  ===================  ==========  ===========
    network          in a stage    channels             parameters  if `merged`
    ===============  ============  ===================  ==========  ===========
    RepVGG-Tiny-A0   3, 4, 23, 3   32, 64, 128, 256      6,833,792    6,264,352
    RepVGG-A0        2, 4, 14, 1   48, 96, 192, 1280    14,380,960   13,581,376
    RepVGG-A1        2, 4, 14, 1   64, 128, 256, 1280   19,363,968   18,061,568
    RepVGG-A2        2, 4, 14, 1   96, 192, 384, 1408   34,009,536   31,299,008
    RepVGG-B0        4, 6, 16, 1   64, 128, 256, 1280   21,089,664   19,610,752
    ===============  ============  ===================  ==========  ===========

    WeSpeaker gives 6.26 M for RepVGG-Tiny-A0, merged. With `dilated` it has 11,233,152, and merged, because its kernels
    are then of 5x5, 15,063,072.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        blocks: number of blocks in each of the four stages.
        widths: channels of the four stages; the first block has those of the first stage, or 64 where these are more.
        dilated: whether the second branch is of 3x3 with gaps instead of 1x1.
        excite: whether squeeze-and-excitation follows every block.
        merged: whether there is one convolution in the place of the branches. Such a network computes the same, faster,
            but learns less well from the start; `merge_` makes it of a trained one.
        variance_floor: argument of the pooling.
        pooling: one of svq.nets.pooling.POOLINGS.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 256, blocks: tuple[int, ...] = (3, 4, 23, 3),
                 widths: tuple[int, ...] = (32, 64, 128, 256), dilated: bool = False, excite: bool = False,
                 merged: bool = False, variance_floor: float = VARIANCE_FLOOR, pooling: str = "tstp"):
        super().__init__()
        if len(widths) != len(blocks):
            raise ValueError(f"widths is {list(widths)}; it must be the channels of {len(blocks)} stages")
        make = partial(RepBlock, dilated=dilated, excite=excite, merged=merged)
        inputs = min(64, widths[0])
        self.conv1 = make(1, inputs, 1)
        layers = []
        for stage, (count, width) in enumerate(zip(blocks, widths)):
            for index in range(count):
                layers.append(make(inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        bands = -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.pool, pooled = make_pooling(pooling, inputs * bands, variance_floor)
        self.embedding = nn.Linear(pooled, embed_dim)
        init_he_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        return self.embedding(self.pool(self.layers(self.conv1(x)).flatten(1, 2)))

    def merge_(self) -> None:
        """Merges the branches of every block, so that the network is one of the option `merged`."""
        for block in (self.conv1, *self.layers):
            block.merge_()


NETWORKS = {
    "RepVGGTinyA0": partial(RepVGG, blocks=(3, 4, 23, 3), widths=(32, 64, 128, 256)),
    "RepVGGA0": partial(RepVGG, blocks=(2, 4, 14, 1), widths=(48, 96, 192, 1280)),
    "RepVGGA1": partial(RepVGG, blocks=(2, 4, 14, 1), widths=(64, 128, 256, 1280)),
    "RepVGGA2": partial(RepVGG, blocks=(2, 4, 14, 1), widths=(96, 192, 384, 1408)),
    "RepVGGB0": partial(RepVGG, blocks=(4, 6, 16, 1), widths=(64, 128, 256, 1280)),
}
