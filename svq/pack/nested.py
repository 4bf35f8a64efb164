"""Nested packed files, which hold a network at several precisions: how they are written, and read at one precision.

Each weight's leading bits are stored apart from the bits that higher precisions add. So its code is there once, and
only what differs is there once for each precision. A nested network at one precision is a plain network, like one
quantized to those bits alone.
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
    """Computes how many bits each precision adds to the one before it: (2, 4) -> {2: 2, 4: 2}."""
    return {bits: bits - before for bits, before in zip(precisions, (0, *precisions))}


def split_codes(packed: np.ndarray, sizes: Iterable[int], precisions: Sequence[int]) -> dict[int, np.ndarray]:
    """Splits packed codes of the highest precision into the bits that each precision adds to them, by precision.

    sizes: number of codes of each layer. In `packed` and in the results each layer begins at a byte. Raises ValueError
    where the bytes are not those of the layers.
    """
    pieces, start = {bits: [] for bits in precisions}, 0
    for count in sizes:
        end = start + packed_size(count, precisions[-1])
        codes = unpack_codes(packed[start:end], precisions[-1], count)
        for bits, width in widths(precisions).items():
            pieces[bits].append(pack_codes(codes >> (precisions[-1] - bits) & (1 << width) - 1, width))
        start = end
    return {bits: np.concatenate(parts) for bits, parts in pieces.items()}


def join_codes(parts: dict[int, np.ndarray], sizes: Iterable[int]) -> np.ndarray:
    """Joins the bits that precisions add (see `split_codes`) to packed codes of the highest precision in `parts`.

    sizes: number of codes of each layer. Raises ValueError where the bytes are not those of the layers.
    """
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
    """Returns the config of the plain network at one precision of a nested network.

    quant: the config of the nested network. Raises UserError that names `where` if it does not have the precision.
    """
    precisions = () if quant is None else quant.precisions or ()
    if precision not in precisions:
        raise UserError(no_such_precision(where, precisions, precision))
    return quant.at(precision)


@torch.no_grad()
def at_precision_(net: nn.Module, precision: int) -> nn.Module:
    """Turns nested `net`, in place, into the plain network of one of its precisions; returns `net`.

    It is then quantized as `QuantConfig.at` says; its quantized weights are the same, bit for bit. The plain quantizer
    takes the nearest level, where the nested one has the thresholds of its highest precision. So at lower precisions
    the few float weights between the two thresholds are put on the level that they had. All others stay as they are.
    Raises UserError for a precision that `net` does not have.
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
    """Returns the quantizer of the highest precision, or makes one of a lower one's levels, with a scale of 1."""
    if quantizer.precision == quantizer.bits:
        return quantizer.top
    levels = quantizer.codebook()
    return LevelQuantizer(weight, quantizer.precision, levels, torch.ones(levels.shape[:-1]))


MARK = "@"  # stands between the name of a tensor and the precision that it belongs to


def precision_to_read(path, about, precision: int | None) -> int | None:
    """Returns the precision to read of a file with metadata `about`: its highest where None is given.

    Returns None for a file that is not nested. Raises UserError for a precision that the file does not have.
    """
    if not isinstance(about, dict) or about.get("format") != NESTED_VERSION:
        if precision is not None:
            raise UserError(no_such_precision(path, (), precision))
        return None
    precisions = precisions_in(path, about)
    if precision is not None and precision not in precisions:
        raise UserError(no_such_precision(path, precisions, precision))
    return precisions[-1] if precision is None else precision


def precisions_in(path, about: dict) -> list[int]:
    """Lists the precisions of a nested file, ascending, by its metadata. Raises UserError where they have none."""
    try:
        precisions = [int(bits) for bits in about["model"]["quant"]["precisions"]]
    except (KeyError, TypeError, ValueError):
        precisions = []
    if precisions:
        return precisions
    raise UserError(f"{path}: its precisions are not described as they should be; pack it again")


def names_at(names: Iterable[str], precision: int | None) -> list[str]:
    """Selects, from the names of all tensors, those that `precision` needs; all of them for a plain file (None)."""
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
    """Makes metadata and tensors of a plain packed file at `precision` from those that it needs of a nested file.

    config: the ModelConfig in the file. sizes: number of weights of every layer, by name. Raises KeyError, TypeError or
    ValueError where layers are not described as they should be.
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
    """Counts the bytes of a packed file that are read to load it.

    These are all bytes of a plain file; of a nested file, the header and the tensors that `precision` (None: the
    highest) needs. Raises UserError where the file is missing or damaged, or does not have the precision.
    """
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
    """Computes the bytes of a tensor from what the header says; the tensor itself is not read."""
    return math.prod(part.get_shape()) * {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}.get(
        part.get_dtype(), 1)


def pack_nested(net: nn.Module, config: ModelConfig, calibration: dict | None) -> tuple[dict, dict[str, torch.Tensor]]:
    """Makes metadata and tensors (svq.pack.format, version 4) of nested `net`, which stays as it is.

    calibration: that of the highest precision, or None.
    """
    precisions, tensors = precisions_of(net), {}
    for bits in precisions:  # ascending: the loop leaves member, rows, packed and norms of the highest
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
    """Computes the bytes of the packed file of `net`, in float or nested already, quantized by `quant` (method nested).
    """
    if not precisions_of(net):
        net = quantize_(copy.deepcopy(net), quant)
    about, tensors = pack_nested(net, dataclasses.replace(model, quant=quant), calibration)
    return safetensors_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
                             {"svq": as_json(about)})
