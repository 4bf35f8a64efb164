"""Time delay neural networks: x-vector and extended x-vector, and the densely connected one.

A time delay layer is a convolution over time. Frame-level layers are `frame1`, `frame2`, ... in the order of the
papers' tables; the affines after pooling are `segment1` and, where there is one, `segment2`.

D-TDNN: Yu and Li, "Densely connected time delay neural network for speaker verification", Interspeech 2020.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import StatisticsPooling

PADDINGS = ("none", "zero", "reflect")
ACTIVATIONS = {"relu": F.relu, "leaky_relu": F.leaky_relu}
DENSE_BLOCKS = ((6, 1), (12, 3))  # layers and dilation of each dense block


class TDNNLayer(nn.Module):
    """Frame-level layer: affine over a context of frames, activation, batch norm: (B, C, T) -> (B, D, T').

    Args:
        inputs, outputs: channels C and D.
        context: odd number of frames that the affine sees, `dilation` apart.
        stride: input frames from one output frame to the next.
        padding: `zero` or `reflect` at both ends gives T' = T / stride, rounded up; `none` shortens by
            (context - 1) dilation. `reflect` needs more than half of that many frames.
        activation: `relu` or `leaky_relu` (slope 0.01).
        affine: whether the batch norm learns scale and shift; Kaldi's does not.
        separable: whether each channel has its own filter over time, and a 1x1 convolution then mixes them.
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

    Input shorter than the context of all layers together is lengthened by repeating its first and last frames, as
    Kaldi's nnet3-xvector-compute does; so one frame is enough.

    Args:
        feat_dim: channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width, wide: channels of all frame-level layers but the last, and of the last.
        segments: number of affines after pooling (1 or 2), of size D, with activation and batch norm between them. The
            embedding is the output of the last one.
        padding, activation, affine: arguments of every layer; see `TDNNLayer`.
        variance_floor, deviation_offset: arguments of the pooling; see `StatisticsPooling`.
    """

    LAYERS: tuple[tuple[int, int], ...]  # context and dilation of each frame-level layer
    NARROW: str  # name of the last frame-level layer of `width` channels
    WIDE: str  # name of the layer of `wide` channels, before pooling
    FRAME_LAYERS: tuple[str, ...]

    def __init__(self, feat_dim: int = 80, embed_dim: int = 512, width: int = 512, wide: int = 1500,
                 segments: int = 2, padding: str = "none", activation: str = "relu", affine: bool = False,
                 variance_floor: float = 1e-7, deviation_offset: float = 0.0):
        super().__init__()
        if segments not in (1, 2):
            raise ValueError(f"segments is {segments}; it must be 1 or 2")
        sizes = [feat_dim] + [width] * (len(self.LAYERS) - 1) + [wide]
        for name, inputs, outputs, (context, dilation) in zip(self.FRAME_LAYERS, sizes, sizes[1:], self.LAYERS):
            self.add_module(name, TDNNLayer(inputs, outputs, context, dilation, 1, padding, activation, affine))
        reaches = [(context - 1) * dilation for context, dilation in self.LAYERS]
        self.least_frames = {"none": 1 + sum(reaches), "zero": 1, "reflect": 1 + max(reaches) // 2}[padding]
        self.pool = StatisticsPooling(variance_floor, deviation_offset)
        self.segment1 = nn.Linear(2 * wide, embed_dim)
        self.activation = ACTIVATIONS[activation]
        self.bn = self.segment2 = None
        if segments == 2:
            self.bn = nn.BatchNorm1d(embed_dim, affine=affine)
            self.segment2 = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from features (B, T, F)."""
        x = at_least(x.transpose(1, 2), self.least_frames)
        for name in self.FRAME_LAYERS:
            x = self.get_submodule(name)(x)
        x = self.segment1(self.pool(x))
        return x if self.segment2 is None else self.segment2(self.bn(self.activation(x)))


class XVector(TDNN):
    """X-vector: Snyder et al., "X-vectors: robust DNN embeddings for speaker recognition", ICASSP 2018, table 1.

    It has 4,610,524 parameters with 80 mel channels and a 512-dim embedding (WeSpeaker's XVEC: 4.61 M). With
    `segments=1`, whose embedding is the affine right after pooling as in Kaldi, it has 4,347,868 (3D-Speaker: 4.34 M,
    with a `variance_floor` of 1e-8).

    `XVectorSpeechBrain` has reflected edges, leaky ReLU, batch norm with scale and shift, and one segment-level
    affine: 4,211,604 parameters with 24 mel channels. SpeechBrain adds noise of 1e-5 to 9e-5 to the pooled means,
    at inference too; here there is none.
    """

    LAYERS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
    FRAME_LAYERS = ("frame1", "frame2", "frame3", "frame4", "frame5")
    NARROW = "frame4"
    WIDE = "frame5"


class ETDNN(TDNN):
    """Extended x-vector: Snyder et al., "Speaker recognition for multi-speaker conversations using x-vectors",
    ICASSP 2019, table 1: four layers with context, each followed by one without, before the last two.

    It has 6,057,436 parameters with 30 cepstra and a 512-dim embedding (Yu and Li, "Densely connected time delay neural
    network for speaker verification", table 2: 6.1 M), and 6,185,436 with 80 mel channels.
    """

    LAYERS = ((5, 1), (1, 1), (3, 2), (1, 1), (3, 3), (1, 1), (3, 4), (1, 1), (1, 1), (1, 1))
    FRAME_LAYERS = tuple(f"frame{number}" for number in range(1, 11))
    NARROW = "frame9"
    WIDE = "frame10"


def mirrored(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Extends `x` (B, C, T) at either end by `frames` frames, mirrored at the outermost one: (B, C, T + 2 frames)."""
    # Slices rather than F.pad, whose gradient on a GPU is not the same at every run.
    return torch.cat([x[..., 1 : frames + 1].flip(-1), x, x[..., -frames - 1 : -1].flip(-1)], dim=-1)


def at_least(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Repeats the first and the last frame of `x` (B, C, T) until there are at least `frames` of them."""
    lacking = frames - x.shape[-1]
    if lacking <= 0:
        return x
    before = lacking // 2
    return torch.cat([x[..., :1].expand(-1, -1, before), x, x[..., -1:].expand(-1, -1, lacking - before)], dim=-1)


def check_choice(name: str, value: str, choices) -> None:
    """Raises ValueError, naming the setting `name`, for a value that is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is '{value}'; it must be one of {', '.join(choices)}")

class FirstLayer(nn.Module):
    """Convolution over 5 frames, batch norm, ReLU: (B, F, T) -> (B, C, T / stride), rounded up."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 5, stride=stride, padding=2, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class DenseLayer(nn.Module):
    """1x1 bottleneck and a convolution over 3 frames, batch norm and ReLU before each: (B, C, T) -> (B, growth, T)."""

    def __init__(self, inputs: int, bottleneck: int, growth: int, dilation: int):
        super().__init__()
        self.bn1 = nn.BatchNorm1d(inputs)
        self.conv1 = nn.Conv1d(inputs, bottleneck, 1, bias=False)
        self.bn2 = nn.BatchNorm1d(bottleneck)
        self.conv2 = nn.Conv1d(bottleneck, growth, 3, padding=dilation, dilation=dilation, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.hidden(x))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the input of the second convolution: (B, C, T) -> (B, bottleneck, T)."""
        return F.relu(self.bn2(self.conv1(F.relu(self.bn1(x)))))


class DenseBlock(nn.ModuleList):
    """Dense layers, each of which sees the input and the outputs of all layers before it.

    (B, C, T) -> (B, C + layers growth, T).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [x]
        for layer in self:
            found.append(layer(torch.cat(found, dim=1)))
        return torch.cat(found, dim=1)


class Transit(nn.Module):
    """Batch norm, ReLU and a 1x1 convolution to half the channels: (B, C, T) -> (B, C // 2, T)."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm1d(channels)
        self.conv = nn.Conv1d(channels, channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.relu(self.bn(x)))


class DTDNN(nn.Module):
    """D-TDNN: 6 and 12 dense layers, halved after each block, statistics pooling, affine, batch norm.

    It has 2,822,272 parameters with 30 cepstra and a 512-dim embedding (the paper's table 2: 2.8 M), and 2,854,272 with
    80 mel channels.

    Taps: the wide frame-level layer before pooling is `block2` (1024 channels), the narrow one `transit2` (512).
    Blocks and transits end in a convolution; the layers after them normalise.

    Args:
        feat_dim: channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D), the output of the last batch norm.
        width: channels of the first layer.
        growth: channels that each dense layer adds.
        bottleneck: channels inside a dense layer.
    """

    FRAME_LAYERS = ("frame1", "block1", "transit1", "block2", "transit2")
    NARROW = "transit2"
    WIDE = "block2"

    def __init__(self, feat_dim: int = 80, embed_dim: int = 512, width: int = 128, growth: int = 64,
                 bottleneck: int = 128):
        super().__init__()
        self.frame1 = FirstLayer(feat_dim, width)
        channels = width
        for number, (layers, dilation) in enumerate(DENSE_BLOCKS, start=1):
            block = [DenseLayer(channels + index * growth, bottleneck, growth, dilation) for index in range(layers)]
            channels += layers * growth
            self.add_module(f"block{number}", DenseBlock(block))
            self.add_module(f"transit{number}", Transit(channels))
            channels //= 2
        self.pool = StatisticsPooling()
        self.embedding = nn.Linear(2 * channels, embed_dim, bias=False)
        self.bn = nn.BatchNorm1d(embed_dim, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from features (B, T, F)."""
        x = x.transpose(1, 2)
        for name in self.FRAME_LAYERS:
            x = self.get_submodule(name)(x)
        return self.bn(self.embedding(self.pool(x)))


NETWORKS = {
    "XVector": XVector,
    "XVectorSpeechBrain": partial(XVector, segments=1, padding="reflect", activation="leaky_relu", affine=True,
                                  variance_floor=1e-12, deviation_offset=1e-5),
    "ETDNN": partial(ETDNN, segments=1),
    "DTDNN": DTDNN,
}
