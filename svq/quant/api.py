"""`quantize_(net, config)`: quantizers on the weights of any network; `quantized_layers`: a look inside.

At inference a batch norm is one scale and one shift a channel, half of what it keeps in training: `FoldedBatchNorm`.
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

WORTH_A_WARNING = 0.01  # share of the weights that quantize_ has no quantizer for


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """One quantized weight: `name` of its layer, float weights, codebook (ascending), bits."""

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
    """Maps the name of every layer to that of its weight in the state of the float network."""
    return {name: name if isinstance(layer, RecurrentWeight) else f"{name}.weight" if name else "weight"
            for name, layer in quantizable(net)}


def left_in_float(net: nn.Module) -> list[tuple[str, int]]:
    """Lists name and size of every parameter of two or more dimensions that no quantizer is made for, at any bits.

    Those of embeddings (nn.Embedding), of transposed convolutions and the in_proj_weight of nn.MultiheadAttention, say.
    A dimension of one does not count: biases and scales of channels come in such shapes.
    """
    known = {id(float_weight(layer)) for _, layer in quantizable(net)}
    return [(name, parameter.numel()) for name, parameter in net.named_parameters()
            if sum(size > 1 for size in parameter.shape) > 1 and id(parameter) not in known
            and "parametrizations" not in name.split(".")]


def layers_to_quantize(net: nn.Module, config: QuantConfig, only: Collection[str] | None = None) -> dict[str, Layer]:
    """Finds the layers of float `net` to which `config` gives less than 32 bits (of those named in `only`), by name.

    Raises UserError if one of them is quantized already, and for a name in `config.layers` or `only` that `net` has not.
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

    Biases and batch norm stay in float, and layers to which `config` gives 32 bits. With method nested every batch norm
    becomes one for each precision. The float weights stay as the trained parameters
    (`module.parametrizations.weight.original`). Warns of weights of other kinds (`left_in_float`) if they are more than
    a hundredth of all. Raises UserError if such a layer is quantized already, and for a name in `config.layers` or
    `only` that `net` has not.
    """
    chosen = layers_to_quantize(net, config, only)
    for name, layer in chosen.items():
        attach_(layer, make_quantizer(layer.weight, config, config.bits_of(name)))
    if chosen:
        warn_of_float_weights(net)
    return switch_norms_(net, config.precisions) if config.method == "nested" else net


def warn_of_float_weights(net: nn.Module) -> None:
    """Warn of weights for which there is no quantizer (`left_in_float`) if they are more than a hundredth of all."""
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
    """Leaves the quantized weights of `net`, in eval mode, in place of float weights and quantizers; returns `net`.

    For inference: the same embeddings, without quantizing every weight again for each of them.
    """
    for _, layer, _ in list(quantizers(net)):
        detach_(layer, keep_quantized=True)
    return net


def outer_update_(net: nn.Module) -> None:
    """What some quantizers (ADMM) do between epochs of finetuning; nothing for the others."""
    for _, layer, quantizer in quantizers(net):
        update = getattr(quantizer, "outer_update", None)
        if update is not None:
            update(float_weight(layer).detach())


def refit_(net: nn.Module) -> None:
    """What some quantizers (TWN, ADMM) fit to the weights in training is fitted to the present ones, say after averaging."""
    for _, layer, quantizer in quantizers(net):
        refit = getattr(quantizer, "refit", None)
        if refit is not None:
            refit(float_weight(layer).detach())


def quantized_layers(net: nn.Module) -> list[QuantizedLayer]:
    """The quantized layers of `net` as arrays, for reports."""
    return [
        QuantizedLayer(name, float_weight(layer).detach().cpu().numpy(), q.codebook().cpu().numpy(), q.bits)
        for name, layer, q in quantizers(net)
    ]


def float_weight(layer: Layer) -> torch.Tensor:
    """Returns the float weight of a layer: the one behind the quantized one, where it is quantized."""
    found = parametrization(layer)
    return layer.weight if found is None else found.original


def average_bits(net: nn.Module) -> float:
    """Bits per weight of the layers that can be quantized; 32 for those in float."""
    bits = {name: quantizer.bits for name, _, quantizer in quantizers(net)}
    counts = {name: float_weight(layer).numel() for name, layer in quantizable(net)}
    if not counts:
        return float(FLOAT_BITS)
    return sum(count * bits.get(name, FLOAT_BITS) for name, count in counts.items()) / sum(counts.values())


def count_parameters(net: nn.Module) -> int:
    """Learned numbers of the float network: quantizer scales do not count, folded norms count as two each, and of the
    norms of several precisions those of one."""
    own = {id(p) for _, _, quantizer in quantizers(net) for p in quantizer.parameters()}
    own |= {id(p) for m in net.modules() if isinstance(m, PrecisionNorms) for p in m.lower_parameters()}
    learned = sum(p.numel() for p in net.parameters() if id(p) not in own)
    return learned + sum(2 * m.scale.numel() for m in net.modules() if isinstance(m, FoldedBatchNorm))


class FoldedBatchNorm(nn.Module):
    """y = x * scale + shift over channels (dimension 1); replaces a batch norm in eval mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


@torch.no_grad()
def scales_and_shifts(norms: Sequence[_BatchNorm]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What each of `norms` applies in eval mode: scale and shift (C,), float32 on the CPU, computed in float64.

    All norms at once: a deep network has a hundred of them, of a few hundred channels each.
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
    """(C,) both; ones and zeros where the norm learns neither (`affine=False`)."""
    if norm.affine:
        return norm.weight, norm.bias
    return torch.ones_like(norm.running_mean), torch.zeros_like(norm.running_mean)


def folded(norm: _BatchNorm) -> FoldedBatchNorm:
    """What `norm` does in eval mode, as a module; one without memory of a norm on the meta device."""
    if norm.running_mean.is_meta:
        return FoldedBatchNorm(norm.num_features).to("meta")
    new = FoldedBatchNorm(norm.num_features)
    ((scale, shift),) = scales_and_shifts([norm])
    new.scale.copy_(scale)
    new.shift.copy_(shift)
    return new


def fold_batch_norm_(net: nn.Module) -> nn.Module:
    """Replaces every batch norm of `net`, in place; returns `net`."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, folded(child))
    return net
