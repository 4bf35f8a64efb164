"""`quantize_(net, config)` puts quantizers on the weights of any network; `quantized_layers` looks inside.

`FoldedBatchNorm` is a batch norm at inference: one scale and one shift a channel, half of what it keeps in training.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.errors import UserError, some_of
from svq.nets.blocks import LAYERS, recurrent_weights
from svq.quant.base import Layer, Quantizer, RecurrentWeight, attach_, detach_, parametrization
from svq.quant.config import QuantConfig
from svq.quant.methods import FLOAT_BITS
from svq.quant.nested import PrecisionNorms, switch_norms_
from svq.quant.quantizers import make_quantizer

WORTH_A_WARNING = 0.01  # quantize_ warns if it has no quantizer for more than this share of the weights


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """A quantized weight: name of its layer, float weights, levels (the codebook, ascending), bits."""

    name: str
    weight: np.ndarray
    levels: np.ndarray
    bits: int


def quantizable(net: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Yields (name, layer) for every weight that can be quantized, in the order of the network.

    A layer is the module of a convolution or linear layer, or a `RecurrentWeight`, one for each matrix of a recurrent
    module, named `rnn.weight_ih_l0` and so on. `float_weight` and all below take either.
    """
    for name, module in net.named_modules():
        if isinstance(module, LAYERS):
            yield name, module
        for layer, tensor in recurrent_weights(name, module):
            yield layer, RecurrentWeight(module, tensor)


