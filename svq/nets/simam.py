"""ResNets with attention without parameters, over log-mel features.

Qin et al., "Simple attention module based speaker verification with iterative noisy label detection", ICASSP 2022,
after Yang et al., "SimAM: a simple, parameter-free attention module for convolutional neural networks", ICML 2021. Lin
et al., "VoxBlink2", Interspeech 2024, trained networks of 34 and 100 layers on 100,000 speakers; WeSpeaker ships them.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import full_precision, variance
from svq.nets.resnet import BasicBlock, conv3x3, stages
from svq.nets.seresnet import ChannelAttention

REGULARISER = 1e-4  # lambda of SimAM, added to the variance
ATTENTION = 128  # hidden channels of the pooling


def attended_maps(x: torch.Tensor) -> torch.Tensor:
    """Multiplies each point of maps (B, C, F, T) by a factor between 0.62 and 1 that grows with its distance to the mean.

    Yang et al. 2021, eq. 5: sigmoid of (x - m)^2 / (4 (v + 0.0001)) + 0.5, where m and v are mean and unbiased variance
    of the channel's map; v of a single point is 0. Factors are computed in float32 under autocast.
    """
    with full_precision(x):
        points = x.float().flatten(2)
        distances = (points - points.mean(dim=-1, keepdim=True)).square()
        factors = torch.sigmoid(distances / (4 * (variance(points).unsqueeze(-1) + REGULARISER)) + 0.5)
    return x * factors.view_as(x).to(x.dtype)


class SimAMBlock(BasicBlock):
    """A basic block whose maps are attended before the shortcut is added: `inputs` channels to `channels`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(attended_maps(self.bn2(self.conv2(y))) + self.shortcut(x))


class SimAMResNet(nn.Module):
    """SimAM-ResNet with attentive statistics pooling.

    Parameters at width 64 with 80 mel channels and a 256-dim embedding, beside those that WeSpeaker gives:

    ==============  ============  ==========  =========
    network         in a stage    parameters  published
    ==============  ============  ==========  =========
    SimAM-ResNet34  3, 4, 6, 3    25,213,760     25.2 M
    SimAM-ResNet100 6, 16, 24, 3  50,232,896     50.2 M
    ==============  ============  ==========  =========

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        blocks: number of blocks in each of the four stages.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 256, width: int = 64,
                 blocks: tuple[int, ...] = (3, 4, 6, 3)):
        super().__init__()
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = stages(SimAMBlock, width, blocks)
        outputs = 8 * width * -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.pool = ChannelAttention(outputs, ATTENTION, deviation=True)
        self.embedding = nn.Linear(2 * outputs, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.embedding(self.pool(x.flatten(1, 2)))


NETWORKS = {
    "SimAMResNet34": partial(SimAMResNet, blocks=(3, 4, 6, 3)),
    "SimAMResNet100": partial(SimAMResNet, blocks=(6, 16, 24, 3)),
}
