"""ResNets of 34 layers with a quarter or half of the usual channels, squeeze-and-excitation and attentive pooling.

Xie et al., "Utterance-level aggregation for speaker recognition in the wild", ICASSP 2019 (thin ResNet), Chung et
al., "In defence of metric learning for speaker recognition", Interspeech 2020 (thin and fast), and Kwon et al., "The
ins and outs of speaker recognition", ICASSP 2021 (H / ASP), in the order of operations of the published
checkpoints of the last two: in a block the first batch norm follows its ReLU, and squeeze-and-excitation comes
before the residual sum. Those checkpoints expect log-mels whose every channel has mean 0 and deviation 1 over
the utterance; that is the front end's work.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.attention import SqueezeExcitation, attended, init_he_
from svq.nets.resnet import conv3x3, shortcut

BLOCKS = (3, 4, 6, 3)
REDUCTION = 8  # of channels inside squeeze-and-excitation


class SEBlock(nn.Module):
    """Two 3x3 convolutions, squeeze-and-excitation and a shortcut: `inputs` channels to `channels`."""

    def __init__(self, inputs: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(inputs, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels, max(1, channels // REDUCTION))
        self.shortcut = shortcut(inputs, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(F.relu(self.conv1(x)))
        return F.relu(self.se(self.bn2(self.conv2(y))) + self.shortcut(x))


def stages(width: int, strides: tuple[int, ...]) -> nn.Sequential:
    """All blocks, one after another: `width` channels, doubled from stage to stage."""
    channels, blocks = width, []
    for stage, (count, stride) in enumerate(zip(BLOCKS, strides)):
        for index in range(count):
            blocks.append(SEBlock(channels, width * 2**stage, stride if index == 0 else 1))
            channels = width * 2**stage
    return nn.Sequential(*blocks)


def with_deviation(pooling: str) -> bool:
    """Whether `pooling`, `sap` (self-attentive) or `asp` (attentive statistics), gives deviations too.

    Raises ValueError for any other name.
    """
    if pooling not in ("sap", "asp"):
        raise ValueError(f"pooling is '{pooling}'; it must be sap (means) or asp (means and deviations)")
    return pooling == "asp"


class FrameAttention(nn.Module):
    """Pooling with one weight a frame (Cai et al., "Exploring the encoding layer and loss function", Odyssey 2018).

    (B, C, T) -> (B, C), or (B, 2C) with `deviation`.
    """

    def __init__(self, channels: int, deviation: bool):
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.score = nn.Linear(channels, 1, bias=False)
        self.deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.score(torch.tanh(self.hidden(x.transpose(1, 2))))
        return attended(x, scores.transpose(1, 2), self.deviation)


class ChannelAttention(nn.Module):
    """Pooling with a weight for each frame of each channel: (B, C, T) -> (B, C), or (B, 2C) with `deviation`."""

    def __init__(self, channels: int, hidden: int, deviation: bool):
        super().__init__()
        self.hidden = nn.Conv1d(channels, hidden, 1)
        self.bn = nn.BatchNorm1d(hidden)
        self.scores = nn.Conv1d(hidden, channels, 1)
        self.deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return attended(x, self.scores(self.bn(F.relu(self.hidden(x)))), self.deviation)


class ThinResNet(nn.Module):
    """Thin or fast ResNet34: frequency is averaged away before the frames are pooled.

    Parameters at width 16 with a 512-dim embedding, whatever the mel channels: 1,437,078 with self-attentive pooling
    (both networks), 1,502,614 with attentive statistics. Chung et al. give both 1.4 M. The thin one was published
    for the 257 bins of a spectrum, which its first two layers quarter; the fast one for 40 mel channels, which its
    first layer halves and its last stage leaves as they are.

    Args:
        feat_dim: channels F of the input (B, T, F); any, because they are averaged.
        embed_dim: size D of the embedding (B, D); published with 512.
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        pooling: `sap`, attentive means, or `asp`, attentive means and deviations, of the 8 `width` channels.
        stem: `pooled` where maximum pooling, halving the frequencies again, follows the first convolution, or `plain`.
        strides: of the four stages, in both directions.
    """

    def __init__(self, feat_dim: int = 40, embed_dim: int = 512, width: int = 16, pooling: str = "sap",
                 stem: str = "plain", strides: tuple[int, ...] = (1, 2, 2, 1)):
        super().__init__()
        deviation = with_deviation(pooling)
        self.conv1 = nn.Conv2d(1, width, 7, stride=(2, 1), padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stem = nn.MaxPool2d(3, stride=(2, 1), padding=1) if stem == "pooled" else nn.Identity()
        self.layers = stages(width, strides)
        self.pool = FrameAttention(8 * width, deviation)
        self.embedding = nn.Linear((2 if deviation else 1) * 8 * width, embed_dim)
        init_he_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, F) log-mels -> (B, D) embeddings, not length-normalised."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(self.stem(F.relu(self.bn1(self.conv1(x)))))
        return self.embedding(self.pool(x.mean(dim=2)))


class HalfResNet(nn.Module):
    """ResNetSE34V2: half of the usual channels, all frequencies kept until pooling ("H / ASP").

    Parameters at width 32 with 64 mel channels and a 512-dim embedding: 8,028,492 with attentive statistics.
    Kwon et al. give 8.0 M.

    Args:
        feat_dim: mel channels F of the input (B, T, F); published with 64.
        embed_dim: size D of the embedding (B, D); published with 512.
        width: channels of the first stage; the later ones have 2, 4 and 8 times as many.
        pooling: `asp`, attentive means and deviations of every channel and frequency, or `sap`, means only.
    """

    def __init__(self, feat_dim: int = 64, embed_dim: int = 512, width: int = 32, pooling: str = "asp"):
        super().__init__()
        deviation = with_deviation(pooling)
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = stages(width, (1, 2, 2, 2))
        outputs = 8 * width * -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.pool = ChannelAttention(outputs, 128, deviation)
        self.embedding = nn.Linear((2 if deviation else 1) * outputs, embed_dim)
        init_he_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, F) log-mels -> (B, D) embeddings, not length-normalised."""
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(self.bn1(F.relu(self.conv1(x))))
        return self.embedding(self.pool(x.flatten(1, 2)))


NETWORKS = {
    "ThinResNet34": partial(ThinResNet, stem="pooled", strides=(1, 2, 2, 2)),
    "FastResNet34": partial(ThinResNet, stem="plain", strides=(1, 2, 2, 1)),
    "ResNetSE34V2": HalfResNet,
}
