"""`model.svq`: a quantized network in one file, whose size on disk is the model's size.

A safetensors file. Its tensors:

- `codes` (uint8): the codes of every quantized layer, one layer after another, each from a byte on. A layer is
  packed densely (`bitpack.pack_codes`) or, in an entropy-coded file and where that is smaller, by
  Huffman coding (`bitpack.compress_codes`).
- `codebooks` (float32, or float16 where there is one a channel): the levels of every layer, one after another.
- `scales` (float32) and `zeros` (uint8): of layers on an integer grid, in the place of levels. A weight is scale *
  (code - zero), one scale a layer or one a channel; zeros are there only for affine grids.
- `biases` (float32): of every layer that a batch norm was folded into, in the order of the norms' names.
- `norms` (float16): scale and shift of every batch norm, one after another. Where float16 does not hold one of
  them it is a tensor of its own, `<norm>.scale` or `<norm>.shift` (float32), and missing here.
- every other tensor under its own name: biases, and the weights of layers left in float.

Metadata `svq`: JSON with the format version, the model config, for each quantized layer its row (see
`PackedLayer`), for each batch norm its name and channels, the calibration, and a SHA-256 digest of all of it.
Few tensors, because each costs about 90 bytes of header: with one of its own for each layer's codes and codebook
and each norm's scale and shift, a 1-bit ResNet34 would take 1.4 % more, a ResNet18 of width 8 13 % more.

Version 2 is the same without `scales`, `zeros` and `biases`; it is read too.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.config import from_dict, to_dict
from svq.errors import UserError
from svq.models import ModelConfig, load_state, save_tensors
from svq.quant.api import FLOAT_BITS, METHOD_OF_SETTING, QuantConfig, float_weight, quantizable, quantizers
from svq.quant.bitpack import PIECE, compress_codes, decompress_codes, pack_codes, packed_size, unpack_codes
from svq.quant.folding import FoldedBatchNorm, fold_batch_norm_, scales_and_shifts
from svq.quant.integer import IntegerQuantizer
from svq.quant.quantizers import make_quantizer

FORMAT_VERSION = 3
READABLE_VERSIONS = (2, 3)
PLAIN, SYMMETRIC, AFFINE = 0, 1, 2  # a row's grid
TYPES = {"codes": torch.uint8, "codebooks": torch.float32, "scales": torch.float32, "zeros": torch.uint8}
MERGED = (*TYPES, "norms", "biases")  # tensors that stand for many of the network's own
SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65504.0  # of float16 at full precision


class PackedLayer(NamedTuple):
    """A row of the metadata: one quantized layer.

    levels: values in each codebook, at most 2^bits. codebooks: 1, or one for each output channel.
    compressed: bytes of Huffman codes; 0: packed densely.
    grid: 0: its levels are in `codebooks`; 1: a symmetric integer grid, only `scales` is kept; 2: an affine one,
        whose `zeros` are kept too. A row that ends with 0 here is written without it.
    """

    name: str
    bits: int
    levels: int
    codebooks: int = 1
    compressed: int = 0
    grid: int = PLAIN

    def as_list(self) -> list:
        return list(self if self.grid else self[:-1])

    def stored(self) -> dict[str, int]:
        """How many numbers of which tensor belong to the layer beside its codes."""
        if self.grid == PLAIN:
            return {"codebooks": self.levels * self.codebooks}
        return {"scales": self.codebooks, **({"zeros": self.codebooks} if self.grid == AFFINE else {})}


@dataclasses.dataclass(frozen=True)
class UnpackedLayer:
    """A quantized layer as it comes out of the file: codes (uint8, the weight's shape) and what they stand for.

    levels: (K,) or (C, K); None on an integer grid, which has scale and zero, () or (C,), in float32.
    """

    row: PackedLayer
    codes: torch.Tensor
    levels: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    zero: torch.Tensor | None = None

    @property
    def codebook(self) -> torch.Tensor:
        """(K,) or (C, K): the values that codes stand for."""
        if self.levels is not None:
            return self.levels
        return (torch.arange(self.row.levels) - self.zero[..., None]) * self.scale[..., None]

    def weight(self) -> torch.Tensor:
        """codebook[codes], float32; beside it and the codes hardly any memory is taken."""
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


def save_packed(path, net: nn.Module, config: ModelConfig, calibration: dict | None = None,
                entropy: bool = False) -> int:
    """Writes quantized `net` to `path` (atomically) and returns the file's size in bytes.

    calibration: what turns scores into log-likelihood ratios, kept in the metadata.
    entropy: codes Huffman coded where that is smaller; such a file takes longer to load, and its size depends
        on the weights.
    Raises UserError when `net` has no quantized layer.
    """
    rows, tensors = _pack_layers(net, entropy)
    if not rows:
        raise UserError(f"{path}: the network is not quantized; quantize it before packing")
    norms = dict(_norms(net))
    tensors |= _pack_norms(norms) | _others(net, {row.name for row in rows}, config)
    about = _about(config, rows, norms, calibration)
    about["digest"] = digest(about, tensors)
    save_tensors(path, tensors, {"svq": _json(about)})
    return os.path.getsize(path)


def packed_bytes(net: nn.Module, quant: QuantConfig, model: ModelConfig, calibration: dict | None = None) -> int:
    """Bytes of the file that `save_packed` writes, without entropy coding, for `net` quantized with `quant`.

    `net`, in float or quantized so already, is not touched: shapes say it all, but for whether float16 holds the
    batch norms, which is looked up, and codebooks per channel, which is taken for granted. Takes milliseconds.
    """
    rows, counts = [], collections.Counter()
    alike = dataclasses.replace(quant, layers=None)
    for name, module in quantizable(net):
        bits = quant.bits_of(name)
        if bits != FLOAT_BITS:
            shape = float_weight(module).shape
            levels, per_channel, grid = _codebook_size(alike, bits)
            rows.append(PackedLayer(name, bits, levels, shape[0] if per_channel else 1, grid=grid))
            counts["codes"] += packed_size(shape.numel(), bits)
            counts.update(rows[-1].stored())
    norms = dict(_norms(net))
    tensors = _pack_norms(norms) | _others(net, {row.name for row in rows}, model)
    sizes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    types = {**TYPES, "codebooks": _codebook_type(rows)}
    sizes |= {name: (types[name], (count,)) for name, count in counts.items()}
    about = _about(dataclasses.replace(model, quant=quant), rows, norms, calibration)
    return safetensors_bytes(sizes, {"svq": _json({**about, "digest": 64 * "0"})})


def _pack_layers(net: nn.Module, entropy: bool) -> tuple[list[PackedLayer], dict[str, torch.Tensor]]:
    """The rows of the quantized layers and the tensors that are theirs (TYPES); nothing of a float network."""
    rows, pieces, stored = [], [], collections.defaultdict(list)
    for name, module, quantizer in quantizers(net):
        codes, values, grid = quantizer.codes(float_weight(module)).cpu().numpy(), *_values(quantizer)
        levels = quantizer.codebook().shape[-1]
        packed, compressed = pack_codes(codes, quantizer.bits), 0
        if entropy:
            coded = compress_codes(codes, levels)
            if coded.size < packed.size:
                packed, compressed = coded, coded.size
        channels = values["scales"].numel() if grid else values["codebooks"].numel() // levels
        rows.append(PackedLayer(name, quantizer.bits, levels, channels, compressed, grid))
        pieces.append(packed)
        for key, tensor in values.items():
            stored[key].append(tensor.cpu().reshape(-1).to(TYPES[key]))
    if not rows:
        return [], {}
    tensors = {key: torch.cat(parts) for key, parts in stored.items()}
    if "codebooks" in tensors and _codebook_type(rows) == torch.float16:
        # Judged by a layer's largest level: what float16 takes from a channel far smaller is lost in the noise.
        if _held_by_float16(stored["codebooks"], np.maximum).all():
            tensors["codebooks"] = tensors["codebooks"].half()
    return rows, tensors | {"codes": torch.from_numpy(np.concatenate(pieces))}


def _values(quantizer) -> tuple[dict[str, torch.Tensor], int]:
    """What is stored of a quantizer beside its codes, by the tensor's name, and its grid (of `PackedLayer`)."""
    if not isinstance(quantizer, IntegerQuantizer):
        return {"codebooks": quantizer.codebook()}, PLAIN
    if quantizer.scheme == "symmetric":
        return {"scales": quantizer.scale().detach()}, SYMMETRIC
    return {"scales": quantizer.scale().detach(), "zeros": quantizer.zero()}, AFFINE


def value_bytes(quantizer) -> int:
    """Bytes that a layer takes in the packed file beside its codes, and beside its row."""
    values, grid = _values(quantizer)
    if grid == PLAIN:
        return values["codebooks"].numel() * (2 if values["codebooks"].dim() == 2 else 4)
    return sum(tensor.numel() * TYPES[key].itemsize for key, tensor in values.items())


def _codebook_type(rows: list[PackedLayer]) -> torch.dtype:
    """Thousands of codebooks, one a channel, are worth halving; one a layer is exact instead."""
    several = any(row.codebooks > 1 and row.grid == PLAIN for row in rows)
    return torch.float16 if several else torch.float32


@functools.lru_cache
def _codebook_size(quant: QuantConfig, bits: int) -> tuple[int, bool, int]:
    """Levels of the codebooks that `quant` makes at `bits` bits, whether there is one a channel, and their grid."""
    quantizer = make_quantizer(torch.linspace(-1, 1, 2048).view(2, 1024), quant, bits)
    codebook = quantizer.codebook()
    return codebook.shape[-1], codebook.dim() == 2, _values(quantizer)[1]


def _norms(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in net.named_modules() if isinstance(module, _BatchNorm))


def _pack_norms(norms: dict[str, _BatchNorm]) -> dict[str, torch.Tensor]:
    """`norms` (float16) and, by their own names, the scales and shifts that float16 does not hold."""
    if not norms:
        return {}
    scales, shifts = zip(*scales_and_shifts(list(norms.values())))
    # An input may be as large as its scale is small, so every scale must keep its digits; shifts are only added.
    held = zip(_held_by_float16(scales, np.minimum), _held_by_float16(shifts, np.maximum))
    halves, tensors = [], {}
    for name, scale, shift, (scale_held, shift_held) in zip(norms, scales, shifts, held):
        for kind, values, fits in (("scale", scale, scale_held), ("shift", shift, shift_held)):
            if fits:
                halves.append(values)
            else:
                tensors[f"{name}.{kind}"] = values.clone()
    return tensors | ({"norms": torch.cat(halves).half()} if halves else {})


def _held_by_float16(tensors: list[torch.Tensor], which) -> np.ndarray:
    """For each tensor whether float16 has room for all its values, and whether the smallest but zero
    (`which` np.minimum) or the largest (np.maximum) keeps all 11 bits."""
    sizes = np.array([tensor.numel() for tensor in tensors])
    starts = np.cumsum(sizes) - sizes
    magnitudes = torch.cat([tensor.reshape(-1) for tensor in tensors]).abs().numpy()
    largest = np.maximum.reduceat(magnitudes, starts)
    zero = np.inf if which is np.minimum else 0.0
    chosen = which.reduceat(np.where(magnitudes == 0, zero, magnitudes), starts)
    return (largest <= LARGEST_HALF) & ((chosen >= SMALLEST_HALF) | (largest == 0))


def _others(net: nn.Module, quantized: set[str], config: ModelConfig) -> dict[str, torch.Tensor]:
    """What neither a quantizer nor a folded batch norm replaces, by its name in the state of the network; `biases`."""
    merged = _merged_biases(config)
    biases = [net.get_parameter(name).detach().cpu() for name in merged]
    tensors = {"biases": torch.cat(biases)} if merged else {}
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm) or "parametrizations" in name.split("."):
            continue
        own = [key for key, _ in itertools.chain(module.named_parameters(recurse=False),
                                                 module.named_buffers(recurse=False))]
        if name in quantized and "weight" in own:
            own.remove("weight")
        own = [key for key in own if f"{name}.{key}" not in merged]
        if own:
            state = module.state_dict()  # knows which buffers are kept
            tensors |= {f"{name}.{key}" if name else key: state[key].cpu() for key in own if key in state}
    return tensors


