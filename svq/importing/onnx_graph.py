"""Reads an ONNX file as the layers of a network, in the order in which they are computed.

Names of weights say nothing: exporters fold batch norms into convolutions and number what comes out. What counts is the
graph. A layer is a convolution or a linear layer (Gemm, or MatMul with an Add), or a batch norm that was left.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, field, replace

import numpy as np

from svq.errors import UserError, require, some_of
from svq.importing.source import Source, described, like_onnx

FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
INTEGER_OPS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DequantizeLinear", "QuantizeLinear",
               "DynamicQuantizeLinear", "MatMulNBits", "QGemm")
LOOPS = ("Loop", "Scan")
_SAME = ("Identity", "Dropout")  # operators that give what they take
FLOORS = (1e-20, 1e-3)  # between these, a constant that is added or bounds from below is a floor of variances


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer of the graph; equal to itself alone.

    kind: `layer` (convolution or linear) or `norm`. weight: (out, in, ...) of a layer, (C,) of a norm; bias: (C,) or
    None. steps: stride, dilation and groups of a convolution. mean, variance: of a norm, its eps in the variance.
    inputs, output: names of tensors. node: its name, for messages.
    """

    kind: str
    weight: np.ndarray
    bias: np.ndarray | None
    output: str
    node: str
    inputs: str
    steps: tuple = ()
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None

    def __str__(self) -> str:
        return f"{self.node} {list(self.weight.shape)}"


@dataclass(frozen=True)
class Graph:
    """A network in an ONNX file.

    path: for messages. content: the file. layers: in the order of computation. input, output: names of its tensors.
    shape: of the input (B, T, F), None where any size will do. tail: the scale (D,) and shift (D,) that follow the last
    layer. floors: floors of variances. users: how many nodes take each tensor. metadata: of the file.
    """

    path: str
    content: bytes
    layers: list[Layer]
    input: str
    output: str
    shape: tuple
    floors: list[float]
    users: dict[str, int]
    metadata: dict[str, str]
    tail: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def weighted(self) -> list[Layer]:
        """The layers without the batch norms."""
        return [layer for layer in self.layers if layer.kind == "layer"]

    def summary(self) -> str:
        """Says in words what the file takes, gives and holds."""
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        kinds = collections.Counter(f"{layer.weight.ndim - 2}-d convolutions" if layer.weight.ndim > 2 else
                                    "linear layers" for layer in self.weighted)
        kinds["batch norms"] = len(self.layers) - len(self.weighted)
        held = ", ".join(f"{total} {kind}" for kind, total in kinds.items() if total)
        return f"it takes {self.input} ({sizes}), gives {self.output} and holds {held or 'no weights'}"


@dataclass
class _Reading:
    """A graph while its nodes are read: its constants by name, and what was found so far."""

    constants: dict[str, np.ndarray]
    layers: list[Layer] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    alias: dict[str, str] = field(default_factory=dict)


def read_graph(source: Source) -> Graph:
    """Reads the network in an ONNX file. UserError, one line, for all that is no float network of one input (B, T, F)
    and one output with its weights inside."""
    onnx, where = require("onnx"), source.where
    content = source.read()
    try:
        model = onnx.load_from_string(content)
    except Exception:  # protobuf's error, whose module changed between versions
        model = None
    if model is None or not model.graph.node:
        kind = "" if like_onnx(content) else described(source)  # what begins like ONNX is a damaged one
        kind = "a zip archive, such as torch.save writes: " if content.startswith(b"PK") else kind
        raise UserError(f"{where}: {kind}not an ONNX model, or cut short; copy it again")
    _check_model(onnx, where, model)
    graph = model.graph
    constants = {tensor.name: _array(onnx, where, tensor) for tensor in graph.initializer}
    entry, shape = _input(where, graph, constants)
    output = _output(where, graph)
    reading = _Reading(constants)
    for node in graph.node:
        try:
            _read_node(onnx, where, reading, node)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: node {_name(node)} is no {node.op_type} as ONNX defines it ({error}); copy the file "
                            "again") from None
    users = collections.Counter(name for node in graph.node for name in node.input)
    metadata = {each.key: each.value for each in model.metadata_props}
    found = Graph(where, content, reading.layers, entry, output, shape, reading.floors, users, metadata)
    try:
        return replace(found, tail=_tail(found, graph, reading))
    except (LookupError, ValueError, TypeError, AttributeError):  # not scales and shifts: running both says so
        return found


