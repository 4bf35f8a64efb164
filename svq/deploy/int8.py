"""INT8 graphs: QDQ nodes from a calibration, or products that quantize their input as they go.

ONNX Runtime's tools calibrate and insert the nodes; this module decides which tensors they quantize: the inputs of
convolutions, linear layers and residual sums, but no outputs. Between two layers the QDQ pair then stands behind the
ReLU and absorbs it, and the input of the pooling stays exact.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from svq.config import check_choices
from svq.data.extraction import Utterances
from svq.deploy.graph import LAYER_TYPES, LayerNode, module_of
from svq.errors import UserError, require

QUANTIZED_TYPES = (*LAYER_TYPES, "Add")
# The largest integer of a weight. x86 without VNNI adds two products of a byte and a weight in 16 bits and saturates:
# 2 * 255 * 64 fits into 16 bits, 2 * 255 * 127 does not. -128 is left out, as symmetric kernels leave it out.
WEIGHTS = {"safe": 64, "8bit": 127}
NEARLY = np.linspace(0.9, 1, 16)
SHARED = 0.5  # squared mean over variance of a ReLU's output; 0.47 where its input is normally distributed


@dataclass(frozen=True)
class Int8Config:
    """The settings by which activations and weights are quantized.

    activations: `uint8`, with a zero point, or `int8`, symmetric. sums: whether residual sums take INT8 inputs too;
    else they are computed in float. range: how the calibration sets the range of an activation: from its extremes
    (`minmax`), without the rarest values (`percentile`), or so that the quantized distribution is nearest to the
    original (`entropy`). percentile: percent of the values that stay in the range of `percentile`.
    int8_weights: see WEIGHTS. ValueError for a percentile out of range and for an unknown word.
    """

    activations: Literal["uint8", "int8"] = "uint8"
    sums: bool = True
    range: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = 99.999
    int8_weights: Literal["safe", "8bit"] = "safe"

    def __post_init__(self):
        check_choices(self)
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile}; it must be above 50 and at most 100")


def _quietly(function):
    """Wraps a function of ONNX Runtime's tools so that it prints nothing, not even its advice to preprocess."""

    def call(*arguments, **options):
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return function(*arguments, **options)
        finally:
            logger.setLevel(level)

    return call


class _Samples:
    """A reader for ONNX Runtime's calibration that gives one input at a time, so that few activations are held."""

    def __init__(self, samples: Sequence[np.ndarray]):
        self.samples, self.queue = samples, iter(())

    def __len__(self) -> int:
        return len(self.samples)

    def set_range(self, start_index: int, end_index: int) -> None:
        self.queue = iter(self.samples[start_index:end_index])

    def get_next(self) -> dict | None:
        sample = next(self.queue, None)
        return None if sample is None else {"input": sample}


def static_int8(model, layers: dict[str, LayerNode], snapped: dict[str, Snapped], keep_float: Collection[str],
                samples: Sequence[np.ndarray], config: Int8Config):
    """Puts QDQ nodes around all layers of a float graph but those in `keep_float`; returns a new onnx.ModelProto.

    layers: nodes by layer name. snapped: the steps of the int8 weights by layer name. samples: the calibration's
    inputs, each with a batch dimension.
    """
    onnx, tools = require("onnx"), require("onnxruntime.quantization")
    overrides = {layers[name].weight: _override(snapped[name], layers[name].axis, tools.QuantType.QInt8)
                 for name in layers if name not in keep_float}
    unsigned = config.activations == "uint8"
    quantize = _quietly(tools.quantize_static)
    method = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}[config.range]
    with tempfile.TemporaryDirectory(prefix="svq-int8-") as folder:
        source, target = os.path.join(folder, "float.onnx"), os.path.join(folder, "int8.onnx")
        onnx.save(model, source)
        quantize(
            source, target, _Samples(samples), quant_format=tools.QuantFormat.QDQ, per_channel=True,
            activation_type=tools.QuantType.QUInt8 if unsigned else tools.QuantType.QInt8,
            weight_type=tools.QuantType.QInt8, op_types_to_quantize=list(QUANTIZED_TYPES),
            nodes_to_quantize=quantized_nodes(model, layers, keep_float, config.sums),
            calibrate_method=getattr(tools.CalibrationMethod, method),
            extra_options={
                "ActivationSymmetric": not unsigned, "WeightSymmetric": True, "TensorQuantOverrides": overrides,
                "OpTypesToExcludeOutputQuantization": list(QUANTIZED_TYPES),
                "CalibStridedMinMax": 1, "CalibPercentile": config.percentile,
                # The adjustment would change the steps of the weights for a bias larger than any that occurs.
                "QDQDisableWeightAdjustForInt32Bias": True,
            })
        found = onnx.load(target)
    _check_weights(found, config.int8_weights)
    return _floats_unrounded(found, {layers[name].node for name in keep_float})


