"""The format of `model.svq`: its tensors, metadata, digest and size.

It is a safetensors file with these tensors:

- `codes` (uint8): the codes of every quantized layer, one layer after another; each layer begins at a byte. A layer is
  packed densely (`pack_codes`), or by Huffman coding (`compress_codes`) in an entropy-coded file where that is smaller.
- `codebooks` (float32, or float16 where there is one a channel): the levels of every layer, one after another.
- `scales` (float32) and `zeros` (uint8): in place of levels, for layers on an integer grid. A weight is scale *
  (code - zero), with one scale a layer or one a channel; zeros are there only for affine grids.
- `biases` (float32): those of every layer that a batch norm was folded into, in the order of the norms' names.
- `norms` (float16): scale and shift of every batch norm, one after another. A scale or shift that float16 does not hold
  is missing here and is a tensor of its own, `<norm>.scale` or `<norm>.shift` (float32).
- every other tensor under its own name: biases, and the weights of layers left in float.

Metadata `svq` is JSON with the format version, the model config, the row of each quantized layer (see `PackedLayer`),
name and channels of each batch norm, the calibration, and a SHA-256 digest of all of it.
Tensors are few, because each costs about 90 bytes of header. With separate tensors for each layer's codes and codebook
and each norm's scale and shift, a 1-bit ResNet34 would take 1.4 % more, a ResNet18 of width 8 13 % more.

Version 2 is the same without `scales`, `zeros` and `biases`; it is read too.

Version 4 holds a nested network (svq.quant.nested): all its precisions, but each weight's code once. A tensor that
belongs to one precision has its bits in the name: `codebooks@2`, `norms@2`, `<norm>.scale@2`. So do the codes:
`codes@2` are the leading two bits, which are the whole codes of 2 bits, and `codes@4` the two bits after them, packed
as if they were codes by themselves. All else is as in version 3 and shared by all precisions; rows and calibration are
those of the highest. Reading 2 bits takes no tensor of another precision. So each precision has a digest, over the
metadata and the tensors that it needs. Read at one precision, such a file gives just what a file of version 3 gives
that was packed after `svq.pack.nested.at_precision_`.

Codes have 1 to 8 bits and become bytes as a dense bit string, or near their entropy.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from svq.config import to_dict
from svq.network import ModelConfig
from svq.quant.config import methods_of

FORMAT_VERSION = 3
NESTED_VERSION = 4
READABLE_VERSIONS = (2, FORMAT_VERSION, NESTED_VERSION)
PLAIN, SYMMETRIC, AFFINE = 0, 1, 2  # a row's grid
TYPES = {"codes": torch.uint8, "codebooks": torch.float32, "scales": torch.float32, "zeros": torch.uint8}
MERGED = (*TYPES, "norms", "biases")  # tensors that each hold many of the network's own
PIECE = 1 << 18  # codes; a multiple of 8, so that pieces begin at a byte


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs codes (uint8, each below 2^bits) into one dense bit string: ceil(n * bits / 8) bytes (uint8).

    The most significant bit comes first within a code and within a byte; the last byte is filled with zeros. Raises
    ValueError for a code that does not fit `bits` bits.
    """
    codes = np.ascontiguousarray(codes, dtype=np.uint8).ravel()
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {codes.max()} does not fit {bits} bits")
    return np.packbits(np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :])


