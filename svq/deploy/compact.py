"""Compact ONNX: a graph that is as small in the file as `model.svq`, and as fast as any once it is loaded.

Quantized weights lie in it as packed codes and codebooks (svq.deploy.codes), tables of a front end as the few numbers
that they are computed from (svq.deploy.tables). Ordinary operators of opset 17 make tensors of them; a runtime computes
these once, when it loads the file. Each tensor is stored once, under a short name, in half precision where that loses
nothing.

Before a file is written, the tensors that the operators give are compared with those of the original graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from svq.data.frontend import filter_bank
from svq.deploy.codes import float_weight, integer_weight
from svq.deploy.constants import Constants
from svq.deploy.export import Exported
from svq.deploy.graph import OPSET, LayerNode
from svq.deploy.int8 import channel_factors
from svq.deploy.recurrent import recurrent_weights
from svq.deploy.tables import centred_table, kaldi_table, sparse
from svq.errors import require
from svq.pack.reading import UnpackedLayer

CLOSE = 1e-6  # of float tensors, relative to the largest entry
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def compact(graph: Exported, layers: Sequence[UnpackedLayer]) -> Exported:
    """Makes a graph, float or INT8, compact: replaces the weights of quantized layers by packed codes.

    layers: the quantized layers of the packed network that `graph` was exported from. Every tensor stays the same, to
    float rounding. A layer whose weights in the graph no longer follow from its codes keeps them; `packed` of the
    result has the bits of all others.
    """
    model = type(graph.model)()
    model.CopyFrom(graph.model)
    tensors = tensors_of(model)
    constants, instead, packed = Constants(), {}, {}
    for name, made, layer_bits in _weights(constants, graph, tensors, layers):
        instead[name] = made
        packed |= layer_bits
    instead |= _front_end(constants, graph, tensors)
    instead |= _quantization(constants, model, tensors)
    instead |= {name: constants.array(array) for name, array in tensors.items() if name not in instead}
    check(constants, {instead[name]: array for name, array in tensors.items()})
    _rebuild(model, constants, instead)
    names = _shorten(model, constants, {node.node: name for name, node in graph.layers.items()})
    nodes = {name: LayerNode(name, name, names[instead[node.weight]], node.axis) for name, node in graph.layers.items()
             if node.weight in instead}
    metadata = dataclasses.replace(graph.metadata, weights="packed" if packed else "plain")
    return dataclasses.replace(graph, model=model, metadata=metadata, layers=nodes, packed=packed)


def tensors_of(model) -> dict[str, np.ndarray]:
    """Gives every constant of an onnx.ModelProto by name: initializers and the values of Constant nodes."""
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _weights(constants: Constants, graph: Exported, tensors: dict, layers: Sequence[UnpackedLayer]):
    """Yields (name of a weight in the graph, name in its place, bits by layer) for every weight that the codes give."""
    made = {output: node for node in graph.model.graph.node for output in node.output}
    nodes = {node.name: node for node in graph.model.graph.node}
    for layer in layers:
        name = layer.row.name
        if name not in graph.layers or graph.layers[name].node not in nodes:
            continue
        place, weight = graph.layers[name], nodes[graph.layers[name].node].input[1]
        if weight in made and made[weight].op_type == "DequantizeLinear":
            weight = made[weight].input[0]
        if weight not in tensors:
            continue
        array = np.moveaxis(tensors[weight], place.axis, 0)
        if array.dtype == np.float32:
            rows = (len(array), -1)
            factor = channel_factors(layer.weight().numpy().reshape(rows), array.reshape(rows).astype(np.float64))
            output = None if factor is None else float_weight(constants, layer, _plain(factor), array.shape)
        else:
            output = integer_weight(constants, layer, array) if array.dtype in (np.int8, np.uint8) else None
        if output is not None:
            if place.axis:
                output = constants.node("Transpose", output)
            yield weight, output, {name: layer.row.bits}
    yield from recurrent_weights(constants, graph.model, tensors, layers)


def _plain(factor: np.ndarray) -> np.ndarray | None:
    """Cleans factors (C,) of the rounding of products: to float16 values where they are that close to these.

    Gives float32, or None where all are 1.
    """
    with np.errstate(over="ignore"):
        half = factor.astype(np.float16).astype(np.float64)
    factor = half if np.allclose(half, factor, CLOSE, 0) else factor
    return None if (factor == 1).all() else factor.astype(np.float32)


def _front_end(constants: Constants, graph: Exported, tensors: dict) -> dict[str, str]:
    """Makes the tables of the front end from a few numbers; gives the name in place of each."""
    if graph.metadata.input != "waveform":
        return {}
    config = graph.metadata.config.front_end
    bank = filter_bank(config)
    matrix, mel = tensors["front_end.matrix"], tensors["front_end.mel"]
    table = (kaldi_table if config.fbank == "kaldi" else centred_table)(constants, bank)
    return {"front_end.matrix": constants.shaped(constants.cast(table, np.float32), matrix.shape),
            "front_end.mel": sparse(constants, mel)}


def _quantization(constants: Constants, model, tensors: dict) -> dict[str, str]:
    """Makes the scales and zero points of int8 weights and the scales of biases; gives the name in place of each.

    No two layers share a scale. A bias's scale is the product of the scales of the layer's input and weight.
    """
    sources = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = {}
    for node in model.graph.node:
        made = [sources.get(name) for name in node.input]
        if len(made) < 2 or None in made[:2] or any(name not in tensors for name in made[1].input):
            continue
        weight, scale, zero = (*made[1].input, None)[:3]
        if tensors[weight].dtype != np.int8 or not tensors[scale].ndim or scale in found:
            continue
        found[scale] = constants.tensor(tensors[scale], alone=True)
        if zero is not None and not tensors[zero].any():
            none = constants.node("Sub", found[scale], found[scale])
            found[zero] = constants.cast(none, tensors[zero].dtype)
        value, bias = made[0].input[1], made[2].input[1] if len(made) > 2 and made[2] is not None else None
        if value in tensors and bias in tensors and np.array_equal(tensors[bias], tensors[value] * tensors[scale]):
            found[bias] = constants.node("Mul", constants.array(tensors[value]), found[scale])
    return found


def check(constants: Constants, expected: dict[str, np.ndarray]) -> None:
    """Checks in ONNX Runtime that the nodes give the expected tensors: floats to CLOSE, others exactly.

    expected: by the names in `constants`. RuntimeError for one that differs.
    """
    onnx, runtime = constants.onnx, require("onnxruntime")
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in expected]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in constants.tensors.items()]
    graph = onnx.helper.make_graph(constants.nodes, "constants", [], outputs, stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for (name, array), found in zip(expected.items(), session.run(list(expected), {})):
        if found.dtype != array.dtype or found.shape != array.shape:
            raise RuntimeError(f"constant {name}: {found.dtype} {found.shape}, not {array.dtype} {array.shape}")
        far = CLOSE * np.abs(array).max(initial=0.0) if array.dtype.kind == "f" else 0
        if not (np.abs(found - array) <= far if far else found == array).all():
            raise RuntimeError(f"constant {name} does not come out of the compact graph as it went in")


def _rebuild(model, constants: Constants, instead: dict[str, str]) -> None:
    """Puts the constants into the model and takes out those that they replace. instead: old name -> new name."""
    graph = model.graph
    kept = [node for node in graph.node if not (node.op_type == "Constant" and node.output[0] in instead)]
    for node in kept:
        node.input[:] = [instead.get(name, name) for name in node.input]
    wanted = {name for node in kept for name in node.input}
    head = []
    for node in reversed(constants.nodes):
        if node.output[0] in wanted:
            head.insert(0, node)
            wanted.update(node.input)
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(head + kept)
    graph.initializer.extend(constants.onnx.numpy_helper.from_array(array, name)
                             for name, array in constants.tensors.items() if name in wanted)


def _shorten(model, constants: Constants, layer_of: dict[str, str]) -> dict[str, str]:
    """Shortens all names but those of inputs and outputs; gives old -> new.

    A node in `layer_of` gets its layer's name, the others get none.
    """
    graph = model.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    ones = {name for name, array in constants.tensors.items() if array.dtype == np.int64 and (array == 1).all()}
    for node in graph.node:
        if any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute):
            raise RuntimeError(f"node {node.name} has a graph of its own")
        if node.name in layer_of:
            node.name = layer_of[node.name]
        else:
            node.ClearField("name")
        node.ClearField("doc_string")
        _drop_defaults(constants, node)
        if node.op_type == "Slice" and len(node.input) == 5 and node.input[4] in ones:
            del node.input[4:]
        for values in (node.input, node.output):
            values[:] = [names.setdefault(name, _short(len(names))) for name in values]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    graph.name = "svq"
    return names


def _drop_defaults(constants: Constants, node) -> None:
    """Takes out the attributes of a node that have their default value."""
    onnx = constants.onnx
    known = onnx.defs.get_schema(node.op_type, OPSET).attributes if onnx.defs.has(node.op_type) and not node.domain else {}

    def is_default(attribute) -> bool:
        if node.op_type == "Conv" and attribute.name in ("strides", "dilations", "pads"):
            return set(attribute.ints) == {int(attribute.name != "pads")}
        default = known[attribute.name].default_value if attribute.name in known else onnx.AttributeProto()
        return default.type != default.UNDEFINED and (
            onnx.helper.get_attribute_value(default) == onnx.helper.get_attribute_value(attribute))

    kept = [attribute for attribute in node.attribute if not is_default(attribute)]
    del node.attribute[:]
    node.attribute.extend(kept)


def _short(number: int) -> str:
    """Gives a name for a number: one letter, then two, and so on; `input` and `embedding` are millions away."""
    text = ""
    while True:
        text, number = LETTERS[number % len(LETTERS)] + text, number // len(LETTERS)
        if not number:
            return text