def quantized_nodes(model, layers: dict[str, LayerNode], keep_float: Collection[str], sums: bool) -> list[str]:
    """Names the nodes to quantize: the layers not in `keep_float` and, with `sums`, residual sums.

    A residual sum adds two activations. It is quantized where all layers of its module are.
    """
    found = [node.node for name, node in layers.items() if name not in keep_float]
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    for node in model.graph.node if sums else ():
        scope = module_of(node.name)
        if node.op_type != "Add" or not scope or constants.intersection(node.input):
            continue
        inside = [name for name in layers if name.startswith(scope + ".")]
        if inside and not any(name in keep_float for name in inside):
            found.append(node.name)
    return found


def _override(snapped: Snapped, axis: int, kind) -> list[dict]:
    """Writes the steps of a weight as ONNX Runtime's TensorQuantOverrides."""
    return [{"axis": axis, "quant_type": kind, "scale": np.float32(step), "zero_point": np.int8(0)}
            for step in snapped.scale]


def _floats_unrounded(model, kept: Collection[str]):
    """Lets layers that stay in float read their input from before a QDQ pair that it got for another layer."""
    source = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            source[node.output[0]] = node.input[0]
    before = {node.output[0]: source[node.input[0]] for node in model.graph.node
              if node.op_type == "DequantizeLinear" and node.input[0] in source}
    for node in model.graph.node:
        if node.name in kept:
            node.input[0] = before.get(node.input[0], node.input[0])
    return model


def dynamic_int8(model, layers: dict[str, LayerNode], keep_float: Collection[str], weights: str = "safe"):
    """Quantizes the linear layers of a float graph to int8 weights; they quantize their inputs as these come.

    torch.ao.quantization.quantize_dynamic does the same for torch.nn.Linear. layers: nodes by layer name. keep_float:
    all other layers, convolutions among them. weights: see WEIGHTS. Returns a new onnx.ModelProto.
    """
    onnx, tools = require("onnx"), require("onnxruntime.quantization")
    chosen = [node.node for name, node in layers.items() if name not in keep_float]
    chosen += [f"{name}_MatMul" for name in chosen]  # a Gemm gets this name before it is quantized
    with tempfile.TemporaryDirectory(prefix="svq-int8-") as folder:
        source, target = os.path.join(folder, "float.onnx"), os.path.join(folder, "int8.onnx")
        onnx.save(model, source)
        _quietly(tools.quantize_dynamic)(source, target, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                               nodes_to_quantize=chosen, weight_type=tools.QuantType.QInt8,
                               reduce_range=weights == "safe")
        found = onnx.load(target)
    _check_weights(found, weights)
    return found


def _check_weights(model, weights: str) -> None:
    """Raises RuntimeError where an integer is larger than WEIGHTS allows: nobody would see that sums saturate."""
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == tensor.INT8 and len(tensor.dims) > 1:
            largest = np.abs(numpy_helper.to_array(tensor).astype(int)).max(initial=0)
            if largest > WEIGHTS[weights]:
                raise RuntimeError(f"{tensor.name}: an integer of {largest}, where {weights} weights are at most "
                                   f"{WEIGHTS[weights]}")


@dataclass(frozen=True)
class Snapped:
    """The int8 grid of a layer's weight with its batch norm folded in.

    scale: (C,) steps above 0, one for each output channel. error: largest distance of a weight to its multiple of the
    step, in steps (at most 0.5). levels: number of different values in the layer; 0: the weights are no codebook's.
    """

    scale: np.ndarray
    error: float
    levels: int


