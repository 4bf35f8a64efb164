"""Quantization without training: steps before and after the weights of a network are quantized.

Before: batch norms are folded. After: biases are corrected for the mean shift that quantized weights give to a layer's
output (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.2).
Here the shift is measured on data, layer after layer in the order of execution, with all earlier layers corrected.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.config import check_choices
from svq.quant.api import QuantConfig, quantizable_modules, quantize_, quantizers
from svq.quant.base import RecurrentWeight
from svq.quant.batchnorm_fold import fold_into_layers_, norms_after_layers
from svq.quant.calibrated import calibrate_, channel_means
from svq.quant.ptq_config import PTQConfig


@dataclasses.dataclass(frozen=True)
class PTQResult:
    """The result of quantization without training.

    folded: norm -> layer, for `ModelConfig.folded`; None where nothing was folded. corrections: one for each layer.
    calibrated: the number of stretches of speech that codes and levels were chosen on; 0: on the weights alone.
    """

    folded: dict[str, str] | None
    corrections: list[Correction]
    calibrated: int = 0

    def summary(self) -> str:
        """Tells the result in one line, empty where there is nothing to tell."""
        said = [] if self.folded is None else [f"{len(self.folded)} batch norms folded"]
        if self.calibrated:
            said.append(f"calibrated on {self.calibrated} stretches of speech")
        left = [correction.layer for correction in self.corrections if correction.where is None]
        if self.corrections:
            said.append(f"{len(self.corrections) - len(left)} of {len(self.corrections)} layers corrected")
        if left:
            said.append(f"neither bias nor norm to correct: {', '.join(left)}")
        return "; ".join(said)


def quantize_without_training_(net: nn.Module, quant: QuantConfig, ptq: PTQConfig, feats: torch.Tensor) -> PTQResult:
    """Folds, quantizes and corrects float `net`, in place, as `ptq` says; returns what was done.

    feats: (B, T, F) of calibration data; which norms are folded does not depend on their values. Raises UserError where
    folding or calibration does.
    """
    net.eval()
    folded = fold_into_layers_(net, feats[:2]) or None if ptq.fold_batch_norm else None
    if ptq.calibrate:
        calibrate_(net, quant, feats)
        return PTQResult(folded, [], len(feats))
    means = output_means(net, feats) if ptq.bias_correction else None
    quantize_(net, quant)
    return PTQResult(folded, correct_biases_(net, feats, means) if means is not None else [])


@dataclasses.dataclass(frozen=True)
class Correction:
    """The bias correction of one layer: where its shift was taken off (None: nowhere), and how large the shift was.

    shift: root mean square over channels; nan for a matrix of a recurrent module, which has no output of its own.
    """

    layer: str
    where: Literal["bias", "norm"] | None
    shift: float

    def __post_init__(self):
        check_choices(self)


@torch.no_grad()
def output_means(net: nn.Module, feats: torch.Tensor) -> dict[str, torch.Tensor]:
    """Measures the mean output (C,) of each convolution and linear layer of `net`, in eval mode, on feats (B, T, F)."""
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

    net: quantized. feats: (B, T, F), all in one batch. While they pass, every layer is corrected before its output goes
    on, so that one pass does what the method does layer by layer. means: `output_means` of the float network on the
    same `feats`. The shift of a layer without a bias goes to the running mean of the batch norm right after it, if
    nothing else reads its output. A layer that has neither stays as it is. A layer that runs more than once is
    corrected by its first run. Matrices of recurrent modules stay as they are: their outputs go through gates and back
    in, and no bias undoes that.
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
                # The norm then gives for the shifted input what it gave before for the unshifted one.
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
    """Reshapes values (C,) so that they broadcast with the layer's output."""
    return values if isinstance(module, nn.Linear) else values.view(-1, *[1] * (output.dim() - 2))