def quantizable_modules(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields (name, module) for every convolution and linear layer: layers with an output and a bias of their own."""
    return ((name, layer) for name, layer in quantizable(net) if isinstance(layer, nn.Module))


def state_names(net: nn.Module) -> dict[str, str]:
    """Maps the name of every layer of `net` to the name of its weight in the state of the float network."""
    return {name: name if isinstance(layer, RecurrentWeight) else f"{name}.weight" if name else "weight"
            for name, layer in quantizable(net)}


def left_in_float(net: nn.Module) -> list[tuple[str, int]]:
    """Lists name and size of every parameter of two or more dimensions for which there is no quantizer at any bits.

    Examples are the weights of embeddings (nn.Embedding) and of transposed convolutions, and the in_proj_weight of
    nn.MultiheadAttention. A dimension of size one does not count: biases and scales of channels come in such shapes.
    """
    known = {id(float_weight(layer)) for _, layer in quantizable(net)}
    return [(name, parameter.numel()) for name, parameter in net.named_parameters()
            if sum(size > 1 for size in parameter.shape) > 1 and id(parameter) not in known
            and "parametrizations" not in name.split(".")]


def layers_to_quantize(net: nn.Module, config: QuantConfig, only: Collection[str] | None = None) -> dict[str, Layer]:
    """Finds the layers of float `net` to which `config` gives less than 32 bits, by name; just those named in `only`.

    Raises UserError if one of them is quantized already, and for a name in `config.layers` or `only` that `net` does
    not have.
    """
    layers = dict(quantizable(net))
    unmatched = [name for name in config.layers or () if not any(fnmatchcase(layer, name) for layer in layers)]
    for name in [*unmatched, *(only or ())]:
        if name not in layers:
            raise UserError(f"the network has no layer {name} to quantize; it has {', '.join(layers)}")
    chosen = [name for name in layers if (only is None or name in only) and config.bits_of(name) != FLOAT_BITS]
    for name in chosen:
        if parametrization(layers[name]) is not None:
            raise UserError(f"layer {name} is quantized already; quantize a float network")
    return {name: layers[name] for name in chosen}


def quantize_(net: nn.Module, config: QuantConfig, only: Collection[str] | None = None) -> nn.Module:
    """Quantizes, in place, every layer of `net` that `quantizable` finds (or those named in `only`); returns `net`.

    Biases, batch norms and layers to which `config` gives 32 bits stay in float. The float weights remain the trained
    parameters (`module.parametrizations.weight.original`). With method nested every batch norm becomes one for each
    precision. Warns of weights of other kinds (`left_in_float`) if they are more than a hundredth of all. Raises
    UserError if such a layer is quantized already, and for a name in `config.layers` or `only` that `net` does not
    have.
    """
    chosen = layers_to_quantize(net, config, only)
    for name, layer in chosen.items():
        attach_(layer, make_quantizer(layer.weight, config, config.bits_of(name)))
    if chosen:
        warn_of_float_weights(net)
    return switch_norms_(net, config.precisions) if config.method == "nested" else net


def warn_of_float_weights(net: nn.Module) -> None:
    """Warns of weights of `net` that have no quantizer (`left_in_float`) if they are more than a hundredth of all."""
    left = left_in_float(net)
    count = sum(size for _, size in left)
    total = count + sum(float_weight(layer).numel() for _, layer in quantizable(net))
    if count > WORTH_A_WARNING * total:
        names = some_of(name for name, _ in left)
        warnings.warn(f"{100 * count / total:.1f} % of the weights stay in float, as there is no quantizer for {names}",
                      stacklevel=3)


def quantizers(net: nn.Module) -> Iterator[tuple[str, Layer, Quantizer]]:
    """Yields (name, layer, quantizer) for every quantized weight, in the order of the network."""
    for name, layer in quantizable(net):
        found = parametrization(layer)
        if found is not None:
            yield name, layer, found[0]


def freeze_(net: nn.Module) -> nn.Module:
    """Replaces float weights and quantizers of `net`, in eval mode, by the quantized weights; returns `net`.

    For inference: embeddings stay the same, but no weight is quantized again for each of them.
    """
    for _, layer, _ in list(quantizers(net)):
        detach_(layer, keep_quantized=True)
    return net


def outer_update_(net: nn.Module) -> None:
    """Calls `outer_update` of every quantizer of `net` that has one (ADMM), as is due between epochs of finetuning."""
    for _, layer, quantizer in quantizers(net):
        update = getattr(quantizer, "outer_update", None)
        if update is not None:
            update(float_weight(layer).detach())


def refit_(net: nn.Module) -> None:
    """Refits to the present weights what quantizers of `net` (TWN, ADMM) fit in training; for use after averaging."""
    for _, layer, quantizer in quantizers(net):
        refit = getattr(quantizer, "refit", None)
        if refit is not None:
            refit(float_weight(layer).detach())


def quantized_layers(net: nn.Module) -> list[QuantizedLayer]:
    """Lists the quantized layers of `net` as arrays, for reports, in the order of the network."""
    return [
        QuantizedLayer(name, float_weight(layer).detach().cpu().numpy(), q.codebook().cpu().numpy(), q.bits)
        for name, layer, q in quantizers(net)
    ]


def float_weight(layer: Layer) -> torch.Tensor:
    """Returns the float weight of a layer; of a quantized layer the one behind the quantized weight."""
    found = parametrization(layer)
    return layer.weight if found is None else found.original


def average_bits(net: nn.Module) -> float:
    """Averages the bits per weight over the layers of `net` that can be quantized; those in float have 32."""
    bits = {name: quantizer.bits for name, _, quantizer in quantizers(net)}
    counts = {name: float_weight(layer).numel() for name, layer in quantizable(net)}
    if not counts:
        return float(FLOAT_BITS)
    return sum(count * bits.get(name, FLOAT_BITS) for name, count in counts.items()) / sum(counts.values())


def count_parameters(net: nn.Module) -> int:
    """Counts the learned numbers of the float network behind `net`.

    Scales of quantizers do not count. A folded norm counts as two numbers a channel. Of norms that differ by precision
    those of one precision count.
    """
    own = {id(p) for _, _, quantizer in quantizers(net) for p in quantizer.parameters()}
    own |= {id(p) for m in net.modules() if isinstance(m, PrecisionNorms) for p in m.lower_parameters()}
    learned = sum(p.numel() for p in net.parameters() if id(p) not in own)
    return learned + sum(2 * m.scale.numel() for m in net.modules() if isinstance(m, FoldedBatchNorm))


class FoldedBatchNorm(nn.Module):
    """Computes y = x * scale + shift over channels (dimension 1), in place of a batch norm in eval mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


@torch.no_grad()
def scales_and_shifts(norms: Sequence[_BatchNorm]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Computes scale and shift (C,) that each of `norms` applies in eval mode: float32 on the CPU, made in float64.

    All norms are computed at once: a deep network has a hundred of them, of a few hundred channels each.
    """
    if not norms:
        return []
    sizes = [norm.num_features for norm in norms]
    mean, var = (torch.cat([getattr(norm, name) for norm in norms]).double().cpu()
                 for name in ("running_mean", "running_var"))
    weight, bias = (torch.cat(learned).double().cpu() for learned in zip(*map(_weight_and_bias, norms)))
    eps = torch.tensor([norm.eps for norm in norms], dtype=torch.float64)
    scale = weight / (var + eps.repeat_interleave(torch.tensor(sizes))).sqrt()
    shift = bias - mean * scale
    return list(zip(scale.float().split(sizes), shift.float().split(sizes)))


def _weight_and_bias(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns weight and bias (C,) of a norm; ones and zeros where it learns neither (`affine=False`)."""
    if norm.affine:
        return norm.weight, norm.bias
    return torch.ones_like(norm.running_mean), torch.zeros_like(norm.running_mean)


def folded(norm: _BatchNorm) -> FoldedBatchNorm:
    """Makes the FoldedBatchNorm that does what `norm` does in eval mode; on the meta device if `norm` is there."""
    if norm.running_mean.is_meta:
        return FoldedBatchNorm(norm.num_features).to("meta")
    new = FoldedBatchNorm(norm.num_features)
    ((scale, shift),) = scales_and_shifts([norm])
    new.scale.copy_(scale)
    new.shift.copy_(shift)
    return new


def fold_batch_norm_(net: nn.Module) -> nn.Module:
    """Replaces every batch norm of `net` by its FoldedBatchNorm, in place; returns `net`."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, folded(child))
    return net
