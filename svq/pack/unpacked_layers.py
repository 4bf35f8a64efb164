"""Quantized layers as they come out of a packed file: codes, what those stand for, float weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from svq.pack.bitpack import PIECE, decompress_codes, packed_size, unpack_codes
from svq.pack.format import AFFINE, PLAIN, SYMMETRIC, PackedLayer


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


def unpack_layers(rows: list, shapes: dict[str, torch.Size], tensors: dict) -> Iterator[UnpackedLayer]:
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
