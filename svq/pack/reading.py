"""Reads and checks the content of a packed file: metadata and tensors, the config, biases, batch norms.

Quantized layers come out as codes, with their levels (or scale and zero) and their float weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from svq.config import from_dict
from svq.errors import UserError
from svq.files import require_file
from svq.network import ModelConfig
from svq.pack.format import (
    AFFINE,
    NESTED_VERSION,
    PIECE,
    PLAIN,
    READABLE_VERSIONS,
    SYMMETRIC,
    PackedLayer,
    decompress_codes,
    digest,
    merged_biases,
    packed_size,
    unpack_codes,
)
from svq.pack.nested import as_plain, names_at, precision_to_read
from svq.quant.api import FLOAT_BITS, quantizable


def read_packed(path, precision: int | None = None) -> tuple[dict, dict[str, torch.Tensor]]:
    """Reads metadata and tensors of a packed file.

    precision: the precision wanted of a nested file (None: the highest). Nothing that it does not need is read, and the
    result is that of a plain file of this precision. Raises UserError when the file is missing, damaged, altered or of
    another version, or lacks the precision.
    """
    try:
        with safe_open(require_file(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("svq", "null"))
            precision = precision_to_read(path, about, precision)
            tensors = {name: file.get_tensor(name) for name in names_at(file.keys(), precision)}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole packed model ({error}); pack or copy it again") from None
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: a safetensors file, but not a packed model; make one with svq.bin.pack")
    version = about["format"]
    if version not in READABLE_VERSIONS:
        mend = "update svq" if isinstance(version, int) and version > NESTED_VERSION else "pack the model again"
        readable = f"{', '.join(map(str, READABLE_VERSIONS[:-1]))} and {READABLE_VERSIONS[-1]}"
        raise UserError(f"{path}: format version {version}, this svq reads {readable}; {mend}")
    told = about.get("digest")
    if precision is not None:
        told = told.get(str(precision)) if isinstance(told, dict) else None
    if told != digest(about, tensors):
        raise UserError(f"{path}: its content does not match its digest: damaged or altered; pack or copy it again")
    return (about, tensors) if precision is None else _of_nested(path, about, tensors, precision)


def _of_nested(path, about: dict, tensors: dict[str, torch.Tensor], precision: int) -> tuple[dict, dict]:
    """Turns the content of a nested file for one precision into that of a plain file."""
    config = from_dict(about.get("model"), ModelConfig, path)
    sizes = {name: layer.weight.numel() for name, layer in quantizable(build_empty(config, path))}
    try:
        return as_plain(about, tensors, precision, config, sizes)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its layers are not described as they should be ({error!r}); pack it again") from None


def unpack(path, about: dict, tensors: dict[str, torch.Tensor]) -> tuple[ModelConfig, list[UnpackedLayer]]:
    """Makes the model config and the quantized layers from what `read_packed` gave. UserError where they do not fit."""
    config, net, layers = unpack_lazily(path, about, tensors)
    layers = list(layers)
    return with_bits(config, net, [layer.row for layer in layers]), layers


def unpack_lazily(path, about: dict, tensors: dict[str, torch.Tensor]
                  ) -> tuple[ModelConfig, nn.Module, Iterator[UnpackedLayer]]:
    """Makes, from what `read_packed` gave, the config as stored, its network without memory, and its layers one by one.

    Raises UserError, while layers are taken, where they do not fit.
    """
    config = from_dict(about.get("model"), ModelConfig, path)
    net = build_empty(config, path)  # shapes only: the file's content is compared with them before memory is taken
    shapes = {name: layer.weight.shape for name, layer in quantizable(net)}

    def layers():
        try:
            yield from unpack_layers(about["layers"], shapes, tensors)
        except (KeyError, TypeError) as error:
            words = f"its layers are not described as they should be ({error!r})"
            raise UserError(f"{path}: {words}; pack it again") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; pack it again") from None

    return config, net, layers()


def build_empty(config: ModelConfig, path) -> nn.Module:
    """Builds the network of `config`, from the file `path`, with parameters and kept buffers that have no memory yet.

    For `load_state(..., assign=True)`. Buffers that are not kept in its state have the values that the network gives
    them. Raises UserError that names `path` where the network cannot be built.
    """
    try:
        with torch.device("meta"):
            net = config.build()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    missing = [(module, key) for module in net.modules() for key in module._non_persistent_buffers_set]
    if missing:
        full = config.build()
        names = {module: name for name, module in net.named_modules()}
        for module, key in missing:
            setattr(module, key, getattr(full.get_submodule(names[module]), key))
    return net


def with_bits(config: ModelConfig, net: nn.Module, rows: list[PackedLayer]) -> ModelConfig:
    """Returns `config` with the bits of every layer by name in its quantization, where not all have the same."""
    bits = {name: FLOAT_BITS for name, _ in quantizable(net)} | {row.name: row.bits for row in rows}
    if config.quant is not None and set(bits.values()) != {config.quant.bits}:
        config = dataclasses.replace(config, quant=dataclasses.replace(config.quant, layers=bits))
    return config


def unpack_biases(path, config: ModelConfig, net: nn.Module, tensors: dict) -> dict[str, torch.Tensor]:
    """Splits `biases` into those (C,) of each layer that a batch norm was folded into, by name.

    Raises UserError where they do not fit `net`.
    """
    names = merged_biases(config)
    if not names:
        return {}
    try:
        sizes = [net.get_parameter(name).numel() for name in names]
        return dict(zip(names, map(torch.clone, tensors["biases"].split(sizes))))
    except (KeyError, RuntimeError):
        raise UserError(f"{path}: its biases are not described as they should be; pack it again") from None


def unpack_norms(path, norms: list, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Splits `norms` into scale and shift (C,), float32, of every batch norm, by name; those stored apart are left out.

    norms: (name, channels) of each, as in the metadata. Raises UserError where `tensors` do not hold just those.
    """
    try:
        names = [(f"{name}.{kind}", channels) for name, channels in norms for kind in ("scale", "shift")]
        names = [(name, channels) for name, channels in names if name not in tensors]
        pieces = tensors.get("norms", torch.empty(0)).float().split([channels for _, channels in names])
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{path}: its batch norms are not described as they should be; pack it again") from None
    return {name: piece for (name, _), piece in zip(names, pieces)}


