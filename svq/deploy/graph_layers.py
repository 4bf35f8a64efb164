"""Which node of an exported graph is which layer of the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from svq.deploy.tracing import NET
from svq.quant.api import quantizable_modules

LAYER_TYPES = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class LayerNode:
    """A convolution or linear layer in the graph.

    layer: its module's name. node: the node's. weight: the initializer's. axis: of that, where the output channels are.
    """

    layer: str
    node: str
    weight: str
    axis: int


def module_of(node_name: str) -> str | None:
    """`layers.0.conv1` of `/net/layers/layers.0/conv1/Conv`; None for what is outside the network."""
    scopes = node_name.strip("/").split("/")
    if len(scopes) < 2 or scopes[0] != NET:
        return None
    parts: list[str] = []
    for scope in scopes[1:-1]:
        # A child of a Sequential brings the Sequential's name along: layers, then layers.0.
        if parts and scope.startswith(parts[-1] + "."):
            parts[-1] = scope
        else:
            parts.append(scope)
    return ".".join(parts)


def layer_nodes(model, net: nn.Module) -> dict[str, LayerNode]:
    """LayerNode of every convolution and linear layer of `net` by name, in the order of the graph. A recurrent module
    is one node of all its matrices, which stays in float.

    Raises RuntimeError where a layer cannot be found in the graph: the exporter then names its nodes in another way.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes = {name: tuple(module.weight.shape) for name, module in quantizable_modules(net)}
    found: dict[str, LayerNode] = {}
    for node in model.graph.node:
        name = module_of(node.name)
        if node.op_type not in LAYER_TYPES or name not in shapes or node.input[1] not in weights:
            continue
        across = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _attribute(node, "transB"))
        shape = weights[node.input[1]]
        if (shape[::-1] if across else shape) == shapes[name]:
            found[name] = LayerNode(name, node.name, node.input[1], 1 if across else 0)
    missing = [name for name in shapes if name not in found]
    if missing:
        raise RuntimeError(f"no node of the exported graph is layer {missing[0]}")
    return found


def _attribute(node, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def initializer(model, name: str) -> np.ndarray:
    """The value of the initializer with that name."""
    from onnx import numpy_helper

    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))
