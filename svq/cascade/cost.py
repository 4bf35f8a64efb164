"""What an embedding costs at each rung: multiply-accumulates, bit-operations, bytes of weights.

Bit-operations: multiply-accumulates x bits of the weight x bits of the activation, summed over layers (Baskin et al.,
"UNIQ: Uniform Noise Injection for Non-Uniform Quantization of Neural Networks", ACM TOCS 2021, without the term for the
accumulator). Where only weights are quantized, activations have 32 bits. Computation without weights (attention, say)
counts with 32 bits on the side of the weight. This is a count, not a time: a processor without low-bit arithmetic saves
nothing of it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Sequence

import numpy as np
import torch

from svq.cascade.ladder import Rung
from svq.config import load_config
from svq.data.frontend import FrontEndConfig
from svq.deploy.runtimes import files_of, load_embedder
from svq.errors import UserError
from svq.evaluation.operations import flops_by_layer, layer_bits
from svq.models import load_model
from svq.network import ModelConfig
from svq.pack.nested import bytes_read, member_config
from svq.quant.api import FLOAT_BITS

UNITS = ("macs", "bit_operations", "weight_bytes")
_KNOTS = 9


@dataclasses.dataclass(frozen=True)
class RungCost:
    """frames (k,) rising, macs (k,), bit_operations (k,): at these lengths. weight_bytes: of the packed weights."""

    frames: np.ndarray
    macs: np.ndarray
    bit_operations: np.ndarray
    weight_bytes: int

    def __call__(self, frames) -> np.ndarray:
        """(n, 3) float64 in the order of UNITS, for utterances of so many frames (n,).

        Between the counted lengths on a straight line: networks over time grow so, but for the rounding of strides (up
        to 2 % at one second, less above; rungs of one network are rounded alike, so shares of each other are exact).
        """
        frames = np.asarray(frames, dtype=np.float64)
        columns = [np.interp(frames, self.frames, values) for values in (self.macs, self.bit_operations)]
        return np.stack([*columns, np.full(len(frames), float(self.weight_bytes))], axis=1)


def rung_costs(rungs: Sequence[Rung], frames) -> list[RungCost]:
    """Of every rung, for utterances whose numbers of frames (n,) are these. UserError for an unreadable model."""
    knots = knots_of(frames)
    return [rung_cost(rung, knots) for rung in rungs]


def knots_of(frames) -> np.ndarray:
    """Lengths to count at: all where they are few, else so many from the shortest to the longest."""
    lengths = np.unique(np.asarray(frames, dtype=np.int64))
    if len(lengths) <= _KNOTS:
        return lengths
    return np.unique(np.linspace(lengths[0], lengths[-1], _KNOTS).round().astype(np.int64))


def rung_cost(rung: Rung, knots) -> RungCost:
    config = model_config(rung)
    found = np.array([operations(config, int(frames), rung.weight_bits, rung.activation_bits) for frames in knots])
    size = rung.bytes or packed_size(rung.model, rung.precision)
    return RungCost(np.asarray(knots, dtype=np.float64), found[:, 0], found[:, 1], size)


def operations(config: ModelConfig, frames: int, weight_bits: int | None = None,
               activation_bits: int = FLOAT_BITS) -> tuple[float, float]:
    """(multiply-accumulates, bit-operations) for one utterance of so many frames.

    weight_bits: of all layers; None: those of `config.quant`, FLOAT_BITS without one.
    """
    layers, total = _flops(json.dumps([config.arch, config.net, config.embed_dim, config.folded], sort_keys=True),
                           config.front_end.num_mels, frames)
    bits = 0
    for name, flops in layers.items():
        bits += flops * (layer_bits(config, name) if weight_bits is None else weight_bits)
    bits += (total - sum(layers.values())) * FLOAT_BITS
    return total / 2, bits / 2 * activation_bits


@functools.lru_cache(maxsize=None)  # the rungs of a ladder are mostly one network
def _flops(network: str, num_mels: int, frames: int) -> tuple[dict[str, int], int]:
    arch, net, embed_dim, folded = json.loads(network)
    config = ModelConfig(arch, net, embed_dim, FrontEndConfig(num_mels=num_mels), folded=folded)
    with torch.device("meta"):
        return flops_by_layer(config.build(), num_mels, frames)


def model_config(rung: Rung) -> ModelConfig:
    """What the rung's model says about itself, at the rung's precision."""
    if os.path.isdir(rung.model):
        config = load_config(os.path.join(rung.model, "config.yaml"), ModelConfig)
        if rung.precision is None:
            return config
        return dataclasses.replace(config, quant=member_config(config.quant, rung.precision, rung.model))
    if rung.model.endswith(".svq"):
        return load_model(rung.model, rung.precision)[1]
    if rung.weight_bits is None:
        raise UserError(f"{rung.model}: an exported network does not say the bits of its weights; give rung "
                        f"{rung.name} weight_bits and activation_bits (8 and 8 for INT8)")
    return load_embedder(rung.model, rung.backend).config


def packed_size(model: str, precision: int | None = None) -> int:
    """Bytes that are read to have the model's weights: of a .svq (at a precision, where it is nested), .onnx or .xml
    (with its .bin); of a folder the packed file in it where the model is quantized, else model.safetensors. UserError
    where that is not there."""
    paths = files_of(model)
    if os.path.isdir(model):
        quantized = load_config(os.path.join(model, "config.yaml"), ModelConfig).quant is not None
        paths = [os.path.join(model, "model.svq" if quantized else "model.safetensors")]
    for path in paths:
        if not os.path.isfile(path):
            mend = "; steps/pack.sh makes it" if path.endswith(".svq") else ""
            raise UserError(f"{path}: no such file{mend}")
    if paths[0].endswith(".svq"):
        return bytes_read(paths[0], precision)
    return sum(os.path.getsize(path) for path in paths)


def storage(rungs: Sequence[Rung]) -> int:
    """Bytes of all files of a ladder; a nested file that several rungs read counts once. Of a rung without a
    packed file it is what the rung says (`bytes`), where it does."""
    whole = {}
    for rung in rungs:
        place = os.path.realpath(rung.model)
        packed = os.path.join(place, "model.svq")
        file = packed if os.path.isdir(place) and os.path.isfile(packed) else place
        whole[file] = os.path.getsize(file) if file.endswith(".svq") else rung.bytes or packed_size(rung.model)
    return sum(whole.values())
