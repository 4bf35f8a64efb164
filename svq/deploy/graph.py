"""Makes an ONNX graph of a network: traces it, finds its layers again, and puts its front end inside.

The graph takes any batch and any number of frames. Batch norms are folded, nodes are named after modules. With the
front end inside, the graph takes waveforms (B, samples); convolutions and products compute the features.

Subtracting a frame's mean, pre-emphasis, window and Fourier transform are linear. Together they are one matrix,
computed in float64, which a convolution applies to the waveform. It runs in float32, because neither runtime convolves
in float64. Kaldi's features of 16-bit recordings then differ from svq.data.frontend's by about 0.001 in the log at
most, and by 0.01 under a constant offset a hundred times the speech. The difference can be 0.5 in bands that hold
nothing but the rounding of floating-point samples, as of band-limited noise that never had 16 bits.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.onnx.operators import shape_as_tensor

from svq.data.fbank import with_mirrored_edges
from svq.data.frontend import VARIANCE_FLOOR, FrontEnd, loud_enough
from svq.data.mels import WINDOW, WINDOW_HOP, WINDOW_LEAST
from svq.errors import require
from svq.nets import pooling, redimnet
from svq.quant.api import FoldedBatchNorm, quantizable_modules

OPSET = 17
EXAMPLE_FRAMES = 64  # of the input to trace with; no less than any network sees at once
NET = "net"  # the network's name in `Exportable`: the first part of its nodes' names


class Exportable(nn.Module):
    """A network as it is exported: `front_end`, a module or None, turns the input into features for `net`."""

    def __init__(self, net: nn.Module, front_end: nn.Module | None = None):
        super().__init__()
        self.front_end = front_end
        self.add_module(NET, net)
        self.least = getattr(net, "least_frames", 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        feats = x if self.front_end is None else self.front_end(x)
        return self.get_submodule(NET)(lengthened(feats, self.least))


def lengthened(x: torch.Tensor, frames: int) -> torch.Tensor:
    """Lengthens features (B, T, F) to at least so many frames, as `svq.nets.tdnn.at_least`, in a graph for any T."""
    if frames <= 1:
        return x
    length = shape_as_tensor(x)[1]
    lacking = (frames - length).clamp(min=0)
    index = torch.arange(length + lacking) - torch.div(lacking, 2, rounding_mode="floor")
    return x.index_select(1, torch.minimum(index.clamp(min=0), length - 1))


def windowed_frames(x: torch.Tensor, hop: int) -> torch.Tensor:
    """Counts frames as `svq.data.mels.frames_of_windows` of waveforms (B, T), in a graph for any T."""
    beyond = (torch.div(shape_as_tensor(x)[1], hop, rounding_mode="floor") - WINDOW_LEAST).clamp(min=0)
    return torch.div(beyond, WINDOW_HOP, rounding_mode="floor") * WINDOW_HOP + WINDOW


def with_silence(x: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """Lengthens waveforms (B, T) by zeros to at least so many samples, in a graph for any T."""
    size = shape_as_tensor(x)
    return torch.cat([x, x.new_zeros(()).expand(size[0], (samples - size[1]).clamp(min=0))], dim=1)


def traced_variance(x: torch.Tensor, unbiased: bool = True) -> torch.Tensor:
    """Computes `svq.nets.pooling.variance` over the last axis of x without a branch.

    That function treats one frame and more frames differently; a trace would keep one branch for good.
    """
    squares = (x - x.mean(dim=-1, keepdim=True)).square()
    if not unbiased:
        return squares.mean(dim=-1)
    frames = shape_as_tensor(x)[-1]
    return squares.sum(dim=-1) / (frames - 1).clamp(min=1).to(x.dtype)


def traced_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Computes `svq.nets.redimnet.attention` with a softmax over rows.

    OpenVINO 2026.4.1 takes one over columns between two products for an operation of its own, and gives weights whose
    sum is not 1.
    """
    weights = (key @ (query * query.shape[-1] ** -0.5).transpose(2, 3)).softmax(dim=2)
    return (value.transpose(2, 3) @ weights).transpose(2, 3)


class ScaleAndShift(_BatchNorm):
    """A `FoldedBatchNorm` written as a batch norm, which the exporter folds into the convolution before it."""

    def __init__(self, norm: FoldedBatchNorm):
        super().__init__(norm.scale.numel(), eps=0.0)
        self.weight.data, self.bias.data = norm.scale, norm.shift
        self.eval()

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass


@contextlib.contextmanager
def traceable(net: nn.Module):
    """Makes `net` traceable inside a `with` block.

    Pooling computes variances in a way that holds for any number of frames, attention in a way that every runtime gets
    right, and folded batch norms of a packed file are batch norms again.
    """
    own, norms = (pooling.variance, redimnet.attention), {}
    for parent in net.modules():
        norms |= {(parent, name): child for name, child in parent.named_children() if isinstance(child, FoldedBatchNorm)}
    pooling.variance, redimnet.attention = traced_variance, traced_attention
    try:
        for (parent, name), norm in norms.items():
            setattr(parent, name, ScaleAndShift(norm))
        yield
    finally:
        pooling.variance, redimnet.attention = own
        for (parent, name), norm in norms.items():
            setattr(parent, name, norm)


