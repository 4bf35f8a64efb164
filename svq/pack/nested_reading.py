"""What one precision needs of a nested packed file, and how it looks as a plain one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable

import torch
from safetensors import SafetensorError, safe_open

from svq.errors import UserError
from svq.pack.format import FORMAT_VERSION, NESTED_VERSION, PackedLayer, digest, model_dict
from svq.pack.nested_codes import join_codes
from svq.quant.nested import no_such_precision

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
        with safe_open(path, framework="pt") as file:
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
