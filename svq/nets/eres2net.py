"""ERes2Net and ERes2NetV2: Res2Net blocks over log-mels, whose groups, and whose stages, are fused by attention.

Chen et al., "An enhanced Res2Net with local and global feature fusion for speaker verification", Interspeech 2023
(ERes2Net), and Chen et al., "ERes2NetV2: boosting short-duration speaker verification performance with computational
efficiency", Interspeech 2024. The order of operations is that of the checkpoints that 3D-Speaker and WeSpeaker publish.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import VARIANCE_FLOOR, make_pooling
from svq.nets.resnet import conv1x1, conv3x3, second_embedding, shortcut

STAGES = (3, 4, 6, 3)  # blocks in each stage
FUSED_BLOCKS = (3, 4)  # stages whose blocks fuse their groups; groups of the other stages are added
WHOLE = 64  # channels of a stage whose groups have `base_width` channels
REDUCTION = 4  # channels are divided by this inside a fusion
MOST_GROUPS = 64  # largest number of groups in a block
CEILING = 20.0  # largest output of an activation inside a block


def clipped(x: torch.Tensor) -> torch.Tensor:
    """Computes ReLU with a ceiling of 20."""
    return F.hardtanh(x, 0.0, CEILING)


class AttentionalFusion(nn.Module):
    """Attentional feature fusion: x (1 + a) + y (1 - a), where both inputs together set a from -1 to 1.

    Two maps (B, C, F, T) -> (B, C, F, T). C must be at least 4. Section 2.2 of the paper on ERes2Net.
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // REDUCTION
        self.squeeze = nn.Conv2d(2 * channels, hidden, 1)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.excite = nn.Conv2d(hidden, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        hidden = F.silu(self.bn1(self.squeeze(torch.cat([x, y], dim=1))))
        attention = torch.tanh(self.bn2(self.excite(hidden)))
        return x * (1 + attention) + y * (1 - attention)


class Res2Block(nn.Module):
    """3x3 convolutions in steps between two of 1x1, and a shortcut: (B, `inputs`, F, T) -> (B, `outputs`, F', T').

    Each group of channels is convolved together with the result of the group before.

    Args:
        inputs, outputs: channels of the input and the output.
        width: channels of a group.
        scale: number of groups.
        stride: of the first convolution and the shortcut, in both directions.
        fuse: whether a group and the result before it are fused by attention; else they are added.
    """

    def __init__(self, inputs: int, outputs: int, width: int, scale: int, stride: int, fuse: bool):
        super().__init__()
        self.width = width
        self.conv1 = conv1x1(inputs, width * scale, stride)
        self.bn1 = nn.BatchNorm2d(width * scale)
        self.convs = nn.ModuleList(conv3x3(width, width) for _ in range(scale))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(scale))
        self.fusions = nn.ModuleList(AttentionalFusion(width) for _ in range(scale - 1)) if fuse else None
        self.conv3 = conv1x1(width * scale, outputs)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        done: list[torch.Tensor] = []
        for index, group in enumerate(clipped(self.bn1(self.conv1(x))).split(self.width, dim=1)):
            if done:
                group = done[-1] + group if self.fusions is None else self.fusions[index - 1](done[-1], group)
            done.append(clipped(self.bns[index](self.convs[index](group))))
        return clipped(self.bn3(self.conv3(torch.cat(done, dim=1))) + self.shortcut(x))


