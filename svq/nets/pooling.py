"""Pooling: frame-level features to one vector per utterance."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import nn

VARIANCE_FLOOR = 1e-7
POOLINGS = {  # WeSpeaker's names, and what they pool frames to
    "tstp": "means and standard deviations", "tap": "means alone", "tsdp": "standard deviations alone",
    "astp": "attentive means and deviations", "mhastp": "those of two groups of channels",
    "mqmhastp": "those of eight groups of channels, each twice"}


def make_pooling(name: str, channels: int, variance_floor: float = VARIANCE_FLOOR) -> tuple[nn.Module, int]:
    """Makes the pooling `name`, one of POOLINGS, of `channels` channels; gives it and the number of its values.

    The sizes are those of WeSpeaker (wespeaker/models/pooling_layers.py). variance_floor: added to plain variances, and
    the least attentive variance. Raises ValueError for another name, and for channels that do not make whole groups.
    """
    if name not in POOLINGS:
        raise ValueError(f"pooling is '{name}'; it must be one of {', '.join(POOLINGS)}")
    if name in ("tstp", "tap", "tsdp"):
        return StatisticsPooling(variance_floor, means=name != "tsdp", deviations=name != "tap"), \
            channels * (2 if name == "tstp" else 1)
    if name == "astp":
        return AttentiveStatisticsPooling(channels, global_context=False, variance_floor=variance_floor), 2 * channels
    if name == "mhastp":
        return MultiHeadPooling(channels, queries=1, heads=2, shared=True, variance_floor=variance_floor), 2 * channels
    return MultiHeadPooling(channels, queries=2, heads=8, variance_floor=variance_floor), 4 * channels


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time (Snyder et al., "X-vectors", ICASSP 2018, section 2.1), or one of the two.

    (B, C, T) -> (B, 2C), or (B, C). The deviation is the unbiased one; that of a single frame is 0.
    Computed in float32 under autocast, because squares in bfloat16 lose what tells speakers apart.

    Args:
        variance_floor: added to the variance, so that its root has a finite slope at 0; above 0 and below 1, or
            ValueError.
        deviation_offset: added to the deviation; SpeechBrain's x-vectors have 1e-5 there.
        means: whether means are given.
        deviations: whether deviations are given, behind the means.
    """

    def __init__(self, variance_floor: float = VARIANCE_FLOOR, deviation_offset: float = 0.0, means: bool = True,
                 deviations: bool = True):
        super().__init__()
        if not 0 < variance_floor < 1:
            raise ValueError(f"variance_floor is {variance_floor}; it must be above 0 and below 1")
        self.variance_floor = variance_floor
        self.deviation_offset = deviation_offset
        self.means, self.deviations = means, deviations

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        found = [x.mean(dim=-1)] if self.means else []
        if self.deviations:
            found.append((variance(x) + self.variance_floor).sqrt() + self.deviation_offset)
        return torch.cat(found, dim=1)


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation over time, weighted by a softmax over the frames for every channel.

    (B, C, T) -> (B, 2C). Desplanques et al., "ECAPA-TDNN", Interspeech 2020, section 3.1, eqs. 1 to 4, after
    Okabe et al., "Attentive statistics pooling for deep speaker embedding", Interspeech 2018. Computed in float32
    under autocast. The defaults are WeSpeaker's form; SpeechBrain's has `hidden_norm=True`, `unbiased=False` and
    `variance_floor=1e-12`.

    Args:
        channels: C of the input.
        bottleneck: channels between the two 1x1 convolutions that give the weights.
        global_context: whether the convolutions see the utterance's mean and deviation beside each frame.
        hidden_norm: whether ReLU and batch norm follow the first convolution, before the tanh.
        unbiased: whether the deviation of the global context is the unbiased one.
        variance_floor: the least variance; in the global context it is added to the variance instead.
    """

    def __init__(self, channels: int, bottleneck: int = 128, global_context: bool = True, hidden_norm: bool = False,
                 unbiased: bool = True, variance_floor: float = VARIANCE_FLOOR):
        super().__init__()
        self.global_context = global_context
        self.unbiased = unbiased
        self.variance_floor = variance_floor
        self.linear1 = nn.Conv1d(3 * channels if global_context else channels, bottleneck, 1)
        self.bn = nn.BatchNorm1d(bottleneck) if hidden_norm else None
        self.linear2 = nn.Conv1d(bottleneck, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x):
            x = x.float()
            return weighted_statistics(x, self.scores(x), self.variance_floor)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the scores whose softmax over time gives the weights: (B, C, T) -> (B, C, T)."""
        hidden = self.linear1(self.with_context(x) if self.global_context else x)
        if self.bn is not None:
            hidden = self.bn(F.relu(hidden))
        return self.linear2(torch.tanh(hidden))

    def with_context(self, x: torch.Tensor) -> torch.Tensor:
        """Puts the mean and the deviation over all frames beside every frame: (B, C, T) -> (B, 3C, T)."""
        mean = x.mean(dim=-1, keepdim=True)
        deviation = (variance(x, self.unbiased) + self.variance_floor).sqrt().unsqueeze(-1)
        return torch.cat([x, mean.expand_as(x), deviation.expand_as(x)], dim=1)


