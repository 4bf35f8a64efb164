"""A network as an ONNX graph: any batch, any number of frames, batch norms folded, nodes named after modules."""

from __future__ import annotations

import contextlib
import io
import warnings

import torch
from torch import nn
from torch.onnx.operators import shape_as_tensor

from svq.deploy.extras import require
from svq.nets import pooling

OPSET = 17
EXAMPLE_FRAMES = 64  # of the input that the trace follows; no less than any network sees at once
NET = "net"  # where the network hangs in `Exportable`: the first part of its nodes' names


class Exportable(nn.Module):
    """A network as it is exported: what `front_end` (a module, or None) makes of the input goes into `net`."""

    def __init__(self, net: nn.Module, front_end: nn.Module | None = None):
        super().__init__()
        self.front_end = front_end
        self.add_module(NET, net)
        self.least = getattr(net, "frames", 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        feats = x if self.front_end is None else self.front_end(x)
        return self.get_submodule(NET)(lengthened(feats, self.least))


def lengthened(x: torch.Tensor, frames: int) -> torch.Tensor:
    """`svq.nets.tdnn.at_least` of features (B, T, F) as part of a graph, where T is not known."""
    if frames <= 1:
        return x
    length = shape_as_tensor(x)[1]
    lacking = (frames - length).clamp(min=0)
    index = torch.arange(length + lacking) - torch.div(lacking, 2, rounding_mode="floor")
    return x.index_select(1, torch.minimum(index.clamp(min=0), length - 1))


def traced_variance(x: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """`svq.nets.pooling.variance`, whose choice between one frame and more a trace would make for good."""
    squares = (x - x.mean(dim=-1, keepdim=True)).square()
    if not unbiased:
        return squares.mean(dim=-1)
    frames = shape_as_tensor(x)[-1]
    return squares.sum(dim=-1) / (frames - 1).clamp(min=1).to(x.dtype)


@contextlib.contextmanager
def traceable():
    """While a network is traced, its pooling computes variances in a way that holds for any number of frames."""
    own = pooling.variance
    pooling.variance = traced_variance
    try:
        yield
    finally:
        pooling.variance = own


def to_onnx(net: nn.Module, example: torch.Tensor, front_end: nn.Module | None = None, fixed: bool = False):
    """The onnx.ModelProto of `net`, a float network in eval mode, quantizers removed: `example` -> `embedding` (B, D).

    example: input (B, T, F), or (B, samples) where there is a front end, with at least EXAMPLE_FRAMES frames unless
    fixed. fixed: whether its number of frames is the only one that the graph takes; the batch is free in any case.

    Of torch's two exporters the older one is taken. The one through torch.export needs two more packages and more than
    ten times as long, over a minute for a ResNet34 and several for the deepest networks. torch is pinned, and all
    that would change is this function.
    """
    require("onnx")
    length = "samples" if front_end is not None else "frames"
    axes = {"input": {0: "batch"} if fixed else {0: "batch", 1: length}, "embedding": {0: "batch"}}
    buffer = io.BytesIO()
    with traceable(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of being the older one, and of choices that are the same for every length
        torch.onnx.export(Exportable(net, front_end).eval(), (example,), buffer, dynamo=False, opset_version=OPSET,
                          input_names=["input"], output_names=["embedding"], dynamic_axes=axes)
    return tidied(buffer.getvalue())


def tidied(content: bytes):
    """The exporter's graph without detours: initializers are used by their own names, nodes name no files of ours."""
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    # Equal tensors are stored once and reached through Identity nodes, which hide biases from the quantizer.
    alias = {}
    for node in graph.node:
        if node.op_type == "Identity" and alias.get(node.input[0], node.input[0]) in initializers:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
    kept = [node for node in graph.node if node.output[0] not in alias]
    for node in kept:
        node.doc_string = ""
        node.input[:] = [alias.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    graph.doc_string = model.doc_string = ""
    return model
