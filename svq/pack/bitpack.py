"""Codes of 1 to 8 bits to bytes and back: as a dense bit string, or near their entropy."""

from __future__ import annotations

import zlib

import numpy as np

PIECE = 1 << 18  # codes; a multiple of 8, so that pieces begin at a byte


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
    if bits == 8:
        return packed.copy()
    codes = np.empty(count, dtype=np.uint8)
    # A piece at a time: single bits take sixteen times the room of the codes.
    for start in range(0, count, PIECE):
        number = min(PIECE, count - start)
        plane = np.unpackbits(packed[start * bits // 8 :][: packed_size(number, bits)], count=number * bits)
        padded = np.zeros((number, 8), dtype=np.uint8)
        padded[:, 8 - bits :] = plane.reshape(number, bits)
        codes[start : start + number] = np.packbits(padded, axis=1).ravel()
    return codes


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return -(-count * bits // 8)


def compress_codes(codes: np.ndarray, levels: int) -> np.ndarray:
    """Codes (uint8, each below `levels`) by Huffman coding, near their entropy; bytes (uint8).

    As many codes as fit make one byte, digits of a number in base `levels` with the first the highest
    (five ternary codes, two of 16 levels); the last one is filled with zeros. Those bytes are a raw deflate
    stream of Huffman codes alone. Codes of a network have no order that a dictionary could use, and a
    byte of several codes spares Huffman coding its loss of up to a bit a symbol.
    """
    digits = _digits(levels)
    codes = np.ascontiguousarray(codes, dtype=np.uint8).ravel()
    if codes.size and int(codes.max()) >= levels:
        raise ValueError(f"code {codes.max()} of {levels} levels")
    rows = np.zeros((-(-codes.size // digits), digits), dtype=np.uint8)
    rows.ravel()[: codes.size] = codes
    numbers = rows @ levels ** np.arange(digits - 1, -1, -1)
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return np.frombuffer(coder.compress(numbers.astype(np.uint8).tobytes()) + coder.flush(), dtype=np.uint8)


def decompress_codes(data: np.ndarray, levels: int, count: int) -> np.ndarray:
    """The `count` codes (uint8) that `compress_codes` made into `data`.

    ValueError when `data` is not the stream of just so many; never expands to more than those. A number
    beyond levels^digits, which no codes make, comes out as a code of `levels` or more.
    """
    digits = _digits(levels)
    expected = -(-count // digits)
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than there should be: room for the end of the stream, and enough to notice excess.
        numbers = decoder.decompress(data.tobytes(), expected + 1)
    except zlib.error as error:
        raise ValueError(f"not a stream of Huffman codes ({error})") from None
    if len(numbers) != expected or not decoder.eof or decoder.unused_data:
        raise ValueError(f"{data.size} bytes of Huffman codes do not hold {count} codes of {levels} levels")
    table = np.arange(256)[:, None] // levels ** np.arange(digits - 1, -1, -1)
    table[:, 1:] %= levels
    return table.astype(np.uint8)[np.frombuffer(numbers, dtype=np.uint8)].ravel()[:count]


def _digits(levels: int) -> int:
    """How many codes of `levels` levels fit one byte, at most 8."""
    digits = 1
    while digits < 8 and levels ** (digits + 1) <= 256:
        digits += 1
    return digits
