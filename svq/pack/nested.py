"""Nested packed files: codes of several precisions as one, what one precision needs of them, and how they are written.

Each weight's leading bits stand apart from the bits that higher precisions add: its code is there once, and all that
differs once for each precision. One precision of a nested network is a plain network, like one quantized to those bits
alone.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from svq.errors import UserError
from svq.files import require_file
from svq.network import ModelConfig
from svq.pack.format import (
    FORMAT_VERSION,
    NESTED_VERSION,
    PackedLayer,
    about_file,
    as_json,
    digest,
    model_dict,
    pack_codes,
    packed_size,
    safetensors_bytes,
    unpack_codes,
)
from svq.pack.writing import batch_norms, other_tensors, pack_layers, pack_norms
from svq.quant.api import QuantConfig, float_weight, quantizable, quantize_, quantizers
from svq.quant.base import Quantizer, parametrization
from svq.quant.nested import NestedQuantizer, PrecisionNorms, no_such_precision, precisions_of, set_precision_
from svq.quant.quantizers import LevelQuantizer


def widths(precisions: Sequence[int]) -> dict[int, int]:
    """How many bits each precision adds to the one before it: (2, 4) -> {2: 2, 4: 2}."""
    return {bits: bits - before for bits, before in zip(precisions, (0, *precisions))}


def split_codes(packed: np.ndarray, sizes: Iterable[int], precisions: Sequence[int]) -> dict[int, np.ndarray]:
    """Layers of so many codes (`sizes`) of the highest precision, each packed from a byte on -> by precision, the bits
    that it adds to each code, packed likewise. ValueError where the bytes are not those of the layers."""
    pieces, start = {bits: [] for bits in precisions}, 0
    for count in sizes:
        end = start + packed_size(count, precisions[-1])
        codes = unpack_codes(packed[start:end], precisions[-1], count)
        for bits, width in widths(precisions).items():
            pieces[bits].append(pack_codes(codes >> (precisions[-1] - bits) & (1 << width) - 1, width))
        start = end
    return {bits: np.concatenate(parts) for bits, parts in pieces.items()}


def join_codes(parts: dict[int, np.ndarray], sizes: Iterable[int]) -> np.ndarray:
    """The inverse: the codes of the highest of the precisions in `parts`, packed; ValueError as there."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    precisions = sorted(parts)
    pieces, starts = [], dict.fromkeys(precisions, 0)
    for count in sizes:
        codes = np.zeros(count, dtype=np.uint8)
        for bits, width in widths(precisions).items():
            end = starts[bits] + packed_size(count, width)
            codes = codes << width | unpack_codes(parts[bits][starts[bits] : end], width, count)
            starts[bits] = end
        pieces.append(pack_codes(codes, precisions[-1]))
    if any(starts[bits] != parts[bits].size for bits in precisions):
        raise ValueError("more bytes of codes than its layers have")
    return np.concatenate(pieces)


def member_config(quant: QuantConfig | None, precision: int, where) -> QuantConfig:
    """The config of the plain network at `precision`; UserError naming `where` where a model of `quant` has none."""
    precisions = () if quant is None else quant.precisions or ()
    if precision not in precisions:
        raise UserError(no_such_precision(where, precisions, precision))
    return quant.at(precision)


@torch.no_grad()
def at_precision_(net: nn.Module, precision: int) -> nn.Module:
    """Makes of nested `net`, in place, the plain network of one of its precisions, quantized as `QuantConfig.at` says;
    returns `net`. Its quantized weights are the same, bit for bit.

    The plain quantizer takes the nearest level, where the nested one has the thresholds of its highest precision. So
    below that, the few float weights between the two thresholds are put on the level that they had; all others stay as
    they are.
    """
    set_precision_(net, precision)
    for _, layer, quantizer in list(quantizers(net)):
        if isinstance(quantizer, NestedQuantizer):
            weight = float_weight(layer)
            plain = _plain(quantizer, weight).train(quantizer.training)
            codes = quantizer.codes(weight)
            weight.copy_(torch.where(plain.codes(weight) == codes, weight, quantizer(weight)))
            parametrization(layer)[0] = plain
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PrecisionNorms):
                setattr(parent, name, child[str(precision)])
    return net


def _plain(quantizer: NestedQuantizer, weight: torch.Tensor) -> Quantizer:
    """The quantizer of its highest precision, or one of the levels of a lower one with a scale of 1, to keep them."""
    if quantizer.precision == quantizer.bits:
        return quantizer.top
    levels = quantizer.codebook()
    return LevelQuantizer(weight, quantizer.precision, levels, torch.ones(levels.shape[:-1]))


MARK = "@"  # between the name of a tensor and the precision that it belongs to


def precision_to_read(path, about, precision: int | None) -> int | None:
    """The precision to read of a file with metadata `about`: its highest where none is given, None where it is not
    nested. UserError for one that it has not."""
    if not isinstance(about, dict) or about.get("format") != NESTED_VERSION:
        if precision is not None:
            raise UserError(no_such_precision(path, (), precision))
        return None
    precisions = precisions_in(path, about)
    if precision is not None and precision not in precisions:
        raise UserError(no_such_precision(path, precisions, precision))
    return precisions[-1] if precision is None else precision


