"""Exports a model to a file for ONNX Runtime or OpenVINO: traces it, quantizes it, writes it whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import nn

from svq.atomic import atomic_path
from svq.deploy.graph import EXAMPLE_FRAMES, GraphFrontEnd, LayerNode, initializer, layer_nodes, to_onnx
from svq.deploy.int8 import WEIGHTS, Int8Config, Snapped, dynamic_int8, snap, static_int8
from svq.deploy.runtimes import BIN_KEY, KEY, Metadata
from svq.deploy.seal import sealed
from svq.errors import UserError, require, some_of
from svq.files import sha256_of
from svq.network import ModelConfig
from svq.quant.api import FLOAT_BITS, QuantConfig, quantizable, quantizable_modules

RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino"}  # by a file's suffix


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported graph (onnx.ModelProto), its metadata, and the network's layers in it by name.

    net: the float network behind it, for its weights. snapped: steps of the int8 weights by layer; empty for float.
    properties: further metadata of an .onnx, for other readers than svq.
    packed: bits of the layers whose weights are packed codes (svq.deploy.compact), by name.
    """

    model: object
    metadata: Metadata
    net: nn.Module
    layers: dict[str, LayerNode]
    snapped: dict[str, Snapped] = dataclasses.field(default_factory=dict)
    properties: dict[str, str] = dataclasses.field(default_factory=dict)
    packed: dict[str, int] = dataclasses.field(default_factory=dict)


def export_float(net: nn.Module, config: ModelConfig, calibration: dict | None = None, front_end: bool = False,
                 seconds: float | None = None, network: str | None = None) -> Exported:
    """Exports a network as a float graph.

    net: in eval mode and frozen (`svq.quant.api.freeze_`). calibration: of scores to log-likelihood ratios, to be kept
    in the file. front_end: whether the graph takes waveforms (B, samples) instead of features (B, T, F). seconds: the
    only duration that it takes; None: any. network: svq.models.network_digest of it, to be kept in the file.
    UserError for a duration of less than a frame, and for recurrent modules that ONNX cannot express.
    """
    bank = GraphFrontEnd(config.front_end) if front_end else None
    length, example = _example(config, front_end, seconds)
    _check_recurrent(net, fixed=length is not None)
    model = to_onnx(net, example, bank, fixed=length is not None)
    metadata = Metadata(config, "waveform" if front_end else "features", calibration, length, network=network)
    return Exported(model, metadata, net, layer_nodes(model, net))


def _check_recurrent(net: nn.Module, fixed: bool) -> None:
    for name, module in net.named_modules():
        if isinstance(module, nn.LSTM) and module.proj_size:
            raise UserError(f"{name or 'the network'}: an LSTM with projections (proj_size); ONNX has none: use a "
                            "packed file")
        if isinstance(module, nn.RNNCellBase) and not fixed:
            raise UserError(f"{name or 'the network'}: a loop over frames is unrolled, so the graph takes one duration "
                            "only; name it by --seconds")


def _example(config: ModelConfig, front_end: bool, seconds: float | None) -> tuple[int | None, torch.Tensor]:
    """Gives the fixed number of frames or samples, None where any will do, and an input to trace the network with."""
    from svq.data.frontend import filter_bank

    rate, bank = config.front_end.rate, filter_bank(config.front_end)
    samples = round((seconds or 0.01 * (EXAMPLE_FRAMES + 4)) * rate)
    frames = bank.num_frames(samples)
    if frames < 1:
        raise UserError(f"seconds is {seconds}: the front end needs {bank.shortest} samples at least; give more")
    generator = torch.Generator().manual_seed(0)
    shape = (2, samples) if front_end else (2, frames, config.front_end.num_mels)
    length = None if seconds is None else shape[1]
    return length, 0.1 * torch.randn(shape, generator=generator)


def float_layers(net: nn.Module, names: Collection[str] = (), bits_path=None,
                 quant: QuantConfig | None = None) -> set[str]:
    """Collects the names of the layers that stay in float.

    names: layers, or modules with all layers in them. bits_path: a bits.tsv, whose layers of 32 bits stay in float.
    quant: the network's own QuantConfig, likewise. UserError for a name that is neither a layer nor a module with
    layers, and for a table of another network.
    """
    from svq.bits.table import check_bits, read_bits

    known, found = [name for name, _ in quantizable(net)], set()
    for name in names:
        inside = [layer for layer in known if layer == name or layer.startswith(name + ".")]
        if not inside:
            raise UserError(f"the network has no layer {name} to keep in float; it has {some_of(known, 12)}")
        found.update(inside)
    if bits_path is not None:
        rows = read_bits(bits_path)
        check_bits(rows, net, bits_path)
        found.update(row.layer for row in rows if row.bits == FLOAT_BITS)
    if quant is not None:
        found.update(layer for layer in known if quant.bits_of(layer) == FLOAT_BITS)
    return found


