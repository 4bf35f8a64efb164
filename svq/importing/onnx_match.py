"""Puts the weights of an ONNX file into a network: each module, in the order in which it runs, takes the next layer of
the file that fits it.

A batch norm that was folded into the convolution before it stays folded: `ModelConfig.folded` names it, the convolution
has a bias, and the norm is gone. A norm of 1 and 0 in its place would be wrong in training, where a norm divides by the
deviations of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.errors import some_of
from svq.importing.onnx_graph import Graph, Layer
from svq.importing.plan import State
from svq.nets.blocks import LAYERS
from svq.quant.batchnorm_fold import norms_after_layers

EXAMPLE_FRAMES = 200


def matched(graph: Graph, net: nn.Module, num_mels: int) -> tuple[State, dict[str, str]]:
    """Matches the layers of `graph` to the modules of `net`, on the meta device; num_mels: of its input.

    Gives the state dict, without the norms that are folded, and these: norm -> layer. ValueError saying what of either
    has no counterpart.
    """
    example = torch.zeros(1, EXAMPLE_FRAMES, num_mels, device="meta")
    order = modules_in_order(net, example)
    owner = norms_after_layers(net, example)
    state: State = {}
    folded: dict[str, str] = {}
    rest, taken = list(graph.layers), {}
    norm_of = {layer.inputs: layer for layer in graph.layers if layer.kind == "norm" and graph.users[layer.inputs] == 1}
    last = order[-1][0]
    for name, module in order:
        if not isinstance(module, _BatchNorm):
            layer = _next(rest, name, module)
            rest.remove(layer)
            taken[name] = layer
            state |= _layer_tensors(name, module, layer)
        elif name == last and graph.tail is not None and owner.get(name) in taken:
            state |= _norm_tensors(name, module, *graph.tail)
        elif name in owner and taken[owner[name]].output not in norm_of:
            folded[name] = owner[name]
        else:
            norm = norm_of[taken[owner[name]].output] if name in owner else _next(rest, name, module)
            rest.remove(norm)
            state |= _norm_tensors(name, module, *_affine(norm))
    rest = [layer for layer in rest if not _is_tail(graph, layer)]
    if rest:
        raise ValueError(f"it has no place for {some_of(rest, 3)}")
    if graph.tail is not None and last in taken:
        _put_tail_(state, last, graph.tail)
    for name, layer in folded.items():
        state.setdefault(f"{layer}.bias", torch.zeros(len(state[f"{layer}.weight"])))
    _put_biases_(state, net, owner, folded)
    return state, folded


def modules_in_order(net: nn.Module, example: torch.Tensor) -> list[tuple[str, nn.Module]]:
    """Lists the convolutions, linear layers and batch norms of `net` in the order in which they run on `example`."""
    order, hooks = [], []
    for name, module in net.named_modules():
        if isinstance(module, (*LAYERS, _BatchNorm)):
            hooks.append(module.register_forward_pre_hook(lambda module, inputs, name=name: order.append((name, module))))
    try:
        net.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _next(rest: list[Layer], name: str, module: nn.Module) -> Layer:
    for layer in rest:
        if _fits(layer, module):
            return layer
    shape = [module.num_features] if isinstance(module, _BatchNorm) else list(module.weight.shape)
    raise ValueError(f"it has nothing for {name}, {type(module).__name__} {shape}, behind the layers before it")


def _fits(layer: Layer, module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return layer.kind == "norm" and len(layer.weight) == module.num_features
    if layer.kind != "layer" or _sizes(layer.weight.shape) != _sizes(module.weight.shape):
        return False
    if isinstance(module, nn.Linear) or not layer.steps or len(layer.weight.shape) != module.weight.dim():
        return True
    return layer.steps == (*module.stride, *module.dilation, module.groups)


def _sizes(shape) -> list[int]:
    """Gives a shape without kernels of 1: a convolution of kernel 1 is a linear layer."""
    return [*shape[:2], *(size for size in shape[2:] if size != 1)]


def _layer_tensors(name: str, module: nn.Module, layer: Layer) -> State:
    weight = torch.tensor(np.ascontiguousarray(layer.weight), dtype=torch.float32).reshape(module.weight.shape)
    found = {f"{name}.weight": weight}
    if layer.bias is not None:
        found[f"{name}.bias"] = torch.tensor(np.ascontiguousarray(layer.bias).reshape(-1), dtype=torch.float32)
    elif module.bias is not None:
        found[f"{name}.bias"] = torch.zeros(len(weight))
    return found


def _affine(norm: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return norm.weight, norm.bias, norm.mean, norm.variance


def _norm_tensors(name: str, module: _BatchNorm, weight, bias, mean=None, variance=None) -> State:
    """Gives the tensors of a norm that computes weight (x - mean) / sqrt(variance) + bias.

    ValueError where a norm without scale and shift is to have a scale that is not positive.
    """
    mean = np.zeros_like(weight) if mean is None else mean
    variance = np.ones_like(weight) if variance is None else variance
    if module.affine:
        extra = {f"{name}.weight": weight, f"{name}.bias": bias}
    else:
        if not np.all(weight > 0):
            raise ValueError(f"{name} has scales that are not positive, where only means and deviations are kept")
        mean, variance, extra = mean - bias * np.sqrt(variance) / weight, variance / weight**2, {}
    found = {**extra, f"{name}.running_mean": mean, f"{name}.running_var": variance - module.eps}
    tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in found.items()}
    return {**tensors, f"{name}.num_batches_tracked": torch.tensor(0)}


def _is_tail(graph: Graph, norm: Layer) -> bool:
    """Says whether a norm is in the tail, behind the last convolution or linear layer."""
    names = [layer.output for layer in graph.layers]
    return graph.tail is not None and names.index(norm.output) > names.index(graph.weighted[-1].output)


def _put_tail_(state: State, last: str, tail: tuple[np.ndarray, np.ndarray]) -> None:
    """Multiplies the last layer of a state dict by a scale and adds a shift, in place."""
    scale, shift = (torch.from_numpy(np.array(each)) for each in tail)
    weight = state[f"{last}.weight"].double()
    state[f"{last}.weight"] = (weight * scale.view(-1, *[1] * (weight.dim() - 1))).float()
    bias = state.get(f"{last}.bias", torch.zeros(len(weight))).double()
    state[f"{last}.bias"] = (bias * scale + shift).float()


def _put_biases_(state: State, net: nn.Module, owner: dict[str, str], folded: dict[str, str]) -> None:
    """Moves biases that the network has no place for into the norms behind them, in place.

    ValueError where there is no such norm.
    """
    norm_of, kept = {layer: norm for norm, layer in owner.items()}, set(folded.values())
    for name in _spare_biases(state, net, kept):
        bias = state.pop(f"{name}.bias")
        norm = norm_of.get(name)
        if norm is not None:
            state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - bias
        elif bias.any():
            raise ValueError(f"the layer for {name} has a bias")


def _spare_biases(state: State, net: nn.Module, kept: set[str]) -> Iterator[str]:
    modules = dict(net.named_modules())
    for key in list(state):
        name, _, kind = key.rpartition(".")
        if kind == "bias" and name not in kept and modules[name].bias is None:
            yield name
