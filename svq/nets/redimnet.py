"""ReDimNet: a network whose stages exchange maps (channels, frequencies, frames) as frames of one size.

Yakovlev et al., "Reshape dimensions network for speaker recognition", Interspeech 2024: channels times frequencies stay
the same from stage to stage, so the output of each stage can be reshaped to frames, and every stage takes a learned
mean of the outputs of all stages before it.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import AttentiveStatisticsPooling
from svq.nets.seresnet import SqueezeExcitation
from svq.nets.tdnn import check_choice

KERNELS = (7, 19, 31, 59)  # frames that the convolutions of a context block see
HEADS = 4  # of the attention in a context block
LAYER_NORM_EPS = SQUEEZE_EPS = 1e-6
FORMS = ("convnext", "resnet", "resnet_se")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each frame or point: (B, C, ...) -> (B, C, ...)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=LAYER_NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, -1)).transpose(1, -1)


class ConvNeXtBlock(nn.Module):
    """A grouped convolution, batch norm, GELU, a 1x1 convolution, and the input added: (B, C, ...) -> (B, C, ...).

    conv, norm: classes for frames (Conv1d, BatchNorm1d) or maps (Conv2d, BatchNorm2d). kernel: odd; of the grouped
    convolution. group_width: channels in a group.
    """

    def __init__(self, conv, norm, channels: int, kernel: int, group_width: int):
        super().__init__()
        self.spread = conv(channels, channels, kernel, padding=kernel // 2, groups=groups_of(channels, group_width))
        self.norm = norm(channels)
        self.mix = conv(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(F.gelu(self.norm(self.spread(x))))


class ResidualBlock(nn.Module):
    """Two pairs of a grouped 3x3 and a 1x1 convolution, and the input added: (B, C, F, T) -> (B, C, F, T).

    The first batch norm follows its ReLU.

    Args:
        channels, bands: C and F.
        group_width: channels in a group.
        excite: whether squeeze-and-excitation over the frequencies comes before the sum (Thienpondt et al.,
            "Integrating frequency translational invariance in TDNNs and frequency positional information in 2D
            ResNets", 2021, section 3.2).
    """

    def __init__(self, channels: int, bands: int, group_width: int, excite: bool):
        super().__init__()
        grouped = dict(padding=1, groups=groups_of(channels, group_width), bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 3, **grouped)
        self.mix1 = nn.Conv2d(channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, **grouped)
        self.mix2 = nn.Conv2d(channels, channels, 1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(bands, min(64, max(channels, 32))) if excite else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(F.relu(self.mix1(self.conv1(x))))
        y = self.bn2(self.mix2(self.conv2(y)))
        if self.se is not None:
            y = self.se(y.transpose(1, 2)).transpose(1, 2)
        return F.relu(y + x)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Averages values (B, H, T, C) with the weights softmax(query key^T / sqrt(C)): (B, H, T, C)."""
    return F.scaled_dot_product_attention(query, key, value)


class SelfAttention(nn.Module):
    """Attention of HEADS heads between all frames, and a feed-forward layer, each added and normalised.

    (B, T, C) -> (B, T, C). Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3. The attention is added
    before its layer norm, and the input of the feed-forward layer is the norm's output.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))
        self.norm1 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.hidden = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, frames, channels = x.shape
        query, key, value = (layer(x).reshape(batch, frames, HEADS, channels // HEADS).transpose(1, 2)
                             for layer in (self.query, self.key, self.value))
        seen = attention(query, key, value)
        x = self.norm1(x + self.out(seen.transpose(1, 2).reshape(batch, frames, channels)))
        return self.norm2(x + self.output(F.gelu(self.hidden(x), approximate="tanh")))


class ContextBlock(nn.Module):
    """Convolutions over more and more frames, then attention, in few channels; the input is added.

    (B, C, T) -> (B, C, T). reduction: C is divided by it, and rounded down to a multiple of HEADS, for the few channels.
    """

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        hidden = channels // reduction // HEADS * HEADS
        if not hidden:
            raise ValueError(f"reduction {reduction} of {channels} numbers a frame (width x feat_dim) leaves fewer than "
                             f"{HEADS} channels for attention; give smaller reductions or a larger width")
        self.reduce = nn.Conv1d(channels, hidden, 1)
        self.norm = ChannelNorm(hidden)
        self.convs = nn.Sequential(*(ConvNeXtBlock(nn.Conv1d, nn.BatchNorm1d, hidden, kernel, 1) for kernel in KERNELS))
        self.attention = SelfAttention(hidden)
        self.expand = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convs(self.norm(self.reduce(x)))
        return x + self.expand(self.attention(y.transpose(1, 2)).transpose(1, 2))


class Aggregation(nn.Module):
    """The mean of `count` tensors (B, C, T) with a softmax of learned scores for every channel: -> (B, C, T)."""

    def __init__(self, count: int, channels: int):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(count, channels, 1)) if count > 1 else None

    def forward(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        if self.scores is None:
            return outputs[0]
        return sum(share * output for share, output in zip(self.scores.softmax(dim=0), outputs))


class Repeat(nn.Module):
    """Repeats every frame `times` times: (B, C, T) -> (B, C, times T)."""

    def __init__(self, times: int):
        super().__init__()
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.times == 1:
            return x
        return x.unsqueeze(-1).expand(-1, -1, -1, self.times).reshape(x.shape[0], x.shape[1], -1)


class Stage(nn.Module):
    """A stage: the outputs of all before it, each (B, C, T) -> a list of its own outputs (B, C, T), one or two.

    `down` divides frequencies by `stride` and frames by `time_stride`, which is undone at the end; blocks follow;
    `squeeze` brings their `inside` channels back to `channels`; `context` works on frames. Where `norms` is given,
    each output is normalised by one. With `dual`, the stage gives what `context` takes as well as what it makes.
    """

    def __init__(self, aggregate: Aggregation, bands: int, down: nn.Conv2d, blocks: list[nn.Module],
                 squeeze: nn.Module, context: nn.Module | None, time_stride: int = 1, norms: list[nn.Module] = (),
                 dual: bool = False):
        super().__init__()
        self.aggregate, self.bands, self.dual = aggregate, bands, dual
        self.down, self.blocks, self.squeeze, self.context = down, nn.Sequential(*blocks), squeeze, context
        self.repeat, self.norms = Repeat(time_stride), nn.ModuleList(norms)

    def forward(self, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        maps = self.down(to_maps(self.aggregate(outputs), self.bands))
        x = to_frames(self.squeeze(self.blocks(maps)))
        found = [x] if self.context is None else [x, self.context(x)] if self.dual else [self.context(x)]
        found = [self.repeat(each) for each in found]
        return [norm(each) for norm, each in zip(self.norms, found)] if self.norms else found


def to_frames(x: torch.Tensor) -> torch.Tensor:
    """Reshapes maps (B, C, F, T) to frames (B, F C, T), the channels of the lowest frequency first."""
    return x.transpose(1, 2).flatten(1, 2)


def to_maps(x: torch.Tensor, bands: int) -> torch.Tensor:
    """Reshapes frames (B, F C, T) to maps (B, C, F, T) of `bands` frequencies, as `to_frames` undoes."""
    return x.reshape(x.shape[0], bands, x.shape[1] // bands, x.shape[2]).transpose(1, 2)


def groups_of(channels: int, group_width: int) -> int:
    """Counts the groups of `group_width` channels, or a few more, that a convolution has; ValueError where none fit."""
    groups = channels // group_width
    if groups < 1 or channels % groups:
        raise ValueError(f"group_width is {group_width}; {channels} channels cannot be divided into groups of that")
    return groups


def inside_of(channels: int, expansion: int) -> int:
    """Gives the channels inside a stage that ends with `channels`: `expansion` percent; ValueError where none are left."""
    inside = channels * expansion // 100
    if not inside:
        raise ValueError(f"expansions {expansion} of {channels} channels leaves none; they are percentages")
    return inside


def block_of(form: str, channels: int, bands: int, group_width: int) -> nn.Module:
    """Makes a block for maps (B, channels, bands, T); form: one of FORMS."""
    if form == "convnext":
        return ConvNeXtBlock(nn.Conv2d, nn.BatchNorm2d, channels, 3, group_width)
    return ResidualBlock(channels, bands, group_width, form == "resnet_se")


class ReDimNet(nn.Module):
    """ReDimNet: maps of `width` x `feat_dim` numbers a frame, in stages that trade frequencies for channels.

    Parameters with a 192-dim embedding, and as the paper has them:

    ==========  ====  =====  =========  ==========  =========
    network     mels  width  form       parameters  published
    ==========  ====  =====  =========  ==========  =========
    ReDimNetB0    60     10  resnet      1,004,250      1.0 M
    ReDimNetB1    72     12  convnext    2,126,936      2.2 M
    ReDimNetB2    72     16  convnext    4,892,848      4.7 M
    ReDimNetB3    72     16  resnet_se   3,225,020      3.0 M
    ReDimNetB4    72     32  resnet_se   6,441,520      6.3 M
    ReDimNetB5    72     32  resnet_se   7,659,760      9.2 M
    ReDimNetB6    72     32  resnet     15,015,472     15.0 M
    ==========  ====  =====  =========  ==========  =========

    The layouts are those of WeSpeaker's wespeaker/models/redimnet.py, which notes the same differences from the paper.
    The published files of B2 and B5 (20.58 and 31.17 MB) hold as many floats as these layouts, not as the paper says.

    Args:
        feat_dim: mel channels F of the input (B, T, F); a multiple of all frequency strides together.
        embed_dim: size D of the embedding (B, D).
        width: channels of the first stage.
        form: of the blocks: `convnext`, `resnet`, or `resnet_se`, with squeeze-and-excitation over frequencies.
        frequency_strides: what each stage divides the frequencies by, and multiplies the channels by.
        depths: number of blocks in each stage.
        expansions: channels inside each stage, as a percentage of those at its end.
        reductions: what the numbers of a frame are divided by, for the channels of the context block of each stage
            (rounded down to a multiple of 4); where there are fewer reductions than stages, the first have no such block.
        group_width: channels in a group of the 3x3 convolutions.
        global_context: argument of the pooling; see `AttentiveStatisticsPooling`.
        pool_norm: whether batch norm follows the pooling; WeSpeaker's ReDimNets have none.
    """

    def __init__(self, feat_dim: int = 72, embed_dim: int = 192, width: int = 16, form: str = "convnext",
                 frequency_strides: tuple[int, ...] = (1, 2, 1, 2, 1, 2), depths: tuple[int, ...] = (2, 2, 3, 4, 4, 4),
                 expansions: tuple[int, ...] = (100, 100, 100, 100, 100, 100),
                 reductions: tuple[int, ...] = (12, 12, 12, 8, 8, 4), group_width: int = 4,
                 global_context: bool = True, pool_norm: bool = True):
        super().__init__()
        contexts = checked(form, feat_dim, frequency_strides, depths, expansions, reductions)
        size, channels, bands = width * feat_dim, width, feat_dim
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), ChannelNorm(width))
        stages = []
        for stage, (stride, depth, expansion) in enumerate(zip(frequency_strides, depths, expansions)):
            outputs = stride * channels
            inside = inside_of(outputs, expansion)
            down = nn.Conv2d(channels, inside, (stride, 1), (stride, 1))
            blocks = [block_of(form, inside, bands // stride, group_width) for _ in range(depth)]
            squeeze = nn.Sequential()
            if expansion != 100:
                squeeze = nn.Sequential(
                    nn.Conv2d(inside, outputs, 3, padding=1, groups=groups_of(outputs, group_width)),
                    nn.BatchNorm2d(outputs, eps=SQUEEZE_EPS), nn.GELU(), nn.Conv2d(outputs, outputs, 1))
            context = ContextBlock(size, contexts[stage]) if contexts[stage] else None
            stages.append(Stage(Aggregation(stage + 1, size), bands, down, blocks, squeeze, context))
            channels, bands = outputs, bands // stride
        self.stages = nn.ModuleList(stages)
        self.aggregate = Aggregation(len(stages) + 1, size)
        self.pool = AttentiveStatisticsPooling(size, global_context=global_context)
        self.bn = nn.BatchNorm1d(2 * size) if pool_norm else nn.Sequential()
        self.embedding = nn.Linear(2 * size, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F). In training B is at least 2."""
        outputs = [to_frames(self.stem(x.transpose(1, 2).unsqueeze(1)))]
        for stage in self.stages:
            outputs += stage(outputs)
        return self.embedding(self.bn(self.pool(self.aggregate(outputs))))


def checked(form: str, feat_dim: int, strides, depths, expansions, reductions) -> list[int]:
    """Checks the options of all stages; gives the reduction of each stage, 0 for no context block. ValueError."""
    check_choice("form", form, FORMS)
    if not len(strides) == len(depths) == len(expansions) >= len(reductions):
        raise ValueError(f"it has {len(strides)} frequency_strides, {len(depths)} depths, {len(expansions)} expansions "
                         f"and {len(reductions)} reductions; there must be one of each for every stage (reductions may "
                         "be fewer)")
    if feat_dim % math.prod(strides):
        raise ValueError(f"it takes {feat_dim} mel channels, but its frequency_strides {tuple(strides)} divide them by "
                         f"{math.prod(strides)}; give a multiple of that")
    return [0] * (len(strides) - len(reductions)) + list(reductions)


_SE = dict(width=32, form="resnet_se", depths=(4, 4, 6, 6, 8, 4), expansions=(200, 200, 200, 100, 100, 100),
           reductions=(48, 48, 48, 32, 24, 16))
NETWORKS = {
    "ReDimNetB0": partial(ReDimNet, feat_dim=60, width=10, form="resnet", frequency_strides=(1, 2, 1, 2, 1),
                          depths=(2, 3, 3, 4, 3), expansions=(100, 200, 300, 200, 100), reductions=(30, 30, 30, 10, 10),
                          group_width=1),
    "ReDimNetB1": partial(ReDimNet, width=12, frequency_strides=(1, 2, 3, 2, 2), depths=(2, 3, 4, 5, 3),
                          expansions=(100,) * 5, reductions=(12, 12, 8), group_width=8),
    "ReDimNetB2": ReDimNet,
    "ReDimNetB3": partial(ReDimNet, form="resnet_se", depths=(6, 6, 8, 10, 10, 8),
                          expansions=(400, 200, 200, 200, 100, 100), reductions=(32, 32, 32, 16, 16, 16), group_width=1),
    "ReDimNetB4": partial(ReDimNet, **_SE, group_width=1),
    "ReDimNetB5": partial(ReDimNet, **_SE, group_width=16),
    "ReDimNetB6": partial(ReDimNet, width=32, form="resnet", frequency_strides=(1, 2, 1, 3, 1, 2),
                          depths=(4, 6, 6, 8, 8, 8), expansions=(400, 200, 200, 100, 100, 100),
                          reductions=(32, 32, 24, 24, 16, 16), group_width=32),
}