def export_int8(graph: Exported, samples: Sequence[np.ndarray], config: Int8Config,
                keep_float: Collection[str] = ()) -> Exported:
    """Quantizes a float graph to INT8 weights and activations.

    samples: inputs of the graph, batch 1, from which the ranges of activations are measured. keep_float: names of the
    layers that stay in float; recurrent layers do in any case. Weights of a codebook are put on the int8 grid that fits
    it best; `snapped` of the result says how well. UserError where no layer is left to quantize.
    """
    _check_rest(graph.layers.keys() - keep_float)
    modules, quant, snapped = dict(quantizable_modules(graph.net)), graph.metadata.config.quant, {}
    keep_float = {name for name in keep_float if name in graph.layers}
    for name, node in graph.layers.items():
        if name not in keep_float:
            folded = np.moveaxis(initializer(graph.model, node.weight), node.axis, 0)
            snapped[name] = snap(modules[name].weight.detach().numpy(), folded,
                                 quant is not None and quant.bits_of(name) != FLOAT_BITS, WEIGHTS[config.int8_weights])
    model = static_int8(graph.model, graph.layers, snapped, keep_float, samples, config)
    details = {**dataclasses.asdict(config), "calibration_inputs": len(samples),
               "float_layers": _without(graph, snapped)}
    return _quantized(graph, model, "int8", details, snapped)


def export_dynamic_int8(graph: Exported, keep_float: Collection[str] = (), int8_weights: str = "safe") -> Exported:
    """Quantizes the linear layers of a float graph to int8 weights; they quantize their inputs as these come.

    No calibration data are needed. keep_float: names of the layers that stay in float. int8_weights: see
    `svq.deploy.int8.WEIGHTS`. UserError where no linear layer is left to quantize.
    """
    types = {node.name: node.op_type for node in graph.model.graph.node}
    chosen = {name for name, node in graph.layers.items() if types[node.node] != "Conv"}.difference(keep_float)
    _check_rest(chosen)
    kept = graph.layers.keys() - chosen  # convolutions too compute in float
    model = dynamic_int8(graph.model, graph.layers, kept, int8_weights)
    details = {"int8_weights": int8_weights, "float_layers": _without(graph, chosen)}
    return _quantized(graph, model, "int8-dynamic", details, {})


def _without(graph: Exported, quantized: Collection[str]) -> list[str]:
    """Gives the names of all other layers of the network, also of those that are no layer nodes of the graph."""
    return sorted(name for name, _ in quantizable(graph.net) if name not in quantized)


def _check_rest(layers: Collection[str]) -> None:
    # ONNX Runtime's tools take an empty list of nodes to mean all of them.
    if not layers:
        raise UserError("every layer that could be INT8 is to stay in float; export it without --int8")


def _quantized(graph: Exported, model, precision: str, details: dict, snapped: dict[str, Snapped]) -> Exported:
    metadata = dataclasses.replace(graph.metadata, precision=precision, details=details)
    return dataclasses.replace(graph, model=model, metadata=metadata, snapped=snapped)


def write(graph: Exported, path) -> None:
    """Writes an exported graph to `path`, .onnx or .xml (with its .bin), whole or not at all.

    UserError for another suffix.
    """
    path = os.fspath(path)
    suffix = suffix_of(path)
    metadata = dataclasses.replace(graph.metadata, digest=digest_of(graph.model))
    {".onnx": _write_onnx, ".xml": _write_openvino}[suffix](dataclasses.replace(graph, metadata=metadata), path)


def suffix_of(path) -> str:
    """Gives the suffix of a path that `write` can make, .onnx or .xml. UserError for another suffix."""
    suffix = os.path.splitext(path)[1]
    if suffix not in RUNTIMES:
        raise UserError(f"{os.fspath(path)}: must end in .onnx (ONNX) or .xml (OpenVINO)")
    return suffix


def require_for(path, int8: bool = False) -> None:
    """Checks before the work that `path` can be written: UserError for another suffix and for a missing package."""
    packages = ["onnx", RUNTIMES[suffix_of(path)]]
    for package in packages + ["onnxruntime.quantization"] if int8 else packages:
        require(package)


def digest_of(model) -> str:
    """Computes the SHA-256 of an onnx.ModelProto's graph, weights included, in hexadecimal digits."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def _write_onnx(graph: Exported, path: str) -> None:
    onnx = require("onnx")
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    onnx.helper.set_model_props(model, {**graph.properties, KEY: graph.metadata.dumps()})
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(sealed(model.SerializeToString(deterministic=True)))


def _write_openvino(graph: Exported, path: str) -> None:
    """Writes an .xml and its .bin. The old .xml is removed before the new .bin is in place, and the new .xml comes
    last, so that an .xml that is there always has its own weights."""
    openvino = require("openvino")
    folder, name = os.path.split(path)
    os.makedirs(folder or ".", exist_ok=True)
    weights = os.path.splitext(path)[0] + ".bin"
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder or ".") as scratch:
        source, target = os.path.join(scratch, "model.onnx"), os.path.join(scratch, "model.xml")
        _write_onnx(graph, source)
        model = openvino.Core().read_model(source)
        model.set_rt_info(graph.metadata.dumps(), [KEY])
        # Half precision would halve the file of a float network, and change its embeddings.
        openvino.save_model(model, target, compress_to_fp16=False)
        model.set_rt_info(sha256_of(os.path.join(scratch, "model.bin")), [BIN_KEY])
        openvino.save_model(model, target, compress_to_fp16=False)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        for made, final in ((os.path.splitext(target)[0] + ".bin", weights), (target, path)):
            os.chmod(made, _mode())
            os.replace(made, final)


def _mode() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask
