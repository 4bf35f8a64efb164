"""Time delay neural networks: x-vector and extended x-vector.

A time delay layer is a convolution over time. Frame-level layers are `frame1`, `frame2`, ... in the order of the
papers' tables; the affines after pooling are `segment1` and, where there is one, `segment2`.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import StatisticsPooling

PADDINGS = ("none", "zero", "reflect")
ACTIVATIONS = {"relu": F.relu, "leaky_relu": F.leaky_relu}


class TDNNLayer(nn.Module):
    """Frame-level layer: affine over a context of frames, activation, batch norm: (B, C, T) -> (B, D, T').

    Args:
        inputs, outputs: channels C and D.
        context: frames that the affine sees, `dilation` apart. Odd.
        stride: from one output frame to the next.
        padding: `zero` or `reflect` at both ends gives T' = T / stride, rounded up; `none` shortens by
            (context - 1) dilation. `reflect` needs more than half of that many frames.
        activation: `relu` or `leaky_relu` (slope 0.01).
        affine: whether the batch norm learns scale and shift; Kaldi's does not.
        separable: each channel has a filter over time of its own, and a 1x1 convolution mixes them.
    """

    def __init__(self, inputs: int, outputs: int, context: int = 1, dilation: int = 1, stride: int = 1,
                 padding: str = "zero", activation: str = "relu", affine: bool = True, separable: bool = False):
        super().__init__()
        check_choice("padding", padding, PADDINGS)
        check_choice("activation", activation, ACTIVATIONS)
        reach = (context - 1) // 2 * dilation
        self.mirror = reach if padding == "reflect" else 0
        self.activation = ACTIVATIONS[activation]
        shape = dict(stride=stride, dilation=dilation, padding=reach if padding == "zero" else 0)
        if separable:
            self.depthwise = nn.Conv1d(inputs, inputs, context, groups=inputs, **shape)
            self.conv = nn.Conv1d(inputs, outputs, 1)
        else:
            self.depthwise = None
            self.conv = nn.Conv1d(inputs, outputs, context, **shape)
        self.bn = nn.BatchNorm1d(outputs, affine=affine)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mirror:
            x = mirrored(x, self.mirror)
        if self.depthwise is not None:
            x = self.depthwise(x)
        return self.bn(self.activation(self.conv(x)))


class TDNN(nn.Module):
    """Frame-level layers `frame1`, `frame2`, ... by a table, statistics pooling, segment-level affines.

    Input shorter than the layers see together is lengthened by its first and last frames, as
    Kaldi's nnet3-xvector-compute does; so one frame is enough.

    Args:
        feat_dim: channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width, wide: channels of all frame-level layers but the last, and of the last.
        segments: affines after pooling, of size D; ReLU and batch norm between them. The embedding is the output
            of the last one.
        padding, activation, affine: of every layer; see `TDNNLayer`.
        variance_floor, deviation_offset: of the pooling; see `StatisticsPooling`.
    """

    LAYERS: tuple[tuple[int, int], ...]  # context and dilation of each frame-level layer
    NARROW: str  # the last frame-level layer of `width` channels, by its module's name
    WIDE: str  # the one of `wide` channels, before pooling
    FRAME_LAYERS: tuple[str, ...]

    def __init__(self, feat_dim: int = 80, embed_dim: int = 512, width: int = 512, wide: int = 1500,
                 segments: int = 2, padding: str = "none", activation: str = "relu", affine: bool = False,
                 variance_floor: float = 1e-7, deviation_offset: float = 0.0):
        super().__init__()
        if segments not in (1, 2):
            raise ValueError(f"segments is {segments}; it must be 1 or 2")
        if not 0 < variance_floor < 1:
            raise ValueError(f"variance_floor is {variance_floor}; it must be above 0 and below 1")
        sizes = [feat_dim] + [width] * (len(self.LAYERS) - 1) + [wide]
        for name, inputs, outputs, (context, dilation) in zip(self.FRAME_LAYERS, sizes, sizes[1:], self.LAYERS):
            self.add_module(name, TDNNLayer(inputs, outputs, context, dilation, 1, padding, activation, affine))
        reaches = [(context - 1) * dilation for context, dilation in self.LAYERS]
        self.frames = {"none": 1 + sum(reaches), "zero": 1, "reflect": 1 + max(reaches) // 2}[padding]
        self.pool = StatisticsPooling(variance_floor, deviation_offset)
        self.segment1 = nn.Linear(2 * wide, embed_dim)
        self.activation = ACTIVATIONS[activation]
        self.bn = self.segment2 = None
        if segments == 2:
            self.bn = nn.BatchNorm1d(embed_dim, affine=affine)
            self.segment2 = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, F) features -> (B, D) embeddings, not length-normalised."""
        x = at_least(x.transpose(1, 2), self.frames)
        for name in self.FRAME_LAYERS:
            x = self.get_submodule(name)(x)
        x = self.segment1(self.pool(x))
        return x if self.segment2 is None else self.segment2(self.bn(self.activation(x)))


class XVector(TDNN):
    """Snyder et al., "X-vectors: robust DNN embeddings for speaker recognition", ICASSP 2018, table 1.

    With 80 mel channels and a 512-dim embedding 4,610,524 parameters (WeSpeaker's XVEC: 4.61 M); with
    `segments=1`, whose embedding is the affine right after pooling as in Kaldi, 4,347,868 (3D-Speaker: 4.34 M, with
    a `variance_floor` of 1e-8).

    `XVectorSpeechBrain` has reflected edges, leaky ReLU, batch norm with scale and shift, and one segment-level
    affine: with 24 mel channels 4,211,604 parameters. SpeechBrain adds noise of 1e-5 to 9e-5 to the pooled means,
    at inference too; here there is none.
    """

    LAYERS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    FRAME_LAYERS = ("frame1", "frame2", "frame3", "frame4", "frame5")
    NARROW = "frame4"
    WIDE = "frame5"


class ETDNN(TDNN):
    """Extended x-vector: Snyder et al., "Speaker recognition for multi-speaker conversations using x-vectors",
    ICASSP 2019, table 1: four layers with context, each followed by one without, before the last two.

    With 30 cepstra and a 512-dim embedding 6,057,436 parameters (Yu and Li, "Densely connected time delay neural
    network for speaker verification", table 2: 6.1 M); with 80 mel channels 6,185,436.
    """

    LAYERS = ((5, 1), (1, 1), (3, 2), (1, 1), (3, 3), (1, 1), (3, 4), (1, 1), (1, 1), (1, 1))
    FRAME_LAYERS = tuple(f"frame{number}" for number in range(1, 11))
    NARROW = "frame9"
    WIDE = "frame10"


def mirrored(x: torch.Tensor, frames: int) -> torch.Tensor:
    """`x` (B, C, T) with `frames` more at either end, mirrored at the outermost one: (B, C, T + 2 frames)."""
    # Slices rather than F.pad, whose gradient on a GPU is not the same at every run.
    return torch.cat([x[..., 1 : frames + 1].flip(-1), x, x[..., -frames - 1 : -1].flip(-1)], dim=-1)


def at_least(x: torch.Tensor, frames: int) -> torch.Tensor:
    """`x` (B, C, T) with its first and last frames repeated until there are `frames` of them."""
    lacking = frames - x.shape[-1]
    if lacking <= 0:
        return x
    before = lacking // 2
    return torch.cat([x[..., :1].expand(-1, -1, before), x, x[..., -1:].expand(-1, -1, lacking - before)], dim=-1)


def check_choice(name: str, value: str, choices) -> None:
    """ValueError for a value that is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}'; it must be one of {', '.join(choices)}")


NETWORKS = {
    "XVector": XVector,
    "XVectorSpeechBrain": partial(XVector, segments=1, padding="reflect", activation="leaky_relu", affine=True,
                                  variance_floor=1e-12, deviation_offset=1e-5),
    "ETDNN": partial(ETDNN, segments=1),
}
