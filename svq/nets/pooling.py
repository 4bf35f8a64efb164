"""Pooling: frame-level features to one vector per utterance."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import nn

VARIANCE_FLOOR = 1e-7


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over time (Snyder et al., "X-vectors", ICASSP 2018, section 2.1).

    (B, C, T) -> (B, 2C). The deviation is the unbiased one; that of a single frame is 0.
    Computed in float32 under autocast, because squares in bfloat16 lose what tells speakers apart.

    Args:
        variance_floor: added to the variance, so that its root has a finite slope at 0; above 0 and below 1, or
            ValueError.
        deviation_offset: added to the deviation; SpeechBrain's x-vectors have 1e-5 there.
    """

    def __init__(self, variance_floor: float = VARIANCE_FLOOR, deviation_offset: float = 0.0):
        super().__init__()
        if not 0 < variance_floor < 1:
            raise ValueError(f"variance_floor is {variance_floor}; it must be above 0 and below 1")
        self.variance_floor = variance_floor
        self.deviation_offset = deviation_offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        deviation = (variance(x) + self.variance_floor).sqrt()
        return torch.cat([x.mean(dim=-1), deviation + self.deviation_offset], dim=1)


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
            weights = self.scores(x).softmax(dim=-1)
            mean = (weights * x).sum(dim=-1)
            moment = (weights * (x - mean.unsqueeze(-1)).square()).sum(dim=-1)
            return torch.cat([mean, moment.clamp(min=self.variance_floor).sqrt()], dim=1)

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


def variance(x: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """Computes the variance over the last dimension; 0 for a single frame."""
    return x.var(dim=-1, correction=min(1, x.shape[-1] - 1) if unbiased else 0)


def full_precision(x: torch.Tensor):
    """Makes a context without autocast on the device of `x`, which may be `meta`, where there is no autocast."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)
