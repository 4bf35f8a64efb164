"""Codes of 1 to 8 bits to bytes and back."""

from __future__ import annotations

import numpy as np


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (uint8, each below 2^bits) as one dense bit string: ceil(n * bits / 8) bytes (uint8).

    Most significant bit first within a code and within a byte; the last byte is filled with zeros.
    """
    codes = np.ascontiguousarray(codes, dtype=np.uint8).ravel()
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {codes.max()} does not fit {bits} bits")
    return np.packbits(np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :])


def unpack_codes(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The `count` codes (uint8) in `packed`; ValueError when it has not exactly the bytes for them."""
    if packed.size != packed_size(count, bits):
        raise ValueError(f"{packed.size} bytes for {count} codes of {bits} bits; expected {packed_size(count, bits)}")
    plane = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    padded = np.zeros((count, 8), dtype=np.uint8)
    padded[:, 8 - bits :] = plane
    return np.packbits(padded, axis=1).ravel()


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)
