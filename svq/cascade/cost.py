"""Counts what an embedding costs at each rung of a ladder, and what a cascade over a list costs, in several ways.

Bit-operations: multiply-accumulates x bits of the weight x bits of the activation, summed over layers (Baskin et al.,
"UNIQ: Uniform Noise Injection for Non-Uniform Quantization of Neural Networks", ACM TOCS 2021, without the term for the
accumulator). Where only weights are quantized, activations have 32 bits. Computation without weights (attention, say)
counts as if weights of 32 bits took part. This is a count, not a time: a processor without low-bit arithmetic saves
nothing of it.

*Streaming*: each trial brings its own test utterance, as on a device; it is embedded at every rung that the trial
reaches. Enrolments have been embedded at every rung before.

*On demand*: as streaming, but each utterance of an enrolled model is embedded once at each rung, when the first trial
with that model gets there.

*List*: each utterance of the list, enrolment or test, is embedded at most once at each rung, as in an evaluation. This
saves less: where an utterance is in many trials, one unsure trial is enough to embed it at the next rung.
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
from svq.quant.api import FLOAT_BITS, QuantConfig

INT8_BITS = 8
UNITS = ("macs", "bit_operations", "weight_bytes")
_KNOTS = 9


@dataclasses.dataclass(frozen=True)
class RungCost:
    """The cost of an embedding at a rung, by length. frames: (k,) rising. macs, bit_operations: (k,) at these lengths.
    weight_bytes: of the packed weights."""

    frames: np.ndarray
    macs: np.ndarray
    bit_operations: np.ndarray
    weight_bytes: int

    def __call__(self, frames) -> np.ndarray:
        """Gives the costs (n, 3) float64, in the order of UNITS, of utterances of so many frames (n,).

        Costs between the counted lengths are interpolated on a straight line. Networks over time grow so, but for the
        rounding of strides: up to 2 % at one second, less above. Rungs of one network are rounded alike, so their
        shares of each other are exact.
        """
        frames = np.asarray(frames, dtype=np.float64)
        columns = [np.interp(frames, self.frames, values) for values in (self.macs, self.bit_operations)]
        return np.stack([*columns, np.full(len(frames), float(self.weight_bytes))], axis=1)


def rung_costs(rungs: Sequence[Rung], frames) -> list[RungCost]:
    """Counts the cost of an embedding at every rung. frames: (n,) lengths of the utterances.

    UserError for an unreadable model.
    """
    knots = knots_of(frames)
    return [rung_cost(rung, knots) for rung in rungs]


def knots_of(frames) -> np.ndarray:
    """Gives the lengths in frames to count at: all different ones of `frames` (n,), or nine evenly spread if more."""
    lengths = np.unique(np.asarray(frames, dtype=np.int64))
    if len(lengths) <= _KNOTS:
        return lengths
    return np.unique(np.linspace(lengths[0], lengths[-1], _KNOTS).round().astype(np.int64))


def rung_cost(rung: Rung, knots) -> RungCost:
    config, activation_bits = as_computed(rung)
    found = np.array([operations(config, int(frames), rung.weight_bits, activation_bits) for frames in knots])
    size = rung.bytes or packed_size(rung.model, rung.precision)
    return RungCost(np.asarray(knots, dtype=np.float64), found[:, 0], found[:, 1], size)


def operations(config: ModelConfig, frames: int, weight_bits: int | None = None,
               activation_bits: int = FLOAT_BITS) -> tuple[float, float]:
    """Counts the multiply-accumulates and the bit-operations of a network for one utterance of so many frames.

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


