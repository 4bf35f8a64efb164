"""ONNX files as other toolkits publish them: batch norms folded into convolutions, weights named by numbers."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import torch
from torch import nn

from svq import nets
from tests.importing import formula

# Small networks of every kind that the importer recognises: architecture, mel channels, embedding size, options.
NETWORKS = {
    "resnet": ("ResNet18", 16, 6, {"width": 4, "variance_floor": 1e-8}),
    "resnet with two embedding layers": ("ResNet18", 16, 6, {"width": 4, "second_layer": True}),
    "resnet of bottlenecks": ("ResNet50", 16, 6, {"width": 4}),
    "ecapa": ("ECAPA512", 12, 7, {"channels": 16, "wide": 24, "scale": 4, "squeeze": 5, "attention": 6}),
    "ecapa without context": ("ECAPA512", 12, 7, {"channels": 16, "wide": 24, "scale": 4, "squeeze": 5, "attention": 6,
                                                  "global_context": False}),
    "ecapa of speechbrain": ("ECAPASpeechBrain512", 12, 7, {"channels": 16, "wide": 24, "scale": 4, "squeeze": 5,
                                                            "attention": 6}),
    "x-vector": ("XVector", 12, 7, {"width": 8, "wide": 10}),
    "x-vector of one layer": ("XVector", 12, 7, {"width": 8, "wide": 10, "segments": 1, "variance_floor": 1e-8}),
    "cam++": ("CAMPPlus", 16, 6, {"width": 4, "channels": 8, "growth": 4, "bottleneck": 8, "layers": [2, 3, 2]}),
}


def network(name: str) -> nn.Module:
    """One of NETWORKS with weights and statistics that are not those of a fresh network, in eval mode."""
    arch, mels, embed_dim, options = NETWORKS[name]
    net = nets.build(arch, mels, embed_dim, **options).eval()
    net.load_state_dict(formula.checkpoint({key: tuple(value.shape) for key, value in net.state_dict().items()}))
    return net


class Less(nn.Module):
    """A network whose embeddings are less a mean, as WeSpeaker exports them, and scaled."""

    def __init__(self, net: nn.Module, mean: torch.Tensor, scale: torch.Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, feats):
        return (self.net(feats) - self.mean) * self.scale


def exported(net: nn.Module, mels: int, names=("feats", "embs"), frames: int | None = None, folded: bool = True):
    """Exports a network with torch's own exporter; gives an onnx.ModelProto whose weights have no names.

    names: of input and output. frames: the only number that it takes; None: any. folded: whether batch norms are folded.
    """
    buffer = io.BytesIO()
    axes = {names[0]: {0: "B", 1: "T"}, names[1]: {0: "B"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.ones(1, frames or 200, mels),), buffer, dynamo=False, opset_version=14,
                          training=torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE,
                          input_names=[names[0]], output_names=[names[1]], dynamic_axes=None if frames else axes)
    model = onnx.load_from_string(buffer.getvalue())
    numbers = {tensor.name: str(number) for number, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = numbers[tensor.name]
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [numbers.get(name, name) for name in node.input]
    return model


def with_metadata(model, **properties):
    """Gives a copy of a model with these metadata."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    onnx.helper.set_model_props(made, {key: str(value) for key, value in properties.items()})
    return made


def saved(model, path):
    """Writes a model, or its bytes, to `path`; gives it."""
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def features(mels: int, frames: int = 123, seed: int = 5) -> torch.Tensor:
    """Random features (2, frames, mels), float32, the second ten times as large."""
    random = np.random.default_rng(seed).standard_normal((2, frames, mels)) + 1
    return torch.from_numpy((random * [[[1.0]], [[10.0]]]).astype(np.float32))
