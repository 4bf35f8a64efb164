"""Says which network of svq/nets the layers of an ONNX file may be: architecture and sizes, read off their shapes.

A wrong guess does no harm: the network is filled and run beside the file before anyone gets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from svq.importing.architectures import resnet_of
from svq.importing.onnx_graph import Graph
from svq.importing.plan import Options
from svq.importing.poolings import mel_channels
from svq.nets.resnet import BasicBlock, BottleneckBlock

# For a pooling that adds nothing to variances (3D-Speaker's CAM++): a root of 1e-8, so that its slope stays finite.
NO_FLOOR = 1e-16


class OtherKind(ValueError):
    """A graph of another kind of network, seen at its first layers."""


class Guess(NamedTuple):
    """A network that a graph may be: architecture, its options, and the sizes of its input and output."""

    arch: str
    net: dict
    num_mels: int
    embed_dim: int


def resnet(graph: Graph, told: Options) -> Guess:
    """Reads a ResNet of WeSpeaker or 3D-Speaker, with one or two embedding layers.

    told: mel channels, as the file or the user says, and the pooling. OtherKind for a graph of another kind, ValueError that says why
    for a ResNet that is none of ours.
    """
    layers = graph.weighted
    maps = [layer.weight.shape for layer in layers if layer.weight.ndim == 4]
    rest = [layer.weight.shape for layer in layers[len(maps):]]
    if not maps or maps[0][1:] != (1, 3, 3):
        raise OtherKind("it does not begin with a 3x3 convolution of one channel")
    if any(len(shape) == 3 and shape[2] > 1 for shape in rest):
        raise OtherKind("convolutions over time follow those over maps")
    if len(rest) not in (1, 2) or any(len(shape) != 2 for shape in rest):
        raise ValueError(f"one or two linear layers must follow its convolutions, not {len(rest)} layers")
    width = maps[0][0]
    block = BottleneckBlock if len(maps) > 1 and maps[1][2:] == (1, 1) else BasicBlock
    wide = [shape[0] for shape in maps[1:] if shape[2:] == (3, 3)]
    inside = 2 if block is BasicBlock else 1
    blocks = tuple(sum(channels == width * 2**stage for channels in wide) // inside for stage in range(4))
    embed_dim, statistics = rest[0]
    arch = resnet_of(block, blocks)
    mels, pooling = mel_channels(statistics, 8 * width * block.expansion, told.num_mels, told.pooling)
    net = {"width": width, "second_layer": len(rest) == 2, "pooling": pooling, **_floor(graph)}
    return Guess(arch, net, mels, rest[-1][0] if len(rest) == 2 else embed_dim)


def _floor(graph: Graph) -> dict:
    """Reads what the statistics pooling adds to variances. ValueError where the graph has no such number, or several."""
    floors = sorted(set(graph.floors))
    if len(floors) != 1:
        raise ValueError(f"its pooling must add one small number to variances; it has {floors or 'none'}")
    return {"variance_floor": floors[0]}


def ecapa(graph: Graph, told: Options) -> Guess:
    """Reads an ECAPA-TDNN in the form of WeSpeaker or of SpeechBrain and 3D-Speaker. As `resnet` otherwise."""
    layers = graph.weighted
    first = layers[0].weight.shape
    parts, rest = divmod(sum(layer.weight.shape[2:] == (3,) for layer in layers), 3)
    each = parts + 4  # layers in an SE-Res2Block
    if len(first) != 3 or first[2] != 5 or rest or parts < 1:
        raise OtherKind("it does not begin with a convolution over 5 frames and three Res2Net blocks over 3")
    if len(layers) != 3 * each + 5:
        raise ValueError(f"it has {len(layers)} layers with weights, where Res2Net blocks in {parts + 1} groups make "
                         f"{3 * each + 5}")
    squeeze, (mfa, hidden, _, last) = layers[each - 1].weight.shape[0], (layer.weight.shape for layer in layers[-4:])
    wide, channels, seen = mfa[0], first[0], hidden[1]
    norms = len(graph.layers) - len(layers) - 3 * (each - 2)
    form = "speechbrain" if norms >= 4 else "wespeaker"
    name = {"wespeaker": ("ECAPA512", "ECAPA1024"), "speechbrain": ("ECAPASpeechBrain512", "ECAPASpeechBrain")}[form]
    net = {"channels": channels, "wide": wide, "form": form, "scale": parts + 1, "squeeze": squeeze,
           "attention": hidden[0], "global_context": seen == 3 * wide}
    return Guess(name[channels > 512], net, first[1], last[0])


def x_vector(graph: Graph, told: Options) -> Guess:
    """Reads an x-vector of WeSpeaker or 3D-Speaker. As `resnet` otherwise."""
    shapes = [layer.weight.shape for layer in graph.weighted]
    contexts = [shape[2] for shape in shapes if len(shape) == 3 and shape[2] > 1]
    if contexts != [5, 3, 3] or len(shapes) not in (6, 7):
        raise OtherKind("its layers are not those over 5, 3, 3 and 1 frames")
    net = {"width": shapes[0][0], "wide": shapes[4][0], "segments": len(shapes) - 5, **_floor(graph)}
    return Guess("XVector", net, shapes[0][1], shapes[-1][0])


def campplus(graph: Graph, told: Options) -> Guess:
    """Reads a CAM++ of 3D-Speaker or WeSpeaker. As `resnet` otherwise."""
    shapes = [layer.weight.shape for layer in graph.weighted]
    maps = sum(len(shape) == 4 for shape in shapes)
    rest = shapes[maps:]
    if not maps or shapes[0][1:] != (1, 3, 3) or len(rest) < 3 or rest[0][2:] != (5,):
        raise OtherKind("it does not begin with 3x3 convolutions and one over 5 frames behind them")
    channels, inputs, _ = rest[0]
    bands, odd = divmod(inputs, shapes[0][0])
    if odd:
        raise ValueError(f"its first time-delay layer takes {inputs} channels, no multiple of {shapes[0][0]}")
    blocks = _dense_blocks(rest[1:-1])
    dense = next((shape for shape in rest[1:] if shape[2:] == (3,)), (0, 0))
    floor = _floor(graph) if graph.floors else {"variance_floor": NO_FLOOR}
    net = {"width": shapes[0][0], "channels": channels, "layers": blocks, "growth": dense[0], "bottleneck": dense[1],
           **floor}
    return Guess("CAMPPlus", net, 8 * bands, rest[-1][0])


def _dense_blocks(shapes: list[tuple]) -> tuple[int, ...]:
    """Counts the dense layers of each block. Each has four convolutions, the second over 3 frames; one more convolution
    ends a block."""
    blocks, layers, place = [], 0, 0
    while place < len(shapes):
        if place + 1 < len(shapes) and shapes[place + 1][2:] == (3,):
            layers, place = layers + 1, place + 4
        else:
            blocks, layers, place = [*blocks, layers], 0, place + 1
    return tuple(blocks)


NETWORKS: dict[str, Callable[[Graph, Options], Guess]] = {"ResNet": resnet, "ECAPA-TDNN": ecapa, "x-vector": x_vector,
                                                     "CAM++": campplus}
