"""The cost of quantizing a part of a network, measured: settings, and the table of the results.

One block (or layer) at a time is quantized, all others stay in float, and a development list is scored: table 1 of
Optimization of DNN-based speaker verification model through efficient quantization technique, arXiv 2407.08991.
`blocks.tsv` holds the result: tab separated, a row for the float network, each block, and all blocks together.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from svq.atomic import atomic_write
from svq.bits.table import table_rows
from svq.config import check_choices
from svq.errors import UserError, located
from svq.names import BLOCK_LEVELS
from svq.numbers import integer, number
from svq.pack.file import packed_bytes
from svq.quant.api import FLOAT_BITS, QuantConfig, freeze_, quantizable, quantize_
from svq.quant.ptq_config import PTQConfig
from svq.quant.ptq import quantize_without_training_

FLOAT, ALL = "float", "all"  # names of the rows that are not blocks


@dataclasses.dataclass(frozen=True)
class MeasuringConfig:
    """Settings of how, and on what data, networks with quantized parts are measured.

    data: Kaldi data directory of the trials. input: `feats`, `wav`, or `auto` for what there is.
    max_utts: number of utterances, spread evenly over the speakers; 0: all of the list. max_seconds: length used of
    each utterance; 0: all of it. center: whether the mean of the list's embeddings is subtracted before scoring.
    bootstrap: resamplings of the speakers for the intervals; 0: none. seed: for these and for the subset.
    ptq: steps beside quantizing (svq.quant.ptq), on utterances of ptq_data chosen by ptq_seed.
    model_digest: digest of the network's files, to check that they have not changed since.
    Raises ValueError for values out of range.
    """

    data: str
    trials: str
    _: dataclasses.KW_ONLY
    input: Literal["auto", "feats", "wav"] = "auto"
    max_utts: int = 0
    max_seconds: float = 0.0
    center: bool = True
    bootstrap: int = 200
    seed: int = 0
    batch_frames: int = 4000
    device: str = "cpu"
    ptq: PTQConfig | None = None
    ptq_data: str | None = None
    ptq_seed: int = 1
    model_digest: str = ""

    def __post_init__(self):
        check_choices(self)
        for name in ("max_utts", "max_seconds", "bootstrap", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.batch_frames < 1:
            raise ValueError(f"batch_frames is {self.batch_frames}; it must be at least 1")


@dataclasses.dataclass(frozen=True)
class BlockSensitivityConfig(MeasuringConfig):
    """Settings of the measurement of block sensitivities.

    model: folder of the float network. quant: how blocks are quantized; ValueError where it gives single layers their
    bits. level: `block` (svq.nets.blocks) or `layer`.
    """

    model: str
    quant: QuantConfig
    level: Literal[BLOCK_LEVELS] = "block"

    def __post_init__(self):
        super().__post_init__()
        if self.quant.layers is not None:
            raise ValueError("quant.layers gives single layers their bits; leave it out, blocks are quantized in turn")


@dataclasses.dataclass(frozen=True)
class BlockRow:
    """A row of blocks.tsv: the cost of quantizing `block` alone (or nothing, or all blocks).

    kind: the type of the block. layers, weights: how many of each are quantized. bytes: size of the packed file; saved:
    how many bytes fewer than with every layer in float. eer, its difference to float and the bounds of that: in per
    cent. mindcf: the same for p_target 0.01. drift: mean, median, 95th percentile and maximum, over utterances, of
    1 - cosine between the float embedding and the quantized one. An unknown bound is nan.
    """

    block: str
    kind: str
    layers: int
    weights: int
    bytes: int
    saved: int
    eer: float
    eer_delta: float
    eer_low: float
    eer_high: float
    mindcf: float
    mindcf_delta: float
    mindcf_low: float
    mindcf_high: float
    drift: float
    drift_p50: float
    drift_p95: float
    drift_max: float


COLUMNS = tuple(field.name for field in dataclasses.fields(BlockRow))
_INTEGERS = ("layers", "weights", "bytes", "saved")


@torch.no_grad()
def quantized_copy(net: nn.Module, layers: Iterable[str], quant: QuantConfig, ptq: PTQConfig | None = None,
                   feats: torch.Tensor | None = None) -> nn.Module:
    """Copies float `net` for inference, with only the given layers quantized; `net` is not touched.

    ptq, feats: the steps beside quantizing, and the features (B, T, F) for them.
    """
    layers = list(layers)
    part = copy.deepcopy(net).eval()
    if layers and ptq is None:
        quantize_(part, quant, layers)
    elif layers:
        quantize_without_training_(part, only_these(net, layers, quant), ptq, feats)
    return freeze_(part)


def only_these(net: nn.Module, layers: Iterable[str], quant: QuantConfig) -> QuantConfig:
    """Returns `quant` with 32 bits for all layers of `net` but the given ones."""
    chosen = set(layers)
    return dataclasses.replace(quant, layers={name: quant.bits if name in chosen else FLOAT_BITS
                                              for name, _ in quantizable(net)})


def part_bytes(net: nn.Module, layers: Iterable[str], quant: QuantConfig, model) -> int:
    """Computes the bytes of the packed file of `net`, whose config is `model`, with only the given layers quantized."""
    return packed_bytes(net, only_these(net, layers, quant), model)


def write_blocks(path, rows: Iterable[BlockRow], comment: str) -> None:
    """Writes rows to a blocks.tsv, atomically; `comment` becomes its first line."""
    with atomic_write(path) as file:
        file.write(f"# {comment}\n" + "\t".join(COLUMNS) + "\n")
        for row in rows:
            values = (getattr(row, name) for name in COLUMNS)
            file.write("\t".join(f"{v:.9g}" if isinstance(v, float) else str(v) for v in values) + "\n")


def read_blocks(path) -> list[BlockRow]:
    """Reads the rows of a blocks.tsv. Raises UserError that names file and line of the first wrong row."""
    rows, seen = [], {}
    for line, fields in table_rows(path, COLUMNS):
        values = dict(zip(COLUMNS, fields))
        if values["block"] in seen:
            raise UserError(located(path, line, f"block {values['block']} is already on line {seen[values['block']]}; "
                                                "keep one of them"))
        seen[values["block"]] = line
        try:
            rows.append(BlockRow(*(_value(name, text) for name, text in values.items())))
        except ValueError as error:
            raise UserError(located(path, line, f"block {values['block']}: {error}")) from None
    missing = [name for name in (FLOAT, ALL) if name not in seen]
    if missing:
        raise UserError(f"{path}: no row {' and '.join(missing)}; svq.bin.block_sensitivity writes the whole table")
    return rows


def _value(name: str, text: str):
    if name in ("block", "kind"):
        return text
    if name in _INTEGERS:
        try:
            return integer(text)
        except ValueError:
            raise ValueError(f"{name} is '{text}'; it must be a whole number") from None
    if text == "nan" and name.endswith(("_low", "_high")):
        return math.nan
    try:
        return number(text)
    except ValueError:
        raise ValueError(f"{name} is '{text}'; it must be a number") from None
