"""Measures a model that is a file, for reports: parameters, bits per weight, bytes."""

from __future__ import annotations

import os

from svq.deploy.runtimes import bytes_of, load_embedder
from svq.quant.api import FLOAT_BITS, count_parameters, quantizable

INT8_BITS = 8


def file_summary(path) -> dict:
    """Measures the model in an exported .onnx or .xml, or in a packed .svq: what summary.json of a system holds.

    avg_bits: bits per weight, averaged over the layers that can be quantized; size_bytes: of the file, and of the .bin
    of an .xml; params: the learned numbers of the float network; file: `path`; given: that it was made elsewhere. UserError for a file that is missing,
    damaged, or not made by svq.
    """
    path = os.fspath(path)
    metadata = load_embedder(path).metadata
    net, quant = metadata.config.build(), metadata.config.quant
    floats = metadata.details.get("float_layers", ())
    in_int8 = metadata.precision != "float32"

    def bits_of(layer: str) -> int:
        if in_int8:
            return FLOAT_BITS if layer in floats else INT8_BITS
        return FLOAT_BITS if quant is None else quant.bits_of(layer)

    counts = {name: layer.weight.numel() for name, layer in quantizable(net)}
    bits = sum(count * bits_of(name) for name, count in counts.items()) / sum(counts.values()) if counts else FLOAT_BITS
    return {"params": count_parameters(net), "avg_bits": float(bits), "file": path, "given": True,
            "size_bytes": bytes_of(path)}