def _check_model(onnx, where: str, model) -> None:
    """Checks that a model is float, whole, of standard operators; UserError."""
    graph = model.graph
    ops = collections.Counter(node.op_type for node in graph.node)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        raise UserError(f"{where}: its weights are in another file (external data); put them inside: "
                        "onnx.save(onnx.load(FILE), OTHER)")
    for each in model.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if each.domain in ("", "ai.onnx") and each.version > newest:
            raise UserError(f"{where}: opset {each.version}, newer than the {newest} that is read here; export it with "
                            "opset_version=17")
    found = [op for op in INTEGER_OPS if ops[op]]
    if found:
        raise UserError(f"{where}: an INT8 or low-bit file ({some_of(found, 3)}); take the float32 file that it was made "
                        "from")
    foreign = sorted({node.domain for node in graph.node} - {"", "ai.onnx"})
    if foreign:
        raise UserError(f"{where}: has operators of {some_of(foreign, 3)} (a file that a runtime optimized?); take the file "
                        "that was exported")
    kinds = {tensor.data_type for tensor in graph.initializer if tensor.data_type in FLOATS and tensor.dims}
    if kinds - {1}:
        raise UserError(f"{where}: weights in {some_of(sorted(FLOATS[kind] for kind in kinds - {1}))}; take the float32 "
                        "file: rounded weights cannot be compared to 1e-5")
    loops = [op for op in LOOPS if ops[op]]
    if loops:
        raise UserError(f"{where}: has {some_of(loops)}, as no network that is known here; {_ops(ops)}")


def _ops(ops: collections.Counter) -> str:
    return "it holds " + some_of((f"{total} {op}" for op, total in ops.most_common()), 6)


def _array(onnx, where: str, tensor) -> np.ndarray:
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception:  # ValueError, TypeError, KeyError: by what is wrong with it
        raise UserError(f"{where}: weight {tensor.name} has not as many numbers as its shape {list(tensor.dims)}; copy the "
                        "file again") from None


def _input(where: str, graph, constants) -> tuple[str, tuple]:
    """Gives the name and shape of the one input; UserError where it is not (B, T, F) of float32."""
    inputs = [each for each in graph.input if each.name not in constants]
    said = some_of((f"{each.name} {_shape_text(each)}" for each in inputs), 4)
    if len(inputs) > 8:
        raise UserError(f"{where}: takes {len(inputs)} inputs ({said}): its weights are not inside; export it with "
                        "export_params=True")
    if len(inputs) != 1:
        raise UserError(f"{where}: takes {len(inputs)} inputs ({said}), where a speaker network takes one, features "
                        "(B, T, F); no other kind can be imported")
    kind = inputs[0].type.tensor_type
    shape = tuple(dim.dim_value or None for dim in kind.shape.dim)
    if kind.elem_type != 1 or len(shape) != 3:
        raise UserError(f"{where}: takes {said}, where a speaker network takes features (B, T, F) in float32: log-mels, "
                        "whose front end is outside")
    return inputs[0].name, shape


def _shape_text(value) -> str:
    kind = value.type.tensor_type
    sizes = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in kind.shape.dim)
    names = {**FLOATS, 7: "int64", 6: "int32", 8: "text", 9: "bool"}
    return f"({sizes}) {names.get(kind.elem_type, 'of another type')}"


def _output(where: str, graph) -> str:
    if len(graph.output) != 1:
        names = some_of((f"{each.name} {_shape_text(each)}" for each in graph.output), 4)
        raise UserError(f"{where}: gives {len(graph.output)} outputs ({names}); export it with the embedding alone")
    return graph.output[0].name


def _name(node) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)