class ERes2Net(nn.Module):
    """ERes2Net: Res2Net blocks over four stages, each stage's output fused with those of all stages before it.

    Parameters with 80 mel channels and a 192-dim embedding, and as published:

    ===================  =====  ==========  =====  =========  ==========  ====================
    network              width  base_width  scale  expansion  parameters  published
    ===================  =====  ==========  =====  =========  ==========  ====================
    ERes2NetBase            32          32      2          2   6,610,688  6.61 M (3D-Speaker)
    ERes2NetLarge           64          32      2          2  22,462,784  22.46 M (3D-Speaker)
    ERes2NetHuge            64          24      3          4  55,165,024  -
    ERes2NetV2              64          26      2          2  17,859,632  17.8 M (3D-Speaker)
    ERes2NetV2w24s4ep4      64          24      4          4  53,513,632  -
    ===================  =====  ==========  =====  =========  ==========  ====================

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage, before `expansion`; the later ones have 2, 4 and 8 times as many.
        base_width: channels of a group in a stage of 64 channels, others in proportion, rounded down.
        scale: number of groups in a block, at most 64.
        expansion: times as many channels come out of a block.
        second_layer: whether ReLU, batch norm (without scale and shift) and one more linear layer follow the embedding
            layer; the embedding is then the output of that layer.
        variance_floor: argument of the pooling; 3D-Speaker's networks have 1e-8, and 1e-10 with attention.
        pooling: one of svq.nets.pooling.POOLINGS.
    """

    FUSED = (2, 3, 4)  # stages whose output is fused with what comes from the stage before

    def __init__(self, feat_dim: int = 80, embed_dim: int = 192, width: int = 32, base_width: int = 32, scale: int = 2,
                 expansion: int = 2, second_layer: bool = False, variance_floor: float = VARIANCE_FLOOR,
                 pooling: str = "tstp"):
        super().__init__()
        if width * base_width < WHOLE:  # of one channel in the first stage on, all stages have enough for a fusion
            raise ValueError(f"width is {width} and base_width {base_width}: groups of the first stage would have no "
                             f"channel; their product must be at least {WHOLE}")
        if scale > MOST_GROUPS:
            raise ValueError(f"scale is {scale}; it must be at most {MOST_GROUPS}")
        self.conv1 = conv3x3(1, width)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, count in enumerate(STAGES, start=1):
            planes, blocks, before = width * 2 ** (stage - 1), [], channels
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(Res2Block(channels, planes * expansion, planes * base_width // WHOLE, scale, stride,
                                        stage in FUSED_BLOCKS))
                channels = planes * expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            if stage in self.FUSED:
                self.add_module(f"down{stage}", conv3x3(before, channels, stride=2))
                self.add_module(f"fuse{stage}", AttentionalFusion(channels))
        bands = -(-feat_dim // 8)  # three strides of 2, each rounding up
        self.pool, pooled = make_pooling(pooling, channels * bands, variance_floor)
        self.embedding = nn.Linear(pooled, embed_dim)
        self.second = second_embedding(embed_dim) if second_layer else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        x = self.fused(x).flatten(1, 2)
        x = self.embedding(self.pool(x))
        return x if self.second is None else self.second(x)

    def fused(self, x: torch.Tensor) -> torch.Tensor:
        """Computes what is pooled: log-mels (B, T, F) -> (B, C, F / 8, T / 8), both rounded up."""
        x = F.relu(self.bn1(self.conv1(x.transpose(1, 2).unsqueeze(1))))
        fused = x
        for stage in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            if stage in self.FUSED:
                below = self.get_submodule(f"down{stage}")(fused)
                fused = self.get_submodule(f"fuse{stage}")(x, below)
            else:
                fused = x
        return fused


class ERes2NetV2(ERes2Net):
    """ERes2NetV2: as ERes2Net, but only the last two stages are fused."""

    FUSED = (4,)


NETWORKS = {
    "ERes2NetBase": partial(ERes2Net, width=32),
    "ERes2NetLarge": partial(ERes2Net, width=64),
    "ERes2NetHuge": partial(ERes2Net, width=64, base_width=24, scale=3, expansion=4),
    "ERes2NetV2": partial(ERes2NetV2, width=64, base_width=26),
    "ERes2NetV2w24s4ep4": partial(ERes2NetV2, width=64, base_width=24, scale=4, expansion=4),
}