def best_step(levels: np.ndarray, counts: np.ndarray, most: int = WEIGHTS["safe"],
              starts: Sequence[float] | None = None) -> float:
    """Finds the step d whose multiples k d, |k| <= most, approximate the weights of a channel best.

    The weights are `levels` (K,), each `counts` (K,) times; most: the largest integer. The criterion is the squared
    error of the channel's output, sum(e^2) + SHARED sum(e)^2 for errors e of the weights. The second term is there
    because the inputs come out of a ReLU and have a mean, with which all errors add up; those of a codebook are the
    same wherever a level occurs.

    Steps are tried in float64 for which the largest level is one of `starts` steps (None: 1 to `most`, in quarters).
    Each is improved by least squares for its integers. No level is more than `most` steps. Gives 1 where all levels are
    zero to float32.
    """
    levels, counts = np.asarray(levels, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    largest = np.abs(levels).max(initial=0.0)
    if largest < np.finfo(np.float32).tiny:
        return 1.0

    def product(a, b):
        return (counts * a * b).sum(-1) + SHARED * (counts * a).sum(-1) * (counts * b).sum(-1)

    steps = largest / (np.arange(1, most + 0.25, 0.25) if starts is None else np.asarray(starts))
    integers = np.rint(levels / steps[:, None])
    refined = product(levels, integers) / product(integers, integers)
    steps = np.concatenate([steps, refined[refined > 0]])
    steps = steps[largest / steps < most + 0.499]  # rounded once more, to float32, it stays below the half
    rest = levels - steps[:, None] * np.rint(levels / steps[:, None])
    errors = product(rest, rest)
    # Among steps that are equally good but for rounding the largest, so that every run gives the same integers.
    return float(steps[errors <= errors.min() + 1e-14 * product(levels, levels)].max())


def snap(weight: np.ndarray, folded: np.ndarray, codebook: bool, most: int = WEIGHTS["safe"]) -> Snapped:
    """Chooses the int8 steps of a layer, one for each channel.

    weight: (C, ...) as the network holds it. folded: the same with a batch norm folded in. codebook: whether the values
    of `weight` are the levels of a codebook, the layer's or each channel's own. most: the largest integer of a weight.

    A channel of a codebook gets the step that fits its levels best, times the factor that the batch norm gave the
    channel. Other weights, and those that were not only multiplied, get the step that fits them best among those for
    which the largest weight is nearly `most` steps.
    """
    rows, scaled = weight.reshape(len(weight), -1), folded.reshape(len(folded), -1).astype(np.float64)
    levels = 0
    factor = channel_factors(rows, scaled) if codebook else None
    if factor is not None:
        levels = len(np.unique(rows))
        scale = np.abs(factor) * [best_step(*np.unique(row, return_counts=True), most) for row in rows]
    else:
        scale = np.array([best_step(row, np.ones(len(row)), most, most * NEARLY) for row in scaled])
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    integers = scaled / scale[:, None].astype(np.float64)
    return Snapped(scale, float(np.abs(integers - np.rint(integers)).max(initial=0.0)), levels)


def channel_factors(rows: np.ndarray, scaled: np.ndarray) -> np.ndarray | None:
    """Finds the factors (C,) by which channels were multiplied; None where they were not only multiplied.

    rows: (C, N) weights before; scaled: (C, N) after.
    """
    rows = rows.astype(np.float64)
    power = (rows**2).sum(axis=1)
    factor = (rows * scaled).sum(axis=1) / np.where(power > 0, power, 1.0)
    off = np.abs(scaled - factor[:, None] * rows).max(axis=1, initial=0.0)
    return factor if (off <= 1e-5 * np.abs(scaled).max(axis=1, initial=0.0) + 1e-30).all() else None


def calibration_inputs(data_dir, metadata, count: int, seconds: float, seed: int,
                       input: str = "auto") -> list[np.ndarray]:
    """Reads the calibration's inputs: the first `seconds` of up to `count` utterances of a data directory.

    Each is (1, T, F), or (1, samples) where the exported network takes waveforms. metadata: the
    `svq.deploy.runtimes.Metadata` of the float graph. A fixed duration in it wins over `seconds`; shorter utterances
    are passed over then. seed: of the choice of utterances. input: as in `svq.data.extraction.Utterances`.
    UserError where an utterance cannot be read, or none is long enough.
    """
    waveforms, rate = metadata.input == "waveform", metadata.config.front_end.rate
    fixed = metadata.frames
    if fixed is not None:
        seconds = fixed / rate if waveforms else 0.0
    utterances = Utterances(data_dir, metadata.config.front_end, input, max_seconds=seconds, waveforms=waveforms)
    utterances.sample(count, seed)
    found = []
    for key, value in utterances:
        if isinstance(value, UserError):
            raise UserError(f"{data_dir}: {key}: {value}")
        if fixed is None or len(value) >= fixed:
            found.append(np.ascontiguousarray(value[:fixed].numpy()[None]))
    if not found:
        raise UserError(f"{os.fspath(data_dir)}: none of {len(utterances)} utterances is long enough for a calibration")
    return found
