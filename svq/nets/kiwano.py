"""Pre-activation residual networks with squeeze-and-excitation in the early stages.

Those of Rouvier and Bousquet, "Kiwano: a cutting-edge open-source toolkit for speaker verification", Odyssey 2026
(ResNet-200), and of Leguillier et al., "On low-bit quantization errors in speaker verification", arXiv
2606.08078 (ResNet-36 and ResNet-200). That squeeze-and-excitation belongs in the first stages only is from Rouvier
and Bousquet, "Studying squeeze-and-excitation used in CNN for speaker verification", ASRU 2021.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.attention import SqueezeExcitation, attended, init_he_
from svq.nets.resnet import conv1x1, conv3x3, shortcut
from svq.nets.thin import ChannelAttention


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions and one of 1x1, each after its batch norm and ReLU, and a shortcut.

    (B, `inputs`, F, T) -> (B, `channels`, F / stride, T / stride), rounded up.
    """

    def __init__(self, inputs: int, channels: int, stride: int, excite: bool, activation: type[nn.Module] = nn.SiLU):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, channels)
        self.se = SqueezeExcitation(channels, channels, activation) if excite else nn.Sequential()
        self.shortcut = shortcut(inputs, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        y = self.conv3(F.relu(self.bn3(y)))
        return self.se(y) + self.shortcut(x)


class BottleneckAttention(nn.Module):
    """Attentive means and deviations, a weight for each frame of each channel: (B, C, T) -> (B, 2C)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.hidden = nn.Conv1d(channels, hidden, 1)
        self.scores = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return attended(x, self.scores(torch.tanh(self.hidden(x))), deviation=True)


class KiwanoResNet(nn.Module):
    """Pre-activation ResNet over four stages of `width`, `width`, 2 `width` and 2 `width` channels.

    Parameters at width 128 with 81 mel channels and a 256-dim embedding:

    ==========  ===========  ==========  ==========  ======
    network     in a stage   strides     parameters  layers
    ==========  ===========  ==========  ==========  ======
    ResNet-36   1, 1, 2, 1   1, 2, 2, 1   8,343,040      36
    ResNet-200  3, 8, 18, 3  1, 2, 2, 2  31,976,960     200
    ==========  ===========  ==========  ==========  ======

    No counts are published. ResNet-200 has the published blocks and channels, and 200 layers where those of the
    stem, the blocks and their shortcuts are counted, convolutions and batch norms alike. How ResNet-36 is made
    up is not published; this is our choice, which counts to 36 in the same way with the same
    channels. Two shortcuts are what leaves room for whole blocks, hence the last stage keeps its input's size.
    SpeechBrain's ResNet, with 3, 4, 6 and 3 blocks, has 15,438,336 parameters with 80 mel channels.

    Args:
        feat_dim: mel channels F of the input (B, T, F); published with 81.
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage.
        blocks: how many in each of the four stages.
        strides: of the four stages, in both directions.
        form: `kiwano`, or `speechbrain`: ReLU in the place of SiLU, and batch norm and ReLU, in that of tanh, among 128
            hidden channels of the pooling.
    """

    def __init__(self, feat_dim: int = 81, embed_dim: int = 256, width: int = 128,
                 blocks: tuple[int, ...] = (3, 8, 18, 3), strides: tuple[int, ...] = (1, 2, 2, 2),
                 form: str = "kiwano"):
        super().__init__()
        if form not in ("kiwano", "speechbrain"):
            raise ValueError(f"form is '{form}'; it must be kiwano or speechbrain")
        activation = nn.SiLU if form == "kiwano" else nn.ReLU
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.activation = activation()
        channels, bands, layers = width, feat_dim, []
        for stage, (count, stride) in enumerate(zip(blocks, strides)):
            outputs = width if stage < 2 else 2 * width
            for index in range(count):
                layers.append(PreActivationBlock(channels, outputs, stride if index == 0 else 1, stage < 2, activation))
                channels = outputs
            bands = -(-bands // stride)
        self.layers = nn.Sequential(*layers)
        if form == "kiwano":
            self.pool = BottleneckAttention(channels * bands, channels // 2)
        else:
            self.pool = ChannelAttention(channels * bands, hidden=128, deviation=True)
        self.bn_pool = nn.BatchNorm1d(2 * channels * bands)
        self.embedding = nn.Linear(2 * channels * bands, embed_dim)
        self.bn_embedding = nn.BatchNorm1d(embed_dim)
        init_he_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, F) log-mels -> (B, D) embeddings, not length-normalised. In training B must be at least 2."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(self.activation(self.bn1(self.conv1(x))))
        return self.bn_embedding(self.embedding(self.bn_pool(self.pool(x.flatten(1, 2)))))


NETWORKS = {
    "KiwanoResNet36": partial(KiwanoResNet, blocks=(1, 1, 2, 1), strides=(1, 2, 2, 1)),
    "KiwanoResNet200": partial(KiwanoResNet, blocks=(3, 8, 18, 3), strides=(1, 2, 2, 2)),
    "ResNet34SpeechBrain": partial(KiwanoResNet, blocks=(3, 4, 6, 3), strides=(1, 2, 2, 2), form="speechbrain"),
}
