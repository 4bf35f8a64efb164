"""Packed weights of recurrent layers in an ONNX graph.

LSTM, GRU and RNN nodes have their gates in another order than torch's modules, and the matrices of both directions in
one tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from svq.deploy.codes import float_weight
from svq.deploy.constants import Constants
from svq.deploy.graph import module_of
from svq.pack.reading import UnpackedLayer

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's gate that stands at each place in ONNX


def recurrent_weights(constants: Constants, model, tensors: dict[str, np.ndarray], layers: Sequence[UnpackedLayer]
                      ) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Adds nodes that make the matrices of recurrent layers from packed codes.

    Yields (name of a weight in the graph, name in its place, bits by layer) for each matrix. A matrix is left as it is
    where a direction has no codes, or where the codes do not give exactly the tensor of the graph. tensors: of the
    graph by name. layers: the packed network's.
    """
    known = {layer.row.name: layer for layer in layers}
    seen: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in GATES:
            continue
        scope = module_of(node.name)
        number = seen[scope] = seen.get(scope, -1) + 1
        for place, kind in ((1, "ih"), (2, "hh")):
            name = node.input[place]
            array = tensors.get(name)
            if array is None:
                continue
            stem = f"{scope}.weight_{kind}_l{number}" if scope else f"weight_{kind}_l{number}"
            found = [known.get(stem + end) for end in ("", "_reverse")[:len(array)]]
            if None in found:
                continue
            found = [_in_order(layer, GATES[node.op_type]) for layer in found]
            if np.array_equal(np.stack([layer.weight().numpy() for layer in found]), array):
                made = [float_weight(constants, layer, None, array[:1].shape) for layer in found]
                output = made[0] if len(made) == 1 else constants.node("Concat", *made, axis=0)
                yield name, output, {layer.row.name: layer.row.bits for layer in found}


def _in_order(layer: UnpackedLayer, gates: tuple[int, ...]) -> UnpackedLayer:
    """Puts the gates of a layer, (gates * hidden, inputs), into this order."""
    names = ("codes", "levels", "scale", "zero") if layer.row.codebooks > 1 else ("codes",)
    values = {name: getattr(layer, name) for name in names if getattr(layer, name) is not None}
    return dataclasses.replace(layer, **{name: value.unflatten(0, (len(gates), -1))[list(gates)].flatten(0, 1)
                                         for name, value in values.items()})
