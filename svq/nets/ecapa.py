"""ECAPA-TDNN, in the two forms of published checkpoints, and a small one of 0.32 M parameters.

It is made of blocks of Res2Net layers with squeeze-and-excitation.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import AttentiveStatisticsPooling
from svq.nets.seresnet import SqueezeExcitation
from svq.nets.tdnn import TDNNLayer, at_least, check_choice


class Res2Layer(nn.Module):
    """A convolution in steps: one group of channels after another, the result of each being added to the next group.

    (B, C, T) -> (B, C, T). Gao et al., "Res2Net: a new multi-scale backbone architecture", TPAMI 2021, section 3.1.

    Args:
        channels: C, a multiple of `scale`.
        scale: number of groups; one of them passes as it is.
        untouched: the group that passes: `first` (as in the paper, and in SpeechBrain) or `last` (WeSpeaker).
        layer: arguments of each `TDNNLayer`.
    """

    def __init__(self, channels: int, scale: int = 8, untouched: str = "last", **layer):
        super().__init__()
        if scale < 2 or channels % scale:
            raise ValueError(f"channels is {channels} and scale {scale}; scale must be at least 2 and divide channels")
        self.scale = scale
        self.untouched = untouched
        width = channels // scale
        self.parts = nn.ModuleList(TDNNLayer(width, width, **layer) for _ in range(scale - 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = list(x.chunk(self.scale, dim=1))
        kept = groups.pop(0 if self.untouched == "first" else -1)
        done = []
        for part, group in zip(self.parts, groups):
            done.append(part(group + done[-1] if done else group))
        return torch.cat([kept, *done] if self.untouched == "first" else [*done, kept], dim=1)


class SERes2Block(nn.Module):
    """1x1 layer, Res2Net layer, 1x1 layer, squeeze-and-excitation, and the input added: (B, C, T) -> (B, C, T).

    Desplanques et al., "ECAPA-TDNN", section 3.2.

    Args:
        channels: C.
        bottleneck: channels inside squeeze-and-excitation.
        scale, untouched, layer: arguments of the Res2Net layer.
    """

    def __init__(self, channels: int, bottleneck: int = 128, scale: int = 8, untouched: str = "last", **layer):
        super().__init__()
        self.reduce = TDNNLayer(channels, channels)
        self.res2 = Res2Layer(channels, scale, untouched, **layer)
        self.expand = TDNNLayer(channels, channels)
        self.se = SqueezeExcitation(channels, bottleneck)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.se(self.expand(self.res2(self.reduce(x))))


DILATIONS = (2, 3, 4)


class Form(NamedTuple):
    """The differences between the published implementations.

    padding: what is put at both ends before a convolution. untouched: the group of channels that passes a Res2Net
    layer as it is. mfa_norm: whether batch norm follows the aggregation of layers. pool: arguments of the pooling.
    """

    padding: str
    untouched: str
    mfa_norm: bool
    pool: dict


FORMS = {
    "wespeaker": Form("zero", "last", False, {}),
    "speechbrain": Form("reflect", "first", True, dict(hidden_norm=True, unbiased=False, variance_floor=1e-12)),
}


class Aggregation(nn.Module):
    """1x1 convolution and ReLU over the outputs of all blocks: (B, C, T) -> (B, D, T)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