def _merged_biases(config: ModelConfig) -> list[str]:
    """Names of the biases that stand in `biases`: of the layers that norms were folded into, by the norms' names."""
    return [f"{layer}.bias" for _, layer in sorted((config.folded or {}).items())]


def _short_dict(config: ModelConfig) -> dict:
    """The config without what its reader supplies: settings of other quantizers, folded norms where there are none."""
    found = {**to_dict(config), "front_end": config.front_end.as_short_dict()}
    if config.folded is None:
        del found["folded"]
    if config.quant is not None:
        found["quant"] = {name: value for name, value in found["quant"].items()
                          if METHOD_OF_SETTING.get(name, config.quant.method) == config.quant.method}
    return found


def _about(config: ModelConfig, rows: list[PackedLayer], norms: dict[str, nn.Module], calibration) -> dict:
    """The metadata without its digest. Bits of single layers are in the rows, not in the model config again."""
    if config.quant is not None:
        config = dataclasses.replace(config, quant=dataclasses.replace(config.quant, layers=None))
    return {
        "format": FORMAT_VERSION,
        "model": _short_dict(config),
        "layers": [row.as_list() for row in rows],
        "norms": [[name, norm.num_features] for name, norm in norms.items()],
        "calibration": calibration,
    }


def _json(about: dict) -> str:
    return json.dumps(about, sort_keys=True, separators=(",", ":"))