@dataclasses.dataclass(frozen=True)
class UnpackedLayer:
    """A quantized layer as read from a packed file: codes (uint8, the weight's shape) and the values they stand for.

    levels: (K,) or (C, K); None on an integer grid, which has scale and zero, () or (C,), in float32.
    """

    row: PackedLayer
    codes: torch.Tensor
    levels: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    zero: torch.Tensor | None = None

    @property
    def codebook(self) -> torch.Tensor:
        """The values that codes stand for: (K,) or (C, K)."""
        if self.levels is not None:
            return self.levels
        return (torch.arange(self.row.levels) - self.zero[..., None]) * self.scale[..., None]

    def weight(self) -> torch.Tensor:
        """Computes the weight, codebook[codes], in float32; takes hardly any memory beside the weight and the codes."""
        out = torch.empty(self.codes.shape)
        rows, codes = out.view(len(out), -1), self.codes.view(len(out), -1)
        step = max(1, PIECE // max(1, rows.shape[1]))
        table = None if self.levels is None else self.levels.float()
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            if table is None:
                zero, scale = (v[some, None] if v.dim() else v for v in (self.zero, self.scale))
                torch.mul(codes[some] - zero, scale, out=rows[some])
            elif table.dim() == 1:
                rows[some] = table[codes[some].int()]
            else:
                torch.gather(table[some], 1, codes[some].long(), out=rows[some])
        return out


def unpack_layers(rows: list, shapes: dict[str, torch.Size], tensors: dict) -> Iterator[UnpackedLayer]:
    """Yields the layers of these rows of metadata, from the tensors of a packed file.

    shapes: those of the weights, by layer. Raises KeyError, TypeError or ValueError where the tensors do not hold them.
    """
    codes, start = tensors["codes"].numpy(), 0
    first = dict.fromkeys(("codebooks", "scales", "zeros"), 0)
    for row in [PackedLayer(*row) for row in rows]:
        shape = shapes[row.name]
        if not (1 <= row.bits <= 8 and 1 <= row.levels <= 2**row.bits and row.codebooks in (1, shape[0])
                and row.grid in (PLAIN, SYMMETRIC, AFFINE)):
            raise ValueError(f"layer {row.name}: {row.codebooks} codebooks of {row.levels} levels for {row.bits} bits "
                             f"and {shape[0]} output channels")
        end = start + (row.compressed or packed_size(shape.numel(), row.bits))
        values = {}
        for key, count in row.stored().items():
            values[key] = tensors[key][first[key] : first[key] + count]
            first[key] += count
        yield _unpack_layer(row, shape, codes[start:end], values)
        start = end
    held = {key: tensors[key].numel() if key in tensors else 0 for key in first}
    if (start, first) != (codes.size, held):
        raise ValueError(f"{codes.size} bytes of codes and {sum(held.values())} levels where its layers have "
                         f"{start} and {sum(first.values())}")


def _unpack_layer(row: PackedLayer, shape: torch.Size, codes: np.ndarray, values: dict) -> UnpackedLayer:
    """Makes one layer from its bytes and values. Raises ValueError when they do not fit its row and `shape`."""
    if any(part.numel() != row.stored()[key] or not part.isfinite().all() for key, part in values.items()):
        raise ValueError(f"layer {row.name}: its codebook is not whole")
    try:
        if row.compressed:
            numbers = decompress_codes(codes, row.levels, shape.numel())
        else:
            numbers = unpack_codes(codes, row.bits, shape.numel())
    except ValueError as error:
        raise ValueError(f"layer {row.name}: {error}") from None
    if numbers.size and int(numbers.max()) >= row.levels:
        raise ValueError(f"layer {row.name}: code {numbers.max()} of {row.levels} levels")
    numbers = torch.from_numpy(numbers).view(shape)
    several = row.codebooks > 1
    if row.grid == PLAIN:
        levels = values["codebooks"]
        return UnpackedLayer(row, numbers, levels.view(row.codebooks, row.levels) if several else levels)
    scale = values["scales"].clone() if several else values["scales"][0].clone()
    zero = values["zeros"].float() if row.grid == AFFINE else torch.full((row.codebooks,), float(row.levels // 2))
    return UnpackedLayer(row, numbers, scale=scale, zero=zero if several else zero[0])