def unpack_codes(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Unpacks the `count` codes (uint8) in `packed`. Raises ValueError when it does not have exactly their bytes."""
    if packed.size != packed_size(count, bits):
        raise ValueError(f"{packed.size} bytes for {count} codes of {bits} bits; expected {packed_size(count, bits)}")
    if bits == 8:
        return packed.copy()
    codes = np.empty(count, dtype=np.uint8)
    # One piece at a time, because single bits take sixteen times the memory of the codes.
    for start in range(0, count, PIECE):
        number = min(PIECE, count - start)
        plane = np.unpackbits(packed[start * bits // 8 :][: packed_size(number, bits)], count=number * bits)
        padded = np.zeros((number, 8), dtype=np.uint8)
        padded[:, 8 - bits :] = plane.reshape(number, bits)
        codes[start : start + number] = np.packbits(padded, axis=1).ravel()
    return codes


def packed_size(count: int, bits: int) -> int:
    """Computes the bytes that `count` codes of `bits` bits take, densely packed."""
    return -(-count * bits // 8)


def compress_codes(codes: np.ndarray, levels: int) -> np.ndarray:
    """Compresses codes (uint8, each below `levels`) by Huffman coding, near their entropy, to bytes (uint8).

    First as many codes as fit make one byte, as digits of a number in base `levels`, the first one the highest (five
    ternary codes, two of 16 levels); the last byte is filled with zeros. These bytes then become a raw deflate stream
    of Huffman codes alone. Codes of a network have no order that a dictionary could use, and bytes of several codes
    spare Huffman coding its loss of up to a bit a symbol.
    """
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return np.frombuffer(coder.compress(pack_digits(codes, levels).tobytes()) + coder.flush(), dtype=np.uint8)


def pack_digits(codes: np.ndarray, levels: int) -> np.ndarray:
    """Packs codes (uint8, each below `levels`) as digits into bytes (uint8), `digits_of` to a byte, the highest first.

    The last byte is filled with zeros. For 2, 4, 16 or 256 levels the result is that of `pack_codes`. Raises ValueError
    for a code of `levels` or more.
    """
    digits = digits_of(levels)
    codes = np.ascontiguousarray(codes, dtype=np.uint8).ravel()
    if codes.size and int(codes.max()) >= levels:
        raise ValueError(f"code {codes.max()} of {levels} levels")
    rows = np.zeros((-(-codes.size // digits), digits), dtype=np.uint8)
    rows.ravel()[: codes.size] = codes
    return (rows @ levels ** np.arange(digits - 1, -1, -1)).astype(np.uint8)


def decompress_codes(data: np.ndarray, levels: int, count: int) -> np.ndarray:
    """Decompresses the `count` codes (uint8) that `compress_codes` made into `data`.

    Raises ValueError when `data` is not a stream of exactly so many codes; never expands to more than these. A byte
    that no codes make, levels^digits or more, comes out as a code of `levels` or more.
    """
    digits = digits_of(levels)
    expected = -(-count // digits)
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than expected: room for the end of the stream, and enough to notice excess.
        numbers = decoder.decompress(data.tobytes(), expected + 1)
    except zlib.error as error:
        raise ValueError(f"not a stream of Huffman codes ({error})") from None
    if len(numbers) != expected or not decoder.eof or decoder.unused_data:
        raise ValueError(f"{data.size} bytes of Huffman codes do not hold {count} codes of {levels} levels")
    table = np.arange(256)[:, None] // levels ** np.arange(digits - 1, -1, -1)
    table[:, 1:] %= levels
    return table.astype(np.uint8)[np.frombuffer(numbers, dtype=np.uint8)].ravel()[:count]


def digits_of(levels: int) -> int:
    """Computes how many codes of `levels` levels fit one byte, at most 8."""
    digits = 1
    while digits < 8 and levels ** (digits + 1) <= 256:
        digits += 1
    return digits


class PackedLayer(NamedTuple):
    """A row of the metadata: one quantized layer, by the name of its module or of a recurrent module's matrix.

    levels: values in each codebook, at most 2^bits. codebooks: 1, or one for each output channel.
    compressed: bytes of Huffman codes; 0: packed densely.
    grid: 0: its levels are in `codebooks`; 1: a symmetric integer grid, of which only `scales` are kept; 2: an affine
        one, whose `zeros` are kept too. A grid of 0 is left out where the row is written.
    """

    name: str
    bits: int
    levels: int
    codebooks: int = 1
    compressed: int = 0
    grid: int = PLAIN

    def as_list(self) -> list:
        """Gives the fields as the metadata of a file hold them; `grid` only where there is one."""
        return list(self if self.grid else self[:-1])

    def stored(self) -> dict[str, int]:
        """Counts the numbers that belong to the layer beside its codes, by the name of the tensor that has them."""
        if self.grid == PLAIN:
            return {"codebooks": self.levels * self.codebooks}
        return {"scales": self.codebooks, **({"zeros": self.codebooks} if self.grid == AFFINE else {})}


def about_file(config: ModelConfig, rows: list[PackedLayer], norms: dict[str, nn.Module], calibration) -> dict:
    """Makes the metadata of a packed file without their digest. Bits of single layers are in the rows only.

    norms: batch norms by name. calibration: a dict that JSON holds, or None.
    """
    return {
        "format": FORMAT_VERSION,
        "model": model_dict(config),
        "layers": [row.as_list() for row in rows],
        "norms": [[name, norm.num_features] for name, norm in norms.items()],
        "calibration": calibration,
    }


def model_dict(config: ModelConfig) -> dict:
    """Turns a config into a dict without what its reader supplies.

    That is bits of single layers, settings of other quantizers, and `folded` where no norm is.
    """
    if config.quant is not None:
        config = dataclasses.replace(config, quant=dataclasses.replace(config.quant, layers=None))
    found = {**to_dict(config), "front_end": config.front_end.as_short_dict()}
    if config.folded is None:
        del found["folded"]
    if config.quant is not None:
        found["quant"] = {name: value for name, value in found["quant"].items()
                          if config.quant.method in methods_of(name)}
    return found


def merged_biases(config: ModelConfig) -> list[str]:
    """Lists the biases that are stored in `biases`: those of layers with folded norms, in order of the norms' names."""
    return [f"{layer}.bias" for _, layer in sorted((config.folded or {}).items())]


def as_json(about: dict) -> str:
    """Writes metadata as JSON as they stand in the file and as `digest` takes them: sorted by name, without spaces."""
    return json.dumps(about, sort_keys=True, separators=(",", ":"))


def digest(about: dict, tensors: dict[str, torch.Tensor]) -> str:
    """Computes the SHA-256 of the metadata (without its own entry) and of each tensor's name, type, shape and bytes."""
    total = hashlib.sha256(as_json({k: v for k, v in about.items() if k != "digest"}).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def safetensors_bytes(sizes: dict[str, tuple[torch.dtype, tuple[int, ...]]],
                      metadata: dict[str, str] | None = None) -> int:
    """Computes the size of the file that `svq.network.save_tensors` writes for tensors of the given types and shapes.

    It has 8 bytes, a JSON header padded to a multiple of 8, and the tensors one after another (the widest type first,
    then by name).
    """
    names = {torch.uint8: "U8", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32",
             torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}
    header, offset = {} if metadata is None else {"__metadata__": metadata}, 0
    for name, (dtype, shape) in sorted(sizes.items(), key=lambda item: (-item[1][0].itemsize, item[0])):
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-length // 8) * 8 + offset