def as_computed(rung: Rung) -> tuple[ModelConfig, int]:
    """Gives the config of a rung's model, at the rung's precision, and the bits of its activations.

    Layers of an INT8 file have 8 bits, except those that it computes in float.
    """
    activation_bits = rung.activation_bits or FLOAT_BITS
    if os.path.isdir(rung.model):
        config = load_config(os.path.join(rung.model, "config.yaml"), ModelConfig)
        if rung.precision is None:
            return config, activation_bits
        quant = member_config(config.quant, rung.precision, rung.model)
        return dataclasses.replace(config, quant=quant), activation_bits
    if rung.model.endswith(".svq"):
        return load_model(rung.model, rung.precision)[1], activation_bits
    metadata = load_embedder(rung.model, rung.backend).metadata
    if metadata.precision == "float32":
        return metadata.config, activation_bits
    floats = dict.fromkeys(metadata.details.get("float_layers", ()), FLOAT_BITS)
    quant = QuantConfig(bits=INT8_BITS, layers=floats)
    return dataclasses.replace(metadata.config, quant=quant), rung.activation_bits or INT8_BITS


def packed_size(model: str, precision: int | None = None) -> int:
    """Counts the bytes that a runtime reads to have a model's weights.

    Of a .svq it reads the part for `precision`, where it is nested; of an .onnx or .xml all (with the .bin). A folder
    counts by the model.svq in it where the model is quantized, else by model.safetensors. UserError where the file is
    missing.
    """
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
    """Counts the bytes of all model files of a ladder; a nested file that several rungs read counts once.

    A rung without a .svq counts by its key `bytes` where it has one, else by `packed_size`.
    """
    whole = {}
    for rung in rungs:
        place = os.path.realpath(rung.model)
        packed = os.path.join(place, "model.svq")
        file = packed if os.path.isdir(place) and os.path.isfile(packed) else place
        whole[file] = os.path.getsize(file) if file.endswith(".svq") else rung.bytes or packed_size(rung.model)
    return sum(whole.values())


STREAMING, ON_DEMAND, LIST = "streaming", "on demand", "list"
ACCOUNTINGS = (STREAMING, ON_DEMAND, LIST)


@dataclasses.dataclass(frozen=True)
class Counted:
    """The counts of a cascade over a list. embeddings: (R,) how many at each rung. costs: (R, 3) what they cost, in
    the order of UNITS."""

    embeddings: np.ndarray
    costs: np.ndarray

    def total(self, unit: str) -> float:
        """Sums the costs of all rungs in one unit of UNITS."""
        return float(self.costs[:, UNITS.index(unit)].sum())

    def share(self, unit: str, other: Counted) -> float:
        """Gives the cost in `unit`, one of UNITS, as a share of what `other` costs."""
        return self.total(unit) / other.total(unit)


def table_of(costs: list[RungCost], frames) -> np.ndarray:
    """Gives the table (R, U, 3) of what embedding each utterance costs at each rung, in the order of UNITS.

    frames: (U,) lengths of the utterances.
    """
    return np.stack([cost(frames) for cost in costs])


def count(listed, reached: np.ndarray, table: np.ndarray, accounting: str = STREAMING) -> Counted:
    """Counts embeddings and costs of a cascade over a list.

    listed: a TrialList, or an object with its test, model, member and member_model. reached: (R, n) bool, which rungs
    each trial goes through. table: (R, U, 3), see `table_of`. accounting: one of ACCOUNTINGS, see the module.
    """
    embeddings, costs = [], []
    for rung, here in enumerate(reached):
        if accounting == LIST:
            rows = np.union1d(listed.test[here], enrolled(listed, here))
        else:
            rows = listed.test[here]
            if accounting == ON_DEMAND:
                rows = np.concatenate([rows, enrolled(listed, here)])
        embeddings.append(len(rows))
        costs.append(table[rung, rows].sum(axis=0))
    return Counted(np.array(embeddings), np.array(costs))


def enrolled(listed, here: np.ndarray) -> np.ndarray:
    """Finds the enrolment utterances, each once, of the models that the trials `here`, (n,) bool, need."""
    return np.unique(listed.member[np.isin(listed.member_model, np.unique(listed.model[here]))])


def per_trial(listed, table: np.ndarray, unit: str = "bit_operations") -> np.ndarray:
    """Gives the cost (R, n) of the test utterance of each trial at each rung alone. table: see `table_of`."""
    return table[:, listed.test, UNITS.index(unit)]
