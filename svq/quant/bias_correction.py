"""The mean shift that quantized weights give to a layer's output, taken off again.

Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2; here
measured on data, layer after layer in the order of execution, with all layers before it corrected.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.config import check_choices
from svq.quant.api import quantizable_modules, quantizers
from svq.quant.batchnorm_fold import norms_after_layers
from svq.quant.layers import RecurrentWeight


@dataclasses.dataclass(frozen=True)
class Correction:
    """What was done for one layer: `where` its shift was taken off (None: nowhere), and its root mean square then.

    shift: nan for a matrix of a recurrent module, which has no output of its own.
    """

    layer: str
    where: Literal["bias", "norm"] | None
    shift: float

    def __post_init__(self):
        check_choices(self)


def channel_means(module: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """(C,) float64: the mean of a layer's output over everything but its channels."""
    channels = output.dim() - 1 if isinstance(module, nn.Linear) else 1
    within = [d for d in range(1, output.dim()) if d != channels]
    # Utterance by utterance first, so that no copy in float64 is made of all of it.
    return (output.float().mean(within) if within else output).double().mean(0)


@torch.no_grad()
def output_means(net: nn.Module, feats: torch.Tensor) -> dict[str, torch.Tensor]:
    """The mean output (C,) of every convolution and linear layer of `net`, in eval mode, on `feats` (B, T, F)."""
    means = {}

    def hook_of(name):
        def hook(module, inputs, output):
            # A layer that runs more than once keeps the mean of all its runs.
            found, runs = means.get(name, (0.0, 0))
            means[name] = (found + channel_means(module, output), runs + 1)
        return hook

    hooks = [module.register_forward_hook(hook_of(name)) for name, module in quantizable_modules(net)]
    try:
        net.eval()(feats)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / runs for name, (total, runs) in means.items()}


@torch.no_grad()
def correct_biases_(net: nn.Module, feats: torch.Tensor, means: dict[str, torch.Tensor]) -> list[Correction]:
    """Takes the shift of every quantized layer's mean output off its bias, in place; returns what was done.

    net: quantized. feats: (B, T, F), all in one batch: while they pass, every layer is corrected before its output goes
    on, so that one pass does what the method does layer by layer. means: `output_means` of the float network on
    the same. Of a layer without a bias the shift goes to the running mean of the batch norm right after it, if nothing
    else reads its output. A layer that has neither is left as it is; one that runs again is corrected by its first run.
    So are matrices of recurrent modules: their outputs go through gates and back in, and no bias undoes that.
    """
    norm_of = {layer: net.get_submodule(norm) for norm, layer in norms_after_layers(net, feats).items()}
    done: dict[str, Correction] = {}

    def hook_of(name):
        def hook(module, inputs, output):
            if name in done:
                return None
            shift = channel_means(module, output) - means[name]
            where = "bias" if module.bias is not None else "norm" if name in norm_of else None
            done[name] = Correction(name, where, float(shift.square().mean().sqrt()))
            if where == "bias":
                module.bias -= shift.to(module.bias)
                return output - _along_channels(module, shift.to(output), output)
            if where == "norm":
                # Its output is then what it was for an input of the mean before.
                norm_of[name].running_mean += shift.to(norm_of[name].running_mean)
            return None
        return hook

    recurrent = [name for name, layer, _ in quantizers(net) if isinstance(layer, RecurrentWeight)]
    hooks = [layer.register_forward_hook(hook_of(name)) for name, layer, _ in quantizers(net) if name not in recurrent]
    try:
        with parametrize.cached():
            net.eval()(feats)
    finally:
        for hook in hooks:
            hook.remove()
    return [*done.values(), *(Correction(name, None, math.nan) for name in recurrent)]


def _along_channels(module: nn.Module, values: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Values (C,) in a shape that broadcasts with the layer's output."""
    return values if isinstance(module, nn.Linear) else values.view(-1, *[1] * (output.dim() - 2))
