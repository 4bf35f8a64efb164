"""Codes of several precisions as one: each weight's leading bits apart from the bits that higher precisions add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from svq.pack.bitpack import pack_codes, packed_size, unpack_codes


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
