"""CAM++: a densely connected TDNN behind a small 2-d network, each of its layers masked by what the context says.

Wang et al., "CAM++: a fast and efficient network for speaker verification using context-aware masking", Interspeech
2023. The order of operations is that of the checkpoints that 3D-Speaker and WeSpeaker publish.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import VARIANCE_FLOOR, StatisticsPooling
from svq.nets.resnet import BasicBlock, conv3x3
from svq.nets.seresnet import init_he_
from svq.nets.tdnn import DenseBlock, DenseLayer, FirstLayer, Transit

DILATIONS = (1, 2, 2)  # of the dense blocks
SEGMENT = 100  # frames that share one mean in the context
MOST_LAYERS = 100  # largest number of layers of a dense block


def segment_means(x: torch.Tensor, length: int = SEGMENT) -> torch.Tensor:
    """Puts in place of each frame the mean of its segment of `length` frames; the last one may be shorter.

    (B, C, T) -> (B, C, T). No shape depends on the values, so that one graph serves every T.
    """
    behind = (0, length - 1)
    means = F.avg_pool1d(F.pad(x, behind), length)
    filled = F.avg_pool1d(F.pad(torch.ones_like(x[:1, :1]), behind), length)  # share of a segment that there is
    means = (means / filled).unsqueeze(-1).expand(-1, -1, -1, length)
    return means.flatten(2)[..., :x.shape[-1]]


class ContextMask(nn.Module):
    """Context-aware mask: a factor between 0 and 1 for each frame of each channel.

    (B, C, T) -> (B, D, T). The context of a frame is the mean of the utterance plus the mean of its segment of 100
    frames (section 2.2 of the paper, eqs. 2 to 6); two 1x1 convolutions turn it into factors.

    Args:
        inputs, outputs: channels C and D; half of C are between the convolutions.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.squeeze = nn.Conv1d(inputs, inputs // 2, 1)
        self.excite = nn.Conv1d(inputs // 2, outputs, 1)
        for layer in (self.squeeze, self.excite):
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        context = x.mean(dim=-1, keepdim=True) + segment_means(x)
        return torch.sigmoid(self.excite(F.relu(self.squeeze(context))))


class MaskedDenseLayer(DenseLayer):
    """Dense layer whose output is multiplied by a mask made of its second convolution's input.

    (B, C, T) -> (B, growth, T).
    """

    def __init__(self, inputs: int, bottleneck: int, growth: int, dilation: int):
        super().__init__(inputs, bottleneck, growth, dilation)
        self.mask = ContextMask(bottleneck, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(x)
        return self.conv2(hidden) * self.mask(hidden)


class FrequencyHead(nn.Module):
    """Front-end convolution module: a 2-d residual network that halves the frequencies three times, and no frames.

    (B, T, F) -> (B, C, T), where C is `channels`: the width times F / 8, rounded up.
    """

    def __init__(self, feat_dim: int, width: int):
        super().__init__()
        halved = (2, 1)
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = nn.Sequential(*[BasicBlock(width, width, stride) for stride in (halved, 1, halved, 1)])
        self.conv2 = conv3x3(width, width, halved)
        self.bn2 = nn.BatchNorm2d(width)
        self.channels = width * -(-feat_dim // 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2).unsqueeze(1)
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(x))).flatten(1, 2)


class CAMPPlus(nn.Module):
    """CAM++: 2-d head, 12, 24 and 16 masked dense layers, halved after each block, statistics pooling, affine, norm.

    It has 7,176,224 parameters with 80 mel channels and a 512-dim embedding (3D-Speaker and WeSpeaker: 7.18 M), and
    6,848,544 with a 192-dim one, as 3D-Speaker's network that was trained on 200,000 speakers.

    Any number of frames will do; the first time-delay layer takes every second one. In training a batch has at least
    two utterances, for the last batch norm.

    Taps: the wide frame-level layer before pooling is `block3` (1024 channels), the narrow one `transit3` (512).
    Blocks and transits end in a convolution; the layers after them normalise.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D), the output of the last batch norm.
        width: channels of the 2-d head.
        channels: channels of the first time-delay layer.
        growth: channels that each dense layer adds.
        bottleneck: channels inside a dense layer, at least 2.
        layers: number of layers in each of the three dense blocks.
        variance_floor: argument of the statistics pooling; 1e-12 comes nearest to 3D-Speaker, which has none.
    """

    FRAME_LAYERS = ("frame1", "block1", "transit1", "block2", "transit2", "block3", "transit3")
    NARROW = "transit3"
    WIDE = "block3"

    def __init__(self, feat_dim: int = 80, embed_dim: int = 512, width: int = 32, channels: int = 128,
                 growth: int = 32, bottleneck: int = 128, layers: tuple[int, ...] = (12, 24, 16),
                 variance_floor: float = VARIANCE_FLOOR):
        super().__init__()
        if len(layers) != len(DILATIONS) or max(layers) > MOST_LAYERS:
            raise ValueError(f"layers is {list(layers)}; it must be {len(DILATIONS)} numbers, each at most "
                             f"{MOST_LAYERS}")
        if bottleneck < 2:
            raise ValueError(f"bottleneck is {bottleneck}; it must be at least 2")
        self.head = FrequencyHead(feat_dim, width)
        self.frame1 = FirstLayer(self.head.channels, channels, stride=2)
        for number, (count, dilation) in enumerate(zip(layers, DILATIONS), start=1):
            self.add_module(f"block{number}", DenseBlock(
                MaskedDenseLayer(channels + index * growth, bottleneck, growth, dilation) for index in range(count)))
            channels += count * growth
            self.add_module(f"transit{number}", Transit(channels))
            channels //= 2
        self.bn_pool = nn.BatchNorm1d(channels)
        self.pool = StatisticsPooling(variance_floor)
        self.embedding = nn.Linear(2 * channels, embed_dim, bias=False)
        self.bn = nn.BatchNorm1d(embed_dim, affine=False)
        init_he_(self, (nn.Conv1d, nn.Linear), "fan_in")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = self.head(x)
        for name in self.FRAME_LAYERS:
            x = self.get_submodule(name)(x)
        return self.bn(self.embedding(self.pool(F.relu(self.bn_pool(x)))))


NETWORKS = {"CAMPPlus": CAMPPlus}
