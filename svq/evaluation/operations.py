"""Counts the operations of a system, estimates their cost at low bits by an assumption, and measures milliseconds.

These three are easily taken for one another. FLOPs are counted here and nowhere else; svq/pack counts the bytes of a
packed file.
"""

from __future__ import annotations

import math
import time
from typing import Callable, NamedTuple, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from svq.data.frontend import filter_bank
from svq.network import ModelConfig
from svq.quant.api import FLOAT_BITS, float_weight, quantizable
from svq.quant.base import tensor_of

SHIFT, WINDOW = 10_000, 25_000  # microseconds from frame to frame and of a frame
ASSUMPTION = (f"an operation with a weight of b bits counts as b/{FLOAT_BITS} of one (8 bits: a quarter); activations, "
              "and so the arithmetic that is really done, stay as they are")


def frames_in(seconds: float) -> int:
    """Counts the whole frames in a recording of so many seconds: 198 in 2 seconds; 0 where it is shorter than one."""
    return max(0, 1 + (round(1e6 * seconds) - WINDOW) // SHIFT)


def _at_each_frame(inputs: torch.Size, weights) -> int:
    """Counts the FLOPs of all frames of inputs (..., F) times the matrices among the weights, from their shapes."""
    return 2 * math.prod(inputs[:-1]) * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def flop_counter() -> FlopCounterMode:
    """Makes torch's own counter of FLOPs, and teaches it recurrent layers that are one operation of oneDNN or cuDNN."""
    return FlopCounterMode(display=False, custom_mapping={
        torch.ops.aten.mkldnn_rnn_layer: lambda inputs, *rest, **named: _at_each_frame(inputs, rest[:4]),
        torch.ops.aten._cudnn_rnn: lambda inputs, weights, *rest, **named: _at_each_frame(inputs, weights)})


class Operations(NamedTuple):
    """The operations of one utterance.

    flops: by torch's own counter, a multiplication and an addition being two. equivalent: their number under
    ASSUMPTION.
    """

    flops: int
    equivalent: float


@torch.no_grad()
def flops_by_layer(net: nn.Module, feat_dim: int, frames: int) -> tuple[dict[str, int], int]:
    """Counts the floating-point operations of every layer, and of the whole network, on (frames, feat_dim) features.

    Those of a recurrent module are shared out by size among its matrices, each of which is used once a frame. Batch
    norm, activations, sums and the front end are not counted. `net` may be on the meta device.
    """
    layers: dict[nn.Module, dict[str, int]] = {}  # module -> its layers and their sizes
    for name, layer in quantizable(net):
        layers.setdefault(tensor_of(layer)[0], {})[name] = float_weight(layer).numel()
    found, begun, hooks = dict.fromkeys(layers, 0), {}, []
    training = net.training
    net.eval()
    try:
        with flop_counter() as counter:
            for module in layers:
                def start(module, *_):
                    begun[module] = counter.get_total_flops()

                def end(module, *_):
                    found[module] += counter.get_total_flops() - begun[module]

                hooks += [module.register_forward_pre_hook(start), module.register_forward_hook(end)]
            net(torch.zeros(1, frames, feat_dim, device=next(net.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
        net.train(training)
    shares = {name: found[module] * size // sum(sizes.values()) for module, sizes in layers.items()
              for name, size in sizes.items()}
    return shares, counter.get_total_flops()


def operations(config: ModelConfig, seconds: float) -> Operations:
    """Counts the operations of the network of `config` for an utterance of so many seconds.

    Weights have the bits of `config.quant`; computation outside its layers has 32.
    """
    with torch.device("meta"):
        net = config.build()
    frames = filter_bank(config.front_end).num_frames(round(seconds * config.front_end.rate))
    layers, total = flops_by_layer(net, config.front_end.num_mels, frames)
    saved = sum(count * (1 - layer_bits(config, name) / FLOAT_BITS) for name, count in layers.items())
    return Operations(total, total - saved)


def layer_bits(config: ModelConfig, layer: str) -> int:
    """Gives the bits of a layer's weights: those of `config.quant`, FLOAT_BITS without one."""
    return FLOAT_BITS if config.quant is None else config.quant.bits_of(layer)


def milliseconds(runs: Sequence[Callable[[], object]], times: int, warm_up: int = 2) -> list[float]:
    """Measures each of `runs`: the median milliseconds of `times` calls, after `warm_up` calls.

    The runs take turns, so that a machine that is slow for a while slows all of them.
    """
    taken = np.empty((times, len(runs)))
    for i in range(-warm_up, times):
        for j, run in enumerate(runs):
            start = time.perf_counter()
            run()
            taken[max(i, 0), j] = time.perf_counter() - start
    return [float(value) for value in 1000 * np.median(taken, axis=0)]


def count_flops(net: nn.Module, feat_dim: int, frames: int) -> int:
    """Counts the floating-point operations of `net` for one utterance of (frames, feat_dim) features.

    Torch's own counter counts convolutions and matrix products, a multiplication and an addition being two. Papers that
    count multiply-accumulates give half of it. `net` may be on the meta device, where nothing is computed.
    """
    return flops_by_layer(net, feat_dim, frames)[1]