def _read_node(onnx, where: str, reading: _Reading, node) -> None:
    constants, alias = reading.constants, reading.alias
    taken = [alias.get(name, name) for name in node.input]
    settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Constant":
        value = settings.get("value")
        if value is None:
            value = settings.get("value_float", settings.get("value_floats", settings.get("value_int", ())))
            constants[node.output[0]] = np.asarray(value)
        else:
            constants[node.output[0]] = _array(onnx, where, value)
    elif node.op_type in _SAME:
        alias[node.output[0]] = taken[0]
        if taken[0] in constants:
            constants[node.output[0]] = constants[taken[0]]
    elif node.op_type == "Transpose" and taken[0] in constants:
        constants[node.output[0]] = np.transpose(constants[taken[0]], settings.get("perm"))
    elif node.op_type == "Conv" and taken[1] in constants:
        weight = constants[taken[1]]
        one = [1] * (weight.ndim - 2)
        steps = (*settings.get("strides", one), *settings.get("dilations", one), settings.get("group", 1))
        bias = constants[taken[2]] if len(taken) > 2 and taken[2] else None
        reading.layers.append(Layer("layer", weight, bias, node.output[0], _name(node), taken[0], steps))
    elif node.op_type == "Gemm" and taken[1] in constants and not settings.get("transA", 0):
        weight = constants[taken[1]] * np.float32(settings.get("alpha", 1.0))
        bias = constants[taken[2]] * np.float32(settings.get("beta", 1.0)) if len(taken) > 2 and taken[2] else None
        reading.layers.append(Layer("layer", weight if settings.get("transB", 0) else weight.T, bias, node.output[0],
                                    _name(node), taken[0]))
    elif node.op_type == "MatMul" and taken[1] in constants and constants[taken[1]].ndim == 2:
        reading.layers.append(Layer("layer", constants[taken[1]].T, None, node.output[0], _name(node), taken[0]))
    elif node.op_type == "BatchNormalization":
        weight, bias, mean, variance = (constants[name].astype(np.float64) for name in taken[1:5])
        eps = settings.get("epsilon", 1e-5)
        reading.layers.append(Layer("norm", weight, bias, node.output[0], _name(node), taken[0], mean=mean,
                                    variance=variance + eps))
    elif node.op_type in ("Add", "Clip", "Max"):
        _read_constant(reading, node, taken, settings)


def _read_constant(reading: _Reading, node, taken: list[str], settings: dict) -> None:
    """Reads what a node adds, or bounds from below: the bias of the MatMul before it, or a floor of variances."""
    values = [reading.constants[name] for name in taken[:2] if name in reading.constants]
    values += [np.float32(settings["min"])] if node.op_type == "Clip" and "min" in settings else []
    if len(values) != 1:
        return
    value, before = np.asarray(values[0]), reading.layers[-1] if reading.layers else None
    if value.size == 1 and FLOORS[0] < abs(float(value.reshape(-1)[0])) < FLOORS[1]:
        reading.floors.append(float(f"{float(value.reshape(-1)[0]):.6g}"))
    elif (node.op_type == "Add" and before is not None and before.output in taken and before.bias is None
          and before.weight.ndim == 2 and value.shape == (len(before.weight),)):
        reading.layers[-1] = replace(before, bias=value, output=node.output[0])


def _tail(found: Graph, graph, reading: _Reading) -> tuple[np.ndarray, np.ndarray] | None:
    """Reads the scales and shifts between the last convolution or linear layer and the output, such as a batch norm or
    the mean embedding that is subtracted; they belong to that layer. None where there is none, or something else."""
    makers = {name: node for node in graph.node for name in node.output}
    last = {layer.output for layer in found.weighted[-1:]}
    norms = {layer.output: layer for layer in found.layers if layer.kind == "norm"}
    steps, name = [], found.output
    while name not in last:
        node = makers.pop(name, None)  # each once: a damaged graph may go in a circle
        if node is None:
            return None
        taken = [reading.alias.get(each, each) for each in node.input]
        free = [each for each in taken if each not in reading.constants]
        if name in norms:
            scale = norms[name].weight / np.sqrt(norms[name].variance)
            steps.append((scale, norms[name].bias - norms[name].mean * scale))
        elif node.op_type in ("Add", "Sub", "Mul", "Div") and len(free) == 1 and len(taken) == 2:
            if node.op_type in ("Sub", "Div") and taken[0] not in free:
                return None
            steps.append(_step(node.op_type, next(reading.constants[each] for each in taken if each not in free)))
        elif node.op_type not in (*_SAME, "Squeeze"):
            return None
        name = free[0]
    size = len(found.weighted[-1].weight)
    scale, shift = np.ones(size), np.zeros(size)
    for next_scale, next_shift in reversed(steps):
        scale, shift = scale * next_scale, shift * next_scale + next_shift
    return (np.broadcast_to(scale, size), np.broadcast_to(shift, size)) if steps else None


def _step(op: str, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives the scale and the shift of an operator with one constant."""
    value = given.astype(np.float64).reshape(-1)
    one, none = np.ones_like(value), np.zeros_like(value)
    with np.errstate(divide="ignore"):
        return {"Add": (one, value), "Sub": (one, -value), "Mul": (value, none), "Div": (1 / value, none)}[op]