def to_onnx(net: nn.Module, example: torch.Tensor, front_end: nn.Module | None = None, fixed: bool = False):
    """Exports a network to an onnx.ModelProto with one input, `input`, and one output, `embedding` (B, D).

    net: a float network in eval mode, quantizers removed. example: an input (B, T, F), or (B, samples) where there is a
    front end, with at least EXAMPLE_FRAMES frames unless fixed. fixed: whether its number of frames is the only one
    that the graph takes; the batch is free in any case.

    This uses the older one of torch's two exporters. The one through torch.export needs two more packages and more than
    ten times as long: over a minute for a ResNet34, several for the deepest networks. torch is pinned, and a change of
    exporter would change this function only.
    """
    require("onnx")
    length = "samples" if front_end is not None else "frames"
    axes = {"input": {0: "batch"} if fixed else {0: "batch", 1: length}, "embedding": {0: "batch"}}
    buffer = io.BytesIO()
    with traceable(net), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the older exporter, and of branches that are the same for every length
        torch.onnx.export(Exportable(net, front_end).eval(), (example,), buffer, dynamo=False, opset_version=OPSET,
                          input_names=["input"], output_names=["embedding"], dynamic_axes=axes)
    return tidied(buffer.getvalue())


def tidied(content: bytes):
    """Tidies the exporter's graph: nodes use initializers by their own names and name no source files.

    content: a serialized onnx.ModelProto; gives the tidied one.
    """
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


LAYER_TYPES = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class LayerNode:
    """A convolution or linear layer in the graph.

    layer: its module's name. node: the node's name. weight: the initializer's name. axis: its axis of output channels.
    """

    layer: str
    node: str
    weight: str
    axis: int


def module_of(node_name: str) -> str | None:
    """Finds the module that a node is named after; None for a node outside the network.

    `/net/layers/layers.0/conv1/Conv` gives `layers.0.conv1`.
    """
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
    """Finds the node of every convolution and linear layer of `net`; gives LayerNodes by name, in the graph's order.

    A recurrent module is left out: it is one node of all its matrices, which stays in float. RuntimeError where a layer
    cannot be found: the exporter then names its nodes in another way.
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
    """Gives the value of the initializer with that name in an onnx.ModelProto."""
    from onnx import numpy_helper

    return numpy_helper.to_array(next(tensor for tensor in model.graph.initializer if tensor.name == name))


class GraphFrontEnd(nn.Module):
    """A front end for a graph: waveforms (B, samples) in [-1, 1] -> normalized features (B, T, F).

    The features are those of svq.data.frontend.FrontEnd(config), up to rounding.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        bank = FrontEnd(config).bank
        self.bank, self.hop, self.kaldi = bank, bank.hop, config.fbank == "kaldi"
        matrix = kaldi_matrix(bank) if self.kaldi else centred_matrix(bank)
        self.register_buffer("matrix", torch.from_numpy(matrix).float()[:, None])
        mel = bank.mel[::2] if self.kaldi else bank.mel
        self.register_buffer("mel", mel.float().t().contiguous()[:, :, None])

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        waveforms = loud_enough(waveforms, self.config.least_dbfs)
        if self.bank.tables.in_windows:
            frames = windowed_frames(waveforms, self.hop)
            waveforms = with_silence(waveforms, frames * self.hop)
        spectrum = F.conv1d(self._padded(waveforms)[:, None], self.matrix, stride=self.hop)
        if self.bank.tables.in_windows:
            spectrum = spectrum[:, :, :frames]
        real, imaginary = spectrum.chunk(2, dim=1)
        power = real.square() + imaginary.square()
        if self.bank.tables.limits[0]:
            power = power.clamp(*self.bank.tables.limits)
        mels = F.conv1d(power, self.mel)
        return self._normalized(self._logarithm(mels)).transpose(1, 2)

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        if self.kaldi:
            return with_mirrored_edges(x, *self.bank.edges) if any(self.bank.edges) else x
        return self.bank.padded(x)

    def _logarithm(self, mels: torch.Tensor) -> torch.Tensor:
        return mels.clamp(min=self.bank.epsilon).log() if self.kaldi else self.bank.logarithm(mels)

    def _normalized(self, feats: torch.Tensor) -> torch.Tensor:
        """Normalizes features (B, F, T) as FrontEnd.normalize does, over the last dimension."""
        if self.config.mean_normalize:
            feats = feats - feats.mean(dim=-1, keepdim=True)
        if self.config.variance_normalize:
            spread = feats - feats.mean(dim=-1, keepdim=True)
            feats = feats / (spread.square().mean(dim=-1, keepdim=True) + VARIANCE_FLOOR).sqrt()
        return feats


def fourier(bins: int, size: int) -> np.ndarray:
    """Computes the first `bins` frequencies of a DFT of `size` points as a matrix (2 bins, size) float64.

    Its rows are cosines, then negative sines.
    """
    angles = 2 * np.pi * (np.outer(np.arange(bins), np.arange(size)) % size) / size
    return np.concatenate([np.cos(angles), -np.sin(angles)])


def kaldi_matrix(bank) -> np.ndarray:
    """Computes the matrix (2 bins, samples of a frame) float64 of a `svq.data.fbank.Fbank`.

    It takes the frame's mean off and applies pre-emphasis, window and DFT.
    """
    length, size = bank.length, bank.fft_size
    emphasis = np.eye(length) - bank.preemphasis * np.eye(length, k=-1)
    emphasis[0, 0] = 1 - bank.preemphasis  # a frame's first sample counts as its own predecessor
    frame = bank.window.numpy()[:, None] * (emphasis @ (np.eye(length) - 1 / length))
    return fourier(size // 2, size)[:, :length] @ frame


def centred_matrix(bank) -> np.ndarray:
    """Computes the matrix (2 bins, points of the DFT) float64 of a `svq.data.fbank.CentredFbank`.

    It applies the window, centred, and the DFT.
    """
    size, length = bank.fft_size, bank.length
    window = np.zeros(size)
    start = (size - length) // 2
    window[start:start + length] = bank.window.double().numpy()
    return fourier(len(bank.mel), size) * window