def precisions_in(path, about: dict) -> list[int]:
    """The precisions of a nested file, ascending."""
    try:
        precisions = [int(bits) for bits in about["model"]["quant"]["precisions"]]
    except (KeyError, TypeError, ValueError):
        precisions = []
    if precisions:
        return precisions
    raise UserError(f"{path}: its precisions are not described as they should be; pack it again")


def names_at(names: Iterable[str], precision: int | None) -> list[str]:
    """Of the names of all tensors those that a precision needs; all of a file that is not nested."""
    if precision is None:
        return list(names)
    needed = []
    for name in names:
        base, marked, bits = name.rpartition(MARK)
        own = not marked or bits == str(precision)
        if own or base == "codes" and bits.isdecimal() and int(bits) < precision:
            needed.append(name)
    return needed


def as_plain(about: dict, tensors: dict[str, torch.Tensor], precision: int, config, sizes: dict[str, int]
             ) -> tuple[dict, dict[str, torch.Tensor]]:
    """Metadata and tensors of a plain packed file at `precision`, from those of a nested one that it needs.

    config: the ModelConfig in the file. sizes: weights of every layer by name. KeyError, TypeError or ValueError where
    they are not described as they should be.
    """
    rows = [PackedLayer(*row) for row in about["layers"]]
    parts = {int(name.rpartition(MARK)[2]): tensor.numpy() for name, tensor in tensors.items()
             if name.startswith(f"codes{MARK}")}
    codes = join_codes(parts, [sizes[row.name] for row in rows])
    plain = {name.partition(MARK)[0]: tensor for name, tensor in tensors.items()}
    plain["codes"] = torch.from_numpy(codes)
    highest = config.quant.bits
    told = about | {
        "format": FORMAT_VERSION,
        "model": model_dict(dataclasses.replace(config, quant=config.quant.at(precision))),
        "layers": [row._replace(bits=precision, levels=2**precision).as_list() for row in rows],
        "calibration": about["calibration"] if precision == highest else None,
    }
    told["digest"] = digest(told, plain)
    return told, plain


def bytes_read(path, precision: int | None = None) -> int:
    """Bytes of a packed file that loading it takes: all of a plain one, and of a nested one its header and the tensors
    that `precision` (None: the highest) needs. UserError where it is missing or damaged, or has no such precision."""
    try:
        with safe_open(require_file(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("svq", "null"))
            precision = precision_to_read(path, about, precision)
            if precision is None:
                return os.path.getsize(path)
            sizes = {name: _bytes(file.get_slice(name)) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole packed model ({error}); pack or copy it again") from None
    header = os.path.getsize(path) - sum(sizes.values())
    return header + sum(sizes[name] for name in names_at(sizes, precision))


def _bytes(part) -> int:
    """Of a tensor of which nothing is read but what the header says."""
    return math.prod(part.get_shape()) * {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}.get(
        part.get_dtype(), 1)


def pack_nested(net: nn.Module, config: ModelConfig, calibration: dict | None) -> tuple[dict, dict[str, torch.Tensor]]:
    """Metadata and tensors (svq.pack.format, version 4) of nested `net`, which stays as it is.

    calibration: that of the highest precision, or None.
    """
    precisions, tensors = precisions_of(net), {}
    for bits in precisions:  # ascending: what is left after the loop is of the highest
        member = at_precision_(copy.deepcopy(net), bits)
        rows, packed = pack_layers(member, entropy=False)
        norms = dict(batch_norms(member))
        tensors |= {f"{name}{MARK}{bits}": tensor for name, tensor in (packed | pack_norms(norms)).items()
                    if name != "codes"}
    layers = dict(quantizable(member))
    sizes = [float_weight(layers[row.name]).numel() for row in rows]
    parts = split_codes(packed["codes"].numpy(), sizes, precisions)
    tensors |= {f"codes{MARK}{bits}": torch.from_numpy(part) for bits, part in parts.items()}
    tensors |= other_tensors(member, {row.name for row in rows}, config)
    about = about_file(config, rows, norms, calibration) | {"format": NESTED_VERSION}
    digests = {str(bits): digest(about, {name: tensors[name] for name in names_at(tensors, bits)})
               for bits in precisions}
    return about | {"digest": digests}, tensors


def nested_bytes(net: nn.Module, quant: QuantConfig, model: ModelConfig, calibration: dict | None = None) -> int:
    """Bytes of the packed file of `net`, in float or nested already, quantized with `quant` (method nested)."""
    if not precisions_of(net):
        net = quantize_(copy.deepcopy(net), quant)
    about, tensors = pack_nested(net, dataclasses.replace(model, quant=quant), calibration)
    return safetensors_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
                             {"svq": as_json(about)})
