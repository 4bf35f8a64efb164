"""The base class of all quantizers, and layers: the weights that a quantizer is attached to.

A quantizer is a parametrization: float weight in, quantized weight out, gradients straight through (eq. 5 of
Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization").

A convolution or linear layer is its module. A recurrent module (`nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells) has
several matrices, which differ in size and in what they do. So each matrix is a layer of its own: a `RecurrentWeight`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.quant.nearest import count_below, look_up, midpoints


class Quantizer(nn.Module):
    """Base of the quantizers, each of one weight at `bits` bits. A subclass says which values there are: `codebook`.

    Scales, thresholds and the like have shape (), or (C,) with a codebook for each output channel. Learned numbers are
    parameters; numbers that are fixed, or computed from the weights, are buffers.
    """

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def codebook(self) -> torch.Tensor:
        """Returns the values that quantized weights take, ascending: (K,), or (C, K) per channel."""
        raise NotImplementedError

    def thresholds(self) -> torch.Tensor:
        """Returns the values (..., K-1) at which one code ends and the next one begins, ascending."""
        return midpoints(self.codebook())

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns the code of each weight: its index into the codebook (uint8, shape of the weight)."""
        return count_below(weight, self.thresholds()).to(torch.uint8)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns the quantized weight, of the same shape; the gradient passes unchanged."""
        return StraightThrough.apply(weight, look_up(self.codebook(), count_below(weight, self.thresholds())))


class StraightThrough(torch.autograd.Function):
    """Gives the second argument, which has the shape of the first; passes the gradient unchanged to both."""

    @staticmethod
    def forward(ctx, soft, hard):
        return hard.view_as(hard)

    @staticmethod
    def backward(ctx, grad):
        return grad, grad if ctx.needs_input_grad[1] else None


def scale_of(alpha: torch.Tensor) -> torch.Tensor:
    """Returns the scale that a learned alpha stands for: |alpha|, so that levels keep their order.

    A step of the optimizer may take a small alpha below zero. Its magnitude is still a scale, and the gradient's sign
    turns with it, so that training goes on. The scale is never quite zero, because weights are divided by it.
    """
    return alpha.abs().clamp(min=torch.finfo(alpha.dtype).tiny)


def along(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Reshapes values () or (C,) so that they broadcast with the weight (C, ...)."""
    return values.view(-1, *[1] * (weight.dim() - 1)) if values.dim() else values


def sum_to(x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sums x (C, ...) to the shape of `values`: over all of it to (), or over each channel to (C,)."""
    return x.sum(tuple(range(1, x.dim()))) if values.dim() else x.sum()


@dataclasses.dataclass(frozen=True)
class RecurrentWeight:
    """Stands for the matrix named `tensor` of a recurrent module. Two of the same module and name are equal."""

    module: nn.Module
    tensor: str

    @property
    def weight(self) -> torch.Tensor:
        """The matrix (O, I), quantized where it has a quantizer; O is the hidden size times gates or projections."""
        return getattr(self.module, self.tensor)


Layer = nn.Module | RecurrentWeight


def tensor_of(layer: Layer) -> tuple[nn.Module, str]:
    """Returns the module that has the layer's weight, and the weight's name there."""
    return (layer.module, layer.tensor) if isinstance(layer, RecurrentWeight) else (layer, "weight")


def parametrization(layer: Layer) -> parametrize.ParametrizationList | None:
    """Returns the parametrization of a layer's weight, or None for a float layer.

    Its `original` is the float weight, its [0] the quantizer.
    """
    module, tensor = tensor_of(layer)
    return module.parametrizations[tensor] if parametrize.is_parametrized(module, tensor) else None


def attach_(layer: Layer, quantizer: Quantizer) -> None:
    """Attaches `quantizer` to the weight of a float layer; sets it to the layer's mode, training or eval."""
    module, tensor = tensor_of(layer)
    _give_own_class_(module)
    parametrize.register_parametrization(module, tensor, quantizer)
    if isinstance(module, nn.RNNBase):
        _compute_with_quantized_(module)


def detach_(layer: Layer, keep_quantized: bool) -> None:
    """Takes the quantizer off a quantized layer.

    The layer's weight is then the quantized one with `keep_quantized`, else the float one behind it.
    """
    module, tensor = tensor_of(layer)
    _give_own_class_(module)
    parametrize.remove_parametrizations(module, tensor, leave_parametrized=keep_quantized)
    if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
        module._init_flat_weights()


def _give_own_class_(module: nn.Module) -> None:
    # torch makes a class for each module that it parametrizes, and changes that class as tensors are added or removed.
    # A deep copy of the module shares the class, so that a change to the copy would change the original too.
    if parametrize.is_parametrized(module):
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


def _compute_with_quantized_(module: nn.RNNBase) -> None:
    """Makes a parametrized module compute with its quantized weights, made once in a forward pass and not kept.

    torch's recurrent modules keep a list of the tensors that they compute with, and renew it when one of them changes.
    A quantized weight is a new tensor at every look. So each would be quantized several times in a pass, and the list
    would go on holding tensors of a graph, which keep the module from being copied.
    """
    kind = type(module)
    vars(module).pop("_flat_weights", None)
    kind._flat_weights = property(_flat_weights, _ignore)
    kind._init_flat_weights = kind._update_flat_weights = kind.flatten_parameters = _ignore
    kind.forward = _forward


def _flat_weights(module: nn.RNNBase) -> list[torch.Tensor | None]:
    held = vars(module).get("_flat_weights")
    return [getattr(module, name, None) for name in module._flat_weights_names] if held is None else held


def _ignore(module: nn.RNNBase, value=None) -> None:
    pass


def _forward(module: nn.RNNBase, *inputs, **named):
    vars(module)["_flat_weights"] = _flat_weights(module)
    try:
        return type(module).__base__.forward(module, *inputs, **named)
    finally:
        del vars(module)["_flat_weights"]
