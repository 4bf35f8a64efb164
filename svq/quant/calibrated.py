"""Quantization without training or labels: each layer's codes and levels are chosen for the error of its output.

A few hundred seconds of speech go through the network once. Each utterance is there twice, side by side: as the float
network has it, and as the network has it in which all layers so far are quantized. When both reach a layer, its weights
are quantized for the inputs at hand (svq.quant.output_error), its bias takes up the shift of the mean output, and a
batch norm takes up what is left of the shift and the spread of its input. So each layer also makes good the errors of
the layers before it.

Each matrix of a recurrent module is calibrated for the error of what it adds to the gates, layer after layer and
direction after direction. The matrix of the inputs comes first, then that of the states. The inputs of the latter are
the states that the layer reaches with its first matrix quantized.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.errors import UserError
from svq.progress import progress
from svq.quant.api import QuantConfig, layers_to_quantize, warn_of_float_weights
from svq.quant.base import attach_
from svq.quant.batchnorm_fold import norms_after_layers
from svq.quant.levels import optimal_levels
from svq.quant.output_error import (
    Fit,
    Moments,
    as_rows,
    moments_of,
    prepare,
    quantize_layer,
    sequence_moments,
    values_of,
)
from svq.quant.quantizers import make_quantizer, with_codebook

METHODS = ("kmqat", "uniform", "pot", "apot", "integer")
INSIDE = 0.1  # float weights are put this share of the way from a threshold to the level
SPREADS = 0.25, 4.0  # limits of the factor by which the variance of a batch norm's input may change


@torch.no_grad()
def calibrate_(net: nn.Module, config: QuantConfig, feats: torch.Tensor, title: str = "calibrate") -> nn.Module:
    """Quantizes the layers of float `net` in place, for the least error of their outputs on `feats`; returns `net`.

    feats: (B, T, F), utterances or stretches of them; all go through the network at once. The float weights behind the
    quantizers are the old ones, moved just so far that they get the codes found. Raises UserError for a method whose
    levels follow from the weights at every step, for layers that are quantized already, do not exist or take no part in
    the embedding, for weights or `feats` that are not float32, and for `feats` that are empty or not finite. `net` is
    then as it was, but in eval mode.
    """
    if config.method not in METHODS:
        raise UserError(f"method {config.method} cannot be calibrated; take one of {', '.join(METHODS)}")
    if config.binary == "static":
        raise UserError("binary static cannot be calibrated; leave it out, or take adaptive")
    layers = layers_to_quantize(net, config)
    _check_numbers(layers, feats)
    net.eval()
    calibration = _Calibration(net, config, layers, len(feats), norms_after_layers(net, feats), title)
    with calibration:
        net(torch.cat([feats, feats]))
    calibration.finish()
    warn_of_float_weights(net)
    return net


def _check_numbers(layers: dict, feats: torch.Tensor) -> None:
    other = next((name for name, layer in layers.items() if layer.weight.dtype != torch.float32), None)
    if other is not None:
        raise UserError(f"layer {other}: its weights are {layers[other].weight.dtype}; calibrate a network in float32")
    if feats.dim() != 3 or not feats.numel() or feats.dtype != torch.float32:
        raise UserError(f"calibration features must be (utterances, frames, mel channels), float32; these are "
                        f"{tuple(feats.shape)}, {feats.dtype}")
    finite = feats.isfinite().flatten(1).all(1)
    if not finite.all():
        raise UserError(f"calibration features of utterance {int(finite.int().argmin()) + 1} of {len(feats)} are not "
                        "finite; leave it out")


class _Calibration:
    """Hooks on a network while calibration data pass: the first half of each batch in float, the second quantized."""

    def __init__(self, net: nn.Module, config: QuantConfig, layers: dict, size: int, norm_of_layer: dict[str, str],
                 title: str):
        self.net, self.config, self.layers, self.size = net, config, layers, size
        self.with_norm = set(norm_of_layer.values())
        self.weights: dict[str, tuple] = {}  # (weight, quantizer) of each layer
        self.biases: dict[str, torch.Tensor] = {}  # by name of the parameter
        self.recurrent: dict[str, RecurrentCalibration] = {}
        self.norms: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.hooks = []
        self.bar = iter(progress(range(len(self.layers)), len(self.layers), title))

    def __enter__(self):
        matrices = {}
        for name, layer in self.layers.items():
            if isinstance(layer, nn.Module):
                self.hooks.append(layer.register_forward_hook(self._layer_hook(name)))
            elif isinstance(layer.module, nn.RNNBase):
                matrices.setdefault(name.removesuffix(layer.tensor), (layer.module, set()))[1].add(layer.tensor)
        for prefix, (module, names) in matrices.items():
            self.hooks.append(module.register_forward_hook(self._recurrent_hook(prefix, names)))
        for name, module in self.net.named_modules():
            if isinstance(module, _BatchNorm):
                self.hooks.append(module.register_forward_hook(self._norm_hook(name)))

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def finish(self) -> None:
        """Puts weights, quantizers, biases and statistics of batch norms into the network.

        Raises UserError for a layer that took no part in the pass.
        """
        for name, layer in self.layers.items():
            if not isinstance(layer, nn.Module) and not isinstance(layer.module, nn.RNNBase):
                self._fit(name, layer.weight, None)  # a cell, called step by step: it has no hook, hence no moments
            if name not in self.weights:
                raise UserError(f"layer {name} takes no part in the embedding; leave it in float: layers: {{{name}: 32}}")
        for name, layer in self.layers.items():
            weight, quantizer = self.weights[name]
            layer.weight.copy_(within_cells(layer.weight, weight, quantizer))
            attach_(layer, quantizer)
        for name, bias in self.biases.items():
            self.net.get_parameter(name).copy_(bias)
        for name, (mean, var) in self.norms.items():
            norm = self.net.get_submodule(name)
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
        next(self.bar, None)

    def _halves(self, name: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Splits the input of a module into that of the float and that of the quantized network.

        Dimension 0 holds utterances, or the frames of one utterance after the other.
        """
        if len(x) % (2 * self.size):
            raise UserError(f"{name}: its input has {len(x)} rows for {2 * self.size} utterances, so it is unclear "
                            "whose they are; quantize this network without ptq.calibrate")
        return x.split(len(x) // 2)

    def _fit(self, name: str, weight: torch.Tensor, moments, groups: int = 1) -> tuple:
        """Quantizes the weight of a layer, once; returns the quantized weight and its quantizer."""
        self.weights[name] = fit_weight(weight.detach(), self.config, self.config.bits_of(name), groups, moments)
        next(self.bar)
        return self.weights[name]

    def _layer_hook(self, name):
        bias = f"{name}.bias" if name else "bias"

        def hook(module, inputs, output):
            before, after = self._halves(name, inputs[0])
            if name not in self.weights:
                self._calibrate(name, bias, module, before, after, output[: len(before)])
            weight = self.weights[name][0]
            return torch.cat([output[: len(before)], run(module, after, weight, self.biases.get(bias))])
        return hook

    def _calibrate(self, name, bias, module, before, after, expected) -> None:
        """Quantizes a layer for the inputs of both networks, (B, ...), and corrects its bias by the float outputs."""
        centred = module.bias is not None or name in self.with_norm
        moments = moments_of(module, before, after, centred)
        weight, _ = self._fit(name, module.weight, moments, getattr(module, "groups", 1))
        if module.bias is not None:
            shift = channel_means(module, run(module, after, weight, module.bias)) - channel_means(module, expected)
            self.biases[bias] = module.bias - shift.to(module.bias)

    def _recurrent_hook(self, prefix, names):
        def hook(module, inputs, outputs):
            before, after = both_inputs(module, inputs, self.size, prefix.rstrip("."))
            if prefix not in self.recurrent:
                found = RecurrentCalibration(module, names, lambda name, *rest: self._fit(prefix + name, *rest))
                found.run(before, after)
                self.recurrent[prefix] = found
                self.biases |= {prefix + name: value for name, value in found.quantized.named_parameters()
                                if name.startswith("bias")}
            quantized = self.recurrent[prefix].quantized
            return joined(module, outputs, quantized(after if module.batch_first else after.transpose(0, 1)), len(after))
        return hook

    def _norm_hook(self, name):
        def hook(module, inputs, output):
            before, after = self._halves(name, inputs[0])
            if module.running_mean is None:  # it uses the statistics of the batch: each network gets those of its own
                return torch.cat([module.forward(before), module.forward(after)])
            if name not in self.norms:
                self.norms[name] = matched_statistics(module, before, after)
            mean, var = self.norms[name]
            return torch.cat([output[: len(before)], F.batch_norm(after, mean, var, module.weight, module.bias,
                                                                eps=module.eps)])
        return hook


def run(module: nn.Module, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Computes the output of a convolution or linear layer for x with the given weight and bias in place of its own."""
    return F.linear(x, weight, bias) if isinstance(module, nn.Linear) else module._conv_forward(x, weight, bias)


def fit_weight(weight: torch.Tensor, config: QuantConfig, bits: int, groups: int, moments):
    """Quantizes one weight; returns the quantized weight, of the same shape, and the quantizer that has its levels.

    moments: those of the layer's inputs (svq.quant.output_error); None: they are unknown, and the weight is rounded.
    """
    if moments is None:
        quantizer = make_quantizer(weight, config, bits)
        return quantizer(weight), quantizer
    target, square = prepare(as_rows(weight, groups), moments)
    quantizer = make_quantizer(target.view_as(weight), config, bits)
    free = config.method == "kmqat"
    levels = quantizer.codebook()
    shared = levels.dim() == 1
    if free:
        levels = weighted_levels(target, square, levels.shape[-1], shared)
    levels = levels.to(target).expand(len(weight), -1).reshape(*target.shape[:2], -1)
    codes, levels = quantize_layer(Fit(target, square, levels, shared, free))
    table = levels[0, 0] if shared else levels.flatten(0, 1)
    quantizer = with_codebook(quantizer, weight, table)
    # The levels are taken from the quantizer, since its own rounding of them is what will be packed.
    kept = quantizer.codebook()
    kept = kept.expand(len(weight), -1).reshape(*target.shape[:2], -1)
    return values_of(codes, kept).view_as(weight), quantizer


def within_cells(weight: torch.Tensor, quantized: torch.Tensor, quantizer) -> torch.Tensor:
    """Moves float weights just so far that `quantizer` gives `quantized`, of the same shape.

    So finetuning starts at the quantized weights, and may still take a weight back over the threshold that it was moved
    across. A weight put on its level, in the middle of the cell, would stay there.
    """
    codes = quantizer.codes(quantized).long()
    levels, thresholds = quantizer.codebook(), quantizer.thresholds()
    low = torch.lerp(thresholds, levels[..., 1:], INSIDE)
    high = torch.lerp(thresholds, levels[..., :-1], INSIDE)
    end = torch.full_like(levels[..., :1], torch.inf)
    bounds = [torch.cat([-end, low], -1), torch.cat([high, end], -1)]
    rows = codes.flatten(1) if levels.dim() == 2 else codes.flatten()
    low, high = (bound.gather(-1, rows).view_as(weight) for bound in bounds)
    return torch.minimum(torch.maximum(weight, low), high)


def weighted_levels(target: torch.Tensor, square: torch.Tensor, count: int, shared: bool) -> torch.Tensor:
    """Computes k-means levels of weights T (G, O, N), each weighed by its entry on the diagonal of S (G, N, N).

    Returns `count` levels for all weights, (K,), if `shared`, else for each output channel, (C, K).
    """
    weights = square.diagonal(dim1=-2, dim2=-1)[:, None].expand(target.shape)
    rows = (1, -1) if shared else (target.shape[0] * target.shape[1], -1)
    found = optimal_levels(target.reshape(rows).cpu().numpy(), count, weights.reshape(rows).cpu().numpy())
    return torch.from_numpy(found[0] if shared else found).to(target.device)


def channel_means(module: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Averages a layer's output over everything but its channels: (C,) float64."""
    channels = output.dim() - 1 if isinstance(module, nn.Linear) else 1
    within = [d for d in range(1, output.dim()) if d != channels]
    # Utterance by utterance first, so that the whole output is not copied to float64.
    return (output.float().mean(within) if within else output).double().mean(0)


def matched_statistics(norm: _BatchNorm, before: torch.Tensor, after: torch.Tensor):
    """Computes the running mean and variance (C,) of `norm` for which its output keeps its mean and spread.

    With them, inputs `after` (B, C, ...) give the mean and spread that inputs `before` give with the norm's own ones.
    """
    over = [0, *range(2, before.dim())]
    found = zip(*(torch.var_mean(x, over, correction=0) for x in (before, after)))
    variances, means = (torch.stack(pair).double() for pair in found)
    ratio = torch.where(variances[0] > 0, variances[1] / variances[0].clamp(min=1e-30), 1.0).clamp(*SPREADS)
    mean = means[1] + (norm.running_mean.double() - means[0]) * ratio.sqrt()
    return mean.to(norm.running_mean), (norm.running_var.double() * ratio).to(norm.running_var)


Fitting = Callable[[str, torch.Tensor, Moments], tuple]  # name of a matrix, its weight, moments -> weight, quantizer


class RecurrentCalibration:
    """The quantized matrices of one recurrent module, and their quantizers, found for its inputs in both networks.

    module: nn.LSTM, nn.GRU or nn.RNN in float, left as it is; `quantized` is its quantized copy. fit: quantizes a
    matrix; it is called for those in `names` (such as `weight_ih_l0`). quantizers: by these names. The matrix of a
    projection (proj_size) is fitted to its weights alone (moments None), because the module does not show its inputs.
    """

    def __init__(self, module: nn.RNNBase, names: set[str], fit: Fitting):
        self.module, self.names, self.fit = module, names, fit
        self.quantized = copy.deepcopy(module)
        self.quantized._forward_hooks.clear()
        self.quantizers: dict[str, nn.Module] = {}

    def run(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Quantizes the matrices for inputs (B, T, I) of the module in the float and in the quantized network."""
        for layer in range(self.module.num_layers):
            found = [self._direction(f"l{layer}{suffix}", before, after)
                     for suffix in ("", "_reverse")[: 1 + self.module.bidirectional]]
            before, after = (torch.cat(sequences, -1) for sequences in zip(*found))

    def _direction(self, suffix: str, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Quantizes one direction of one layer; returns its outputs (B, T, H), float and quantized."""
        if suffix.endswith("_reverse"):
            before, after = before.flip(1), after.flip(1)
        self._quantize(f"weight_ih_{suffix}", f"bias_ih_{suffix}", before, after)
        states = _run(self.module, suffix, before), _run(self.quantized, suffix, after)
        self._quantize(f"weight_hh_{suffix}", f"bias_hh_{suffix}", *map(_previous, states))
        if self.module.proj_size:
            self._quantize(f"weight_hr_{suffix}")
        outputs = states[0], _run(self.quantized, suffix, after)
        return tuple(x.flip(1) for x in outputs) if suffix.endswith("_reverse") else outputs

    def _quantize(self, name: str, bias: str = "", before=None, after=None) -> None:
        if name not in self.names:
            return
        weight = getattr(self.module, name)
        moments = None if before is None else sequence_moments(before, after, centred=self.module.bias)
        quantized, self.quantizers[name] = self.fit(name, weight, moments)
        getattr(self.quantized, name).copy_(quantized)
        if self.module.bias and moments is not None:
            shift = quantized.double() @ moments.means[1][0] - weight.double() @ moments.means[0][0]
            getattr(self.quantized, bias).sub_(shift.to(weight))


def _run(module: nn.RNNBase, suffix: str, x: torch.Tensor) -> torch.Tensor:
    """Runs one direction of one layer of `module` on inputs (B, T, I), forwards in time; returns outputs (B, T, H)."""
    options = {"proj_size": module.proj_size} if isinstance(module, nn.LSTM) else {}
    if isinstance(module, nn.RNN):
        options["nonlinearity"] = module.nonlinearity
    kind = next(kind for kind in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(module, kind))
    single = kind(x.shape[-1], module.hidden_size, 1, bias=module.bias, batch_first=True, **options).to(x)
    for name in list(single._flat_weights_names):
        getattr(single, name).copy_(getattr(module, name.replace("l0", suffix)))
    return single(x)[0]


def _previous(states: torch.Tensor) -> torch.Tensor:
    """Gives the states (B, T, H) that steps begin with, the first one zeros, from the states that they end with."""
    return torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)


def both_inputs(module: nn.RNNBase, inputs: tuple, size: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Splits the input of `module` into those of the float and of the quantized network, (B, T, I) each.

    B is the number of utterances, `size`, or a multiple of it where a network cuts them into windows. Raises UserError for
    packed sequences, for given initial states, and for a batch whose rows cannot be told apart.
    """
    x = inputs[0]
    if not isinstance(x, torch.Tensor) or x.dim() != 3 or (len(inputs) > 1 and inputs[1] is not None):
        raise UserError(f"layer {name}: takes packed sequences or initial states, for which it cannot be calibrated; "
                        "quantize this network without ptq.calibrate")
    x = x if module.batch_first else x.transpose(0, 1)
    if len(x) % (2 * size):
        raise UserError(f"layer {name}: its input has {len(x)} sequences for {2 * size} utterances, so it is unclear whose "
                        "they are; quantize this network without ptq.calibrate")
    return x.split(len(x) // 2)


def joined(module: nn.RNNBase, outputs: tuple, quantized: tuple, size: int) -> tuple:
    """Returns `outputs` of a module with the second half of the batch replaced by `quantized`, of the quantized one.

    Both hold a sequence and final states, as recurrent modules return them; size: sequences in each half.
    """
    batch = 0 if module.batch_first else 1
    states, others = ((part,) if isinstance(part, torch.Tensor) else part for part in (outputs[1], quantized[1]))
    states = tuple(torch.cat([one[:, :size], other], 1) for one, other in zip(states, others))
    sequence = torch.cat([outputs[0].narrow(batch, 0, size), quantized[0]], batch)
    return sequence, states if isinstance(outputs[1], tuple) else states[0]
