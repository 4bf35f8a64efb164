"""What a layer is to quantization, and how a quantizer is put on one and taken off again.

A convolution or linear layer is its module. A recurrent module (`nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells) has
several matrices, which differ in size and in what they do, so each of them is a layer: a `RecurrentWeight`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.quant.base import Quantizer


@dataclasses.dataclass(frozen=True)
class RecurrentWeight:
    """Stands for the matrix `tensor` of a recurrent module; equal to another of the same module and name."""

    module: nn.Module
    tensor: str

    @property
    def weight(self) -> torch.Tensor:
        """Gives the matrix (O, I), O being hidden size times gates or projections; quantized where it is quantized."""
        return getattr(self.module, self.tensor)


Layer = nn.Module | RecurrentWeight


def tensor_of(layer: Layer) -> tuple[nn.Module, str]:
    """Returns the module that has the layer's weight, and the weight's name there."""
    return (layer.module, layer.tensor) if isinstance(layer, RecurrentWeight) else (layer, "weight")


def parametrization(layer: Layer) -> parametrize.ParametrizationList | None:
    """Returns what makes a quantized weight: the float one is `original`, the quantizer [0]. None for a float layer."""
    module, tensor = tensor_of(layer)
    return module.parametrizations[tensor] if parametrize.is_parametrized(module, tensor) else None


def attach_(layer: Layer, quantizer: Quantizer) -> None:
    """Quantizes the weight of a float layer by `quantizer`, which is set to the layer's mode, training or eval."""
    module, tensor = tensor_of(layer)
    _give_own_class_(module)
    parametrize.register_parametrization(module, tensor, quantizer)
    if isinstance(module, nn.RNNBase):
        _compute_with_quantized_(module)


def detach_(layer: Layer, keep_quantized: bool) -> None:
    """Takes the quantizer off a quantized layer; its weight is then the quantized one, or the float one behind it."""
    module, tensor = tensor_of(layer)
    _give_own_class_(module)
    parametrize.remove_parametrizations(module, tensor, leave_parametrized=keep_quantized)
    if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
        module._init_flat_weights()


def _give_own_class_(module: nn.Module) -> None:
    # torch makes a class for each module that it parametrizes and changes it with every tensor that follows or goes.
    # A deep copy has the same class: its changes would be the original's too.
    if parametrize.is_parametrized(module):
        kind = type(module)
        module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))


def _compute_with_quantized_(module: nn.RNNBase) -> None:
    """Has a parametrized module compute with its quantized weights, made once in a forward pass and not kept.

    torch's recurrent modules keep a list of the tensors that they compute with, and make it anew where one of these is
    not the same as before. A quantized weight is another tensor at every look: each would be quantized several times in
    a pass, and the list would go on holding tensors of a graph, with which no module can be copied.
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