class ECAPA(nn.Module):
    """ECAPA-TDNN: Desplanques et al., "ECAPA-TDNN: emphasized channel attention, propagation and aggregation in TDNN
    based speaker verification", Interspeech 2020, section 3.

    Parameters with 80 mel channels and a 192-dim embedding, and as published:

    ==================  ========  ======  ===========  ==========  =========================
    network             channels    wide  form          parameters  published
    ==================  ========  ======  ===========  ==========  =========================
    ECAPA512                 512    1536  wespeaker     6,190,720  6.19 M
    ECAPA1024               1024    1536  wespeaker    14,657,088  14.65 M
    ECAPASpeechBrain512      512    1536  speechbrain   6,194,048  6.2 M (the paper's C=512)
    ECAPASpeechBrain        1024    3072  speechbrain  20,767,552  20.8 M
    ECAPALite                144      72  wespeaker       319,066  318 K
    ==================  ========  ======  ===========  ==========  =========================

    3D-Speaker's ECAPA-TDNN has SpeechBrain's form. ECAPALite follows Lin et al., "Towards lightweight applications:
    asymmetric enroll-verify structure for speaker verification", ICASSP 2022: 144 channels, a stride of 2 in the
    first layer, and a separate filter over time for each channel in the Res2Net layers. We lack their table, so the
    rest is chosen here: 72 channels before pooling, and 64 in squeeze-and-excitation and in the attention, which sees
    no global context. This meets both of their figures to 0.5 %: 318 K parameters and 11.6 M operations (taken as
    multiply-accumulates for a second of 100 frames).

    Taps: the narrow frame-level layer before pooling is `layer4` (of `channels`), the wide one `mfa` (of `wide`, which
    is the smaller number in ECAPALite).
    Where edges are reflected, input of fewer than 5 frames is lengthened by repeating its first and last ones.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        channels: channels of the first layer and the blocks; a multiple of `scale`.
        wide: channels before pooling.
        form: `wespeaker` or `speechbrain`; see `Form`.
        scale: groups of channels in a Res2Net layer.
        squeeze: channels inside squeeze-and-excitation.
        attention: channels inside the pooling's attention.
        global_context: whether the attention sees the utterance's mean and deviation.
        stride: stride of the first layer.
        separable: whether Res2Net layers filter each channel alone and then mix them.
    """

    FRAME_LAYERS = ("layer1", "layer2", "layer3", "layer4", "mfa")
    NARROW = "layer4"
    WIDE = "mfa"

    def __init__(self, feat_dim: int = 80, embed_dim: int = 192, channels: int = 512, wide: int = 1536,
                 form: str = "wespeaker", scale: int = 8, squeeze: int = 128, attention: int = 128,
                 global_context: bool = True, stride: int = 1, separable: bool = False):
        super().__init__()
        check_choice("form", form, FORMS)
        padding, untouched, mfa_norm, pool = FORMS[form]
        self.least_frames = max(DILATIONS) * stride + 1 if padding == "reflect" else 1
        self.layer1 = TDNNLayer(feat_dim, channels, context=5, stride=stride, padding=padding)
        self.layer2, self.layer3, self.layer4 = (
            SERes2Block(channels, squeeze, scale, untouched, context=3, dilation=dilation, padding=padding,
                        separable=separable)
            for dilation in DILATIONS
        )
        self.mfa = (TDNNLayer if mfa_norm else Aggregation)(len(DILATIONS) * channels, wide)
        self.pool = AttentiveStatisticsPooling(wide, attention, global_context, **pool)
        self.bn = nn.BatchNorm1d(2 * wide)
        self.embedding = nn.Linear(2 * wide, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        first = self.layer1(at_least(x.transpose(1, 2), self.least_frames))
        second = self.layer2(first)
        third = self.layer3(second)
        fourth = self.layer4(third)
        frames = self.mfa(torch.cat([second, third, fourth], dim=1))
        return self.embedding(self.bn(self.pool(frames)))


NETWORKS = {
    "ECAPA512": partial(ECAPA, channels=512),
    "ECAPA1024": partial(ECAPA, channels=1024),
    "ECAPASpeechBrain": partial(ECAPA, channels=1024, wide=3072, form="speechbrain"),
    "ECAPASpeechBrain512": partial(ECAPA, channels=512, wide=1536, form="speechbrain"),
    "ECAPALite": partial(ECAPA, channels=144, wide=72, squeeze=64, attention=64, global_context=False, stride=2,
                         separable=True),
}
