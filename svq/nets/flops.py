"""How much a network computes for a recording."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SHIFT, WINDOW = 10_000, 25_000  # microseconds from frame to frame and of a frame


def frames_in(seconds: float) -> int:
    """Whole frames in a recording of that length, 198 in 2 seconds; 0 where it is shorter than one."""
    return max(0, 1 + (round(1e6 * seconds) - WINDOW) // SHIFT)


def _at_each_frame(inputs: torch.Size, weights) -> int:
    """Of the products of all frames of inputs (..., F) with the matrices among the weights; shapes, not tensors."""
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def flop_counter() -> FlopCounterMode:
    """Makes torch's own counter, which here knows recurrent layers too that are one operation of oneDNN or cuDNN."""
    return FlopCounterMode(display=False, custom_mapping={
        torch.ops.aten.mkldnn_rnn_layer: lambda inputs, *rest, **named: _at_each_frame(inputs, rest[:4]),
        torch.ops.aten._cudnn_rnn: lambda inputs, weights, *rest, **named: _at_each_frame(inputs, weights)})


@torch.no_grad()
def count_flops(net: nn.Module, feat_dim: int, frames: int) -> int:
    """Floating-point operations of `net` for one utterance of (frames, feat_dim) features.

    Torch's own counter: convolutions and matrix products, a multiplication and an addition being two. Papers that count
    multiply-accumulates give half of it. `net` may be on the meta device, where nothing is computed.
    """
    device = next(net.parameters()).device
    training = net.training
    net.eval()
    try:
        with flop_counter() as counter:
            net(torch.zeros(1, frames, feat_dim, device=device))
    finally:
        net.train(training)
    return counter.get_total_flops()