def safetensors_bytes(sizes: dict[str, tuple[torch.dtype, tuple[int, ...]]],
                      metadata: dict[str, str] | None = None) -> int:
    """Size of the file that `svq.models.save_tensors` writes of tensors of these types and shapes: 8 bytes, a JSON
    header padded to a multiple of 8, the tensors (the widest type first, then by name) one after another."""
    names = {torch.uint8: "U8", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
             torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
    header, offset = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (dtype, shape) in sorted(sizes.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8 + offset


def digest(about: dict, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the metadata (its own entry aside) and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(_json({k: v for k, v in about.items() if k != "digest"}).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def read_packed(path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Metadata and tensors of a packed file. UserError when it is missing, damaged, altered or of another version."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("svq", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole packed model ({error}); pack or copy it again") from None
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: a safetensors file, but not a packed model; make one with svq.bin.pack")
    version = about["format"]
    if version not in READABLE_VERSIONS:
        mend = "update svq" if isinstance(version, int) and version > FORMAT_VERSION else "pack the model again"
        readable = " and ".join(map(str, READABLE_VERSIONS))
        raise UserError(f"{path}: format version {version}, this svq reads {readable}; {mend}")
    if about.get("digest") != digest(about, tensors):
        raise UserError(f"{path}: its content does not match its digest: damaged or altered; pack or copy it again")
    return about, tensors


def load_packed(path) -> tuple[nn.Module, ModelConfig]:
    """The network of a packed file, in eval mode with float weights from the codebooks, and its config.

    The config's quantization gives the bits of every layer by name where not all have the same.
    """
    about, tensors = read_packed(path)
    config, net, layers = _opened(path, about, tensors)
    # Float weights are held once: those made here become the network's own, layer by layer.
    state = {f"{layer.row.name}.weight": layer.weight() for layer in layers}
    state |= {name: t.clone() for name, t in tensors.items() if name not in MERGED}
    state |= _unpack_norms(path, about.get("norms"), tensors) | _unpack_biases(path, config, net, tensors)
    config = _with_bits(config, net, [PackedLayer(*row) for row in about["layers"]])
    load_state(fold_batch_norm_(net), state, path, assign=True)
    return net.eval(), config


def build_empty(config: ModelConfig) -> nn.Module:
    """The network of `config` whose parameters and kept buffers have no memory yet, for `load_state(..., assign=True)`.

    Buffers that are not kept in its state have the values that the network gives them.
    """
    with torch.device("meta"):
        net = config.build()
    missing = [(module, key) for module in net.modules() for key in module._non_persistent_buffers_set]
    if missing:
        full = config.build()
        names = {module: name for name, module in net.named_modules()}
        for module, key in missing:
            setattr(module, key, getattr(full.get_submodule(names[module]), key))
    return net


def unpack(path, about: dict, tensors: dict[str, torch.Tensor]) -> tuple[ModelConfig, list[UnpackedLayer]]:
    """The model config and the quantized layers of what `read_packed` gave; UserError where they do not fit."""
    config, net, layers = _opened(path, about, tensors)
    layers = list(layers)
    return _with_bits(config, net, [layer.row for layer in layers]), layers


def _opened(path, about: dict, tensors: dict[str, torch.Tensor]
            ) -> tuple[ModelConfig, nn.Module, Iterator[UnpackedLayer]]:
    """The config as it stands in the file, its network without memory, its layers one by one; errors as `unpack`."""
    config = from_dict(about.get("model"), ModelConfig, path)
    net = build_empty(config)  # shapes only: what the file holds is compared with them before memory is taken
    shapes = {name: module.weight.shape for name, module in quantizable(net)}

    def layers():
        try:
            yield from _unpack_layers(about["layers"], shapes, tensors)
        except (KeyError, TypeError) as error:
            words = f"its layers are not described as they should be ({error!r})"
            raise UserError(f"{path}: {words}; pack it again") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; pack it again") from None

    return config, net, layers()


def _with_bits(config: ModelConfig, net: nn.Module, rows: list[PackedLayer]) -> ModelConfig:
    """`config` whose quantization gives the bits of every layer by name where not all have the same."""
    bits = {name: FLOAT_BITS for name, _ in quantizable(net)} | {row.name: row.bits for row in rows}
    if config.quant is not None and set(bits.values()) != {config.quant.bits}:
        config = dataclasses.replace(config, quant=dataclasses.replace(config.quant, layers=bits))
    return config


def _unpack_layers(rows: list, shapes: dict[str, torch.Size], tensors: dict) -> Iterator[UnpackedLayer]:
    """The layers of these rows of metadata. KeyError, TypeError or ValueError where the tensors do not hold them."""
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
    """One layer from its bytes and values; ValueError when they are not those of its row and `shape`."""
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


def _unpack_biases(path, config: ModelConfig, net: nn.Module, tensors: dict) -> dict[str, torch.Tensor]:
    """The biases of layers that batch norms were folded into."""
    names = _merged_biases(config)
    if not names:
        return {}
    try:
        sizes = [net.get_parameter(name).numel() for name in names]
        return dict(zip(names, map(torch.clone, tensors["biases"].split(sizes))))
    except (KeyError, RuntimeError):
        raise UserError(f"{path}: its biases are not described as they should be; pack it again") from None


def _unpack_norms(path, norms: list, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Scale and shift of every norm that is not a tensor of its own."""
    try:
        names = [(f"{name}.{kind}", channels) for name, channels in norms for kind in ("scale", "shift")]
        names = [(name, channels) for name, channels in names if name not in tensors]
        pieces = tensors.get("norms", torch.empty(0)).float().split([channels for _, channels in names])
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{path}: its batch norms are not described as they should be; pack it again") from None
    return {name: piece for (name, _), piece in zip(names, pieces)}


def count_parameters(net: nn.Module) -> int:
    """Learned numbers of the float network: quantizer scales do not count, folded norms count as two each."""
    own = {id(p) for _, _, quantizer in quantizers(net) for p in quantizer.parameters()}
    learned = sum(p.numel() for p in net.parameters() if id(p) not in own)
    return learned + sum(2 * m.scale.numel() for m in net.modules() if isinstance(m, FoldedBatchNorm))
