"""ReDimNet2: a ReDimNet whose later stages work at a lower frame rate.

Yakovlev and Okhotnikov, "ReDimNet2: scaling speaker verification via time-pooled dimension reshaping", Interspeech
2026 (arXiv 2603.11841): later stages work at a half and a quarter of the frame rate, and repeat their frames at their
end.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import accumulate
from operator import mul

import torch
from torch import nn

from svq.nets.pooling import AttentiveStatisticsPooling
from svq.nets.redimnet import (
    SQUEEZE_EPS, Aggregation, ChannelNorm, ContextBlock, Stage, block_of, checked, inside_of, to_frames,
    to_maps,
)
from svq.nets.tdnn import at_least


class ReDimNet2(nn.Module):
    """ReDimNet2: later stages work at a lower frame rate, so that more channels cost no more.

    Parameters with 72 mel channels and a 192-dim embedding, and as the paper has them, cut off after one digit:

    ===========  =====  ========  ==========  =========
    network      width  head      parameters  published
    ===========  =====  ========  ==========  =========
    ReDimNet2B0     12        64   1,114,356      1.1 M
    ReDimNet2B1     16  -          2,160,336      2.1 M
    ReDimNet2B2     20  -          3,676,320      3.6 M
    ReDimNet2B3     24  -          4,179,848      4.1 M
    ReDimNet2B4     32  -          6,657,440      6.6 M
    ReDimNet2B5     48       256   8,955,816      8.9 M
    ReDimNet2B6     64       224  12,390,176     12.3 M
    ===========  =====  ========  ==========  =========

    Input of fewer frames than the time strides together (4) is lengthened by repeating its first and last ones. Of more
    frames, those beyond a multiple of that are left out at the end.

    Args:
        feat_dim, embed_dim, width, form, frequency_strides, depths, expansions, reductions, group_width,
            global_context: as in `ReDimNet`.
        time_strides: what each stage divides the frame rate by; it is divided by all so far.
        head: whether a 1x1 convolution comes before the pooling. head_width: its channels.
        group_norm: whether a group norm, of as many groups as `width`, follows the stem and every stage.
        dual: whether stages give what their context block takes, too.
    """

    def __init__(self, feat_dim: int = 72, embed_dim: int = 192, width: int = 24, form: str = "resnet",
                 frequency_strides: tuple[int, ...] = (1, 2, 1, 2, 1, 2), time_strides: tuple[int, ...] = (1, 1, 2, 1, 2, 1),
                 depths: tuple[int, ...] = (2, 3, 4, 5, 4, 3), expansions: tuple[int, ...] = (400, 300, 200, 100, 100, 100),
                 reductions: tuple[int, ...] = (24, 24, 24, 24, 24, 24), group_width: int = 1, head: bool = False,
                 head_width: int = 224, group_norm: bool = False, dual: bool = False, global_context: bool = True):
        super().__init__()
        contexts = checked(form, feat_dim, frequency_strides, depths, expansions, reductions)
        if len(time_strides) != len(depths):
            raise ValueError(f"it has {len(time_strides)} time_strides and {len(depths)} depths; there must be one of "
                             "each for every stage")
        self.least_frames = math.prod(time_strides)
        size, channels, bands = width * feat_dim, width, feat_dim

        def norms(count: int) -> list[nn.Module]:
            return [nn.GroupNorm(width, size) for _ in range(count)] if group_norm else []

        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), ChannelNorm(width))
        self.stem_norm = nn.Sequential(*norms(1))
        stages, count = [], 1
        for stride, slower, depth, expansion, context in zip(frequency_strides, accumulate(time_strides, mul), depths,
                                                            expansions, contexts):
            outputs = stride * channels
            inside = inside_of(outputs, expansion)
            down = nn.Conv2d(channels, inside, (stride, slower), (stride, slower), groups=math.gcd(channels, inside))
            blocks = [block_of(form, inside, bands // stride, group_width) for _ in range(depth)]
            squeeze = nn.Sequential()
            if expansion != 100:
                squeeze = nn.Sequential(nn.Conv2d(inside, outputs, 1), nn.BatchNorm2d(outputs, eps=SQUEEZE_EPS))
            made = 2 if dual and context else 1
            stages.append(Stage(Aggregation(count, size), bands, down, blocks, squeeze,
                                ContextBlock(size, context) if context else None, slower, norms(made), dual))
            channels, bands, count = outputs, bands // stride, count + made
        self.stages = nn.ModuleList(stages)
        self.bands = bands
        self.aggregate = Aggregation(count, size)
        self.head = nn.Conv2d(channels, head_width, 1) if head else nn.Sequential()
        pooled = head_width * bands if head else size
        self.pool = AttentiveStatisticsPooling(pooled, global_context=global_context)
        self.bn = nn.BatchNorm1d(2 * pooled)
        self.embedding = nn.Linear(2 * pooled, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F). In training B is at least 2."""
        x = at_least(x.transpose(1, 2), self.least_frames)
        x = x[..., : x.shape[-1] - x.shape[-1] % self.least_frames]
        outputs = [self.stem_norm(to_frames(self.stem(x.unsqueeze(1))))]
        for stage in self.stages:
            outputs += stage(outputs)
        maps = self.head(to_maps(self.aggregate(outputs), self.bands))
        return self.embedding(self.bn(self.pool(maps.flatten(1, 2))))


_SMALL = dict(expansions=(200, 100, 100, 100, 100, 100))
NETWORKS = {
    "ReDimNet2B0": partial(ReDimNet2, width=12, **_SMALL, reductions=(36, 36, 36, 36, 18, 18), head=True, head_width=64),
    "ReDimNet2B1": partial(ReDimNet2, width=16, **_SMALL, reductions=(32, 32, 32, 32, 16, 16)),
    "ReDimNet2B2": partial(ReDimNet2, width=20, **_SMALL, frequency_strides=(1, 2, 1, 3, 1, 2),
                           reductions=(40, 30, 30, 20, 20, 10)),
    "ReDimNet2B3": ReDimNet2,
    "ReDimNet2B4": partial(ReDimNet2, width=32),
    "ReDimNet2B5": partial(ReDimNet2, width=48, reductions=(48, 48, 48, 48, 32, 32), head=True, head_width=256),
    "ReDimNet2B6": partial(ReDimNet2, width=64, depths=(3, 4, 5, 5, 4, 3), expansions=(300, 200, 200, 100, 75, 50),
                           reductions=(64, 64, 48, 48, 32, 24), head=True),
}