class MultiHeadPooling(nn.Module):
    """Attentive means and deviations of groups of channels: `heads` groups, each with `queries` attentions of its own.

    (B, C, T) -> (B, 2 C queries). Zhao et al., "Multi-query multi-head attention pooling and inter-topK penalty for
    speaker verification", ICASSP 2022, with standard deviations beside the means; with one query: India et al., "Self
    multi-head attention for speaker recognition", Interspeech 2019. The values are in WeSpeaker's order: for each query
    and group the means of the group, then its deviations. Computed in float32 under autocast.

    Args:
        channels: C, a multiple of `heads`; ValueError for others.
        queries: attentions of each group.
        heads: groups of channels.
        hidden: channels between the two 1x1 convolutions that give the weights.
        shared: whether all channels of a group share the weights of a frame; else each channel has its own.
        variance_floor: the least variance.
    """

    def __init__(self, channels: int, queries: int = 2, heads: int = 8, hidden: int = 64, shared: bool = False,
                 variance_floor: float = VARIANCE_FLOOR):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not make {heads} groups for the pooling; change the width or the "
                             "mel channels")
        self.heads, self.variance_floor = heads, variance_floor
        size = channels // heads
        self.queries = nn.ModuleList(nn.ModuleList(
            nn.Sequential(nn.Conv1d(size, hidden, 1), nn.Tanh(), nn.Conv1d(hidden, 1 if shared else size, 1))
            for _ in range(heads)) for _ in range(queries))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x):
            groups = x.float().chunk(self.heads, dim=1)
            return torch.cat([weighted_statistics(group, head(group), self.variance_floor)
                              for query in self.queries for head, group in zip(query, groups)], dim=1)


class LearnableDictionaryEncoding(nn.Module):
    """Mean residual of the frames to each component of a learned dictionary, by soft assignment.

    (B, C, T) -> (B, K C), the residuals of component 1 first. Cai et al., "Exploring the encoding layer and loss
    function in end-to-end speaker and language recognition system", Odyssey 2018: frame x_t belongs
    to component e_k with weight w_tk = softmax_k(-s_k |x_t - e_k|^2), where s_k >= 0 is a learned smoothing factor.
    The encoding is (1 / T) sum_t w_tk (x_t - e_k). Computed in float32 under autocast.

    Args:
        channels: C of the input.
        components: K, the number of components.
    """

    def __init__(self, channels: int, components: int = 64):
        super().__init__()
        self.dictionary = nn.Parameter(torch.randn(components, channels))
        # Squared distances grow with C; factors of 1 / C make the first assignments soft whatever the width.
        start = torch.full((components,), 1.0 / channels)
        self.raw_smoothing = nn.Parameter(torch.log(torch.expm1(start)))

    @property
    def smoothing(self) -> torch.Tensor:
        """The smoothing factors s (K,); a softplus keeps them from being negative."""
        return F.softplus(self.raw_smoothing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with full_precision(x):
            frames, dictionary = x.float().transpose(1, 2), self.dictionary.float()
            # |x - e|^2 is multiplied out, so that no (B, T, K, C) tensor is made.
            distances = (frames.square().sum(-1, keepdim=True) - 2 * frames @ dictionary.t()
                         + dictionary.square().sum(-1))
            weights = (-self.smoothing.float() * distances).softmax(dim=-1)
            summed = weights.transpose(1, 2) @ frames - weights.sum(1).unsqueeze(-1) * dictionary
            return (summed / x.shape[-1]).flatten(1)


def weighted_statistics(x: torch.Tensor, scores: torch.Tensor, variance_floor: float) -> torch.Tensor:
    """Computes means and standard deviations over time with the weights softmax(scores): (B, C, T) -> (B, 2C).

    scores: (B, C, T), or (B, 1, T) for weights that all channels share. variance_floor: the least variance.
    """
    weights = scores.softmax(dim=-1)
    mean = (weights * x).sum(dim=-1)
    moment = (weights * (x - mean.unsqueeze(-1)).square()).sum(dim=-1)
    return torch.cat([mean, moment.clamp(min=variance_floor).sqrt()], dim=1)


def variance(x: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """Computes the variance over the last dimension; 0 for a single frame."""
    return x.var(dim=-1, correction=min(1, x.shape[-1] - 1) if unbiased else 0)


def full_precision(x: torch.Tensor):
    """Makes a context without autocast on the device of `x`, which may be `meta`, where there is no autocast."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)
