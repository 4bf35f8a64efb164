"""Weights as packed codes in an ONNX graph, and the nodes that make weights of them.

Codes lie in bytes as in a `.svq` file, densely: 8, 4, 2 or 1 to a byte, five where there are three levels. Codes of
other widths are split, as 3 bits into 2 and 1. A byte is unpacked by looking it up in a table of 256 rows, which the
graph computes. Where a layer has one codebook, the table holds levels instead of digits.
"""

from __future__ import annotations

import numpy as np

from svq.deploy.constants import Constants, as_half
from svq.pack.format import PLAIN, digits_of, pack_digits
from svq.pack.reading import UnpackedLayer

PARTS = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}  # bits that do not divide a byte


def bases(levels: int) -> list[int]:
    """How many values each digit of a code of so many levels has, the leading digit first: 5 to 8 levels give [4, 2]."""
    if levels == 3:
        return [3]
    bits = max(1, (levels - 1).bit_length())
    return [1 << width for width in PARTS.get(bits, (bits,))]


def split(codes: np.ndarray, levels: int) -> list[tuple[int, int, np.ndarray]]:
    """(base, what the digit counts, the codes' digits packed by `svq.pack.format.pack_digits`) for each of `bases`."""
    if codes.size and int(codes.max()) >= levels:
        raise ValueError(f"code {codes.max()} of {levels} levels")
    counts, parts, left = 1, [], codes.astype(np.int16)
    for base in reversed(bases(levels)):
        left, digits = np.divmod(left, base)
        parts.insert(0, (base, counts, pack_digits(digits, base)))
        counts *= base
    return parts


def packed_bytes(count: int, levels: int) -> int:
    """Bytes that `split` takes for so many codes."""
    return sum(-(-count // digits_of(base)) for base in bases(levels))


def digit_table(constants: Constants, base: int, counts: int, dtype) -> str:
    """(256, digits): the digits in each byte, times `counts`."""
    digits = digits_of(base)
    powers = constants.tensor((base ** np.arange(digits - 1, -1, -1, dtype=np.int32))[None])
    whole = constants.node("Div", constants.shaped(constants.count(256, np.int32), (256, 1)), powers)
    table = constants.node("Mod", whole, constants.tensor(np.int32(base)))
    if counts > 1:
        table = constants.node("Mul", table, constants.tensor(np.int32(counts)))
    return table if dtype == np.int32 else constants.cast(table, dtype)


def numbers(constants: Constants, codes: np.ndarray, levels: int, dtype, shape) -> str:
    """The codes as a tensor of `dtype` in `shape`."""
    total = None
    for base, counts, packed in split(codes, levels):
        part = constants.tensor(packed, alone=True)
        if digits_of(base) == 1:
            part = constants.shaped(constants.cast(part, dtype), shape)
        else:
            part = _rows(constants, digit_table(constants, base, counts, dtype), part, base, codes.size, shape)
        total = part if total is None else constants.node("Add", total, part)
    return total


def _rows(constants: Constants, table: str, packed: str, base: int, count: int, shape) -> str:
    """table[byte] (256, digits), one row after another, less what fills the last byte; in `shape`."""
    found = constants.node("Gather", table, constants.cast(packed, np.int32))
    if count % digits_of(base):
        first, last = (constants.tensor(np.array([number], dtype=np.int64)) for number in (0, count))
        found = constants.node("Slice", constants.shaped(found, (-1,)), first, last)
    return constants.shaped(found, shape)


def looked_up(constants: Constants, codes: np.ndarray, table: str, levels: int, shape) -> str:
    """table[codes] in `shape`: of table (levels,), or one for each row of `codes`, (rows, levels)."""
    if codes.ndim == 2:
        index = numbers(constants, codes, levels, np.int32, codes.shape)
        return constants.shaped(constants.node("GatherElements", table, index, axis=1), shape)
    parts = split(codes, levels)
    if len(parts) > 1 or digits_of(parts[0][0]) == 1:
        return constants.node("Gather", table, numbers(constants, codes, levels, np.int32, shape))
    ((base, _, packed),) = parts
    entries = constants.node("Gather", table, digit_table(constants, base, 1, np.int32))
    return _rows(constants, entries, constants.tensor(packed, alone=True), base, codes.size, shape)


def filled(table: np.ndarray, levels: int) -> np.ndarray:
    """`table` (..., K) with its last value again for codes that no weight has, but a byte may: (..., product of bases)."""
    lacking = int(np.prod(bases(levels))) - table.shape[-1]
    return np.concatenate([table, np.repeat(table[..., -1:], lacking, -1)], -1)


def float_weight(constants: Constants, layer: UnpackedLayer, factor: np.ndarray | None, shape) -> str:
    """The float32 weight of `layer` in `shape`, times `factor` (C,) where given.

    shape: that of the weight, or with a 1 before it. Operations are those of `UnpackedLayer.weight`, and so are the
    numbers that come out.
    """
    levels, codes = layer.row.levels, layer.codes.numpy()
    channels = len(codes)
    each = (1, channels) + (1,) * (len(shape) - 2) if shape[0] != channels else (channels,) + (1,) * (len(shape) - 1)
    times = None if factor is None else half_or_float(constants, factor.astype(np.float32).reshape(each))
    if layer.row.grid != PLAIN and layer.scale.dim():
        weight = numbers(constants, codes, levels, np.float32, shape)
        zero, scale = (value.numpy().reshape(each) for value in (layer.zero, layer.scale))
        zero = constants.tensor(zero.astype(np.uint8))
        weight = constants.node("Sub", weight, constants.cast(zero, np.float32))
        weight = constants.node("Mul", weight, constants.tensor(scale))
    elif layer.row.grid == PLAIN and layer.levels.dim() == 2:
        table = half_or_float(constants, layer.levels.float().numpy())
        if times is not None:
            table = constants.node("Mul", table, constants.shaped(times, (channels, 1)))
        return looked_up(constants, codes.reshape(channels, -1), table, levels, shape)
    else:
        weight = looked_up(constants, codes.ravel(), _levels(constants, layer), levels, shape)
    return weight if times is None else constants.node("Mul", weight, times)


def half_or_float(constants: Constants, array: np.ndarray) -> str:
    """float32 numbers, stored as float16 where that has all of them."""
    half = as_half(array)
    return constants.tensor(array) if half is None else constants.cast(constants.tensor(half), np.float32)


def _levels(constants: Constants, layer: UnpackedLayer) -> str:
    """The levels of a layer with one codebook; those of a grid are computed."""
    if layer.row.grid == PLAIN:
        return constants.tensor(filled(layer.levels.float().numpy(), layer.row.levels))
    size = int(np.prod(bases(layer.row.levels)))
    steps = constants.node("Sub", constants.count(size, np.float32), constants.tensor(layer.zero.numpy()))
    return constants.node("Mul", steps, constants.tensor(layer.scale.numpy()))


def integer_weight(constants: Constants, layer: UnpackedLayer, weight: np.ndarray) -> str:
    """`weight` (C, ...), int8 or uint8, which the codes of `layer` became: looked up, or stored where that is smaller.

    No other layer shares it: ONNX Runtime, on processors without VNNI, changes the integers of each by name.
    ValueError where weights of one channel have one code but are different.
    """
    codes, flat = layer.codes.numpy().reshape(len(weight), -1), weight.reshape(len(weight), -1)
    table, row_of = integer_rows(codes, flat, layer.row.levels)
    levels, (rows, _) = layer.row.levels, table.shape
    if table.size + (rows > 1) * len(codes) + packed_bytes(codes.size, levels) >= weight.size:
        return constants.tensor(weight, alone=True)
    if rows == 1:
        return looked_up(constants, codes.ravel(), constants.tensor(filled(table[0], levels)), levels, weight.shape)
    if rows < len(codes):
        index = constants.cast(constants.tensor(row_of.astype(np.uint8 if rows <= 256 else np.uint16)), np.int32)
        table = constants.node("Gather", constants.tensor(table), index)
    else:
        table = constants.tensor(table[row_of])
    return looked_up(constants, codes, table, levels, weight.shape)


def integer_rows(codes: np.ndarray, weight: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """What integer each code stands for in each channel, as few rows (R, levels) as are easily found, and the channels'
    rows (C,): weight[c, n] == rows[row_of[c], codes[c, n]].

    codes, weight: (C, N). A code that a channel has not may be anything there, so that channels share rows. ValueError
    where one code stands for two integers in one channel.
    """
    channels = np.arange(len(codes))[:, None]
    table = np.zeros((len(codes), levels), dtype=weight.dtype)
    used = np.zeros((len(codes), levels), dtype=bool)
    table[channels, codes], used[channels, codes] = weight, True
    if not (table[channels, codes] == weight).all():
        raise ValueError("weights of one code and channel are different integers")
    rows, known = np.zeros_like(table), np.zeros_like(used)
    row_of, count = np.zeros(len(codes), dtype=np.int64), 0
    for channel in np.argsort(-used.sum(1), kind="stable"):  # those that leave least open come first
        clash = (known[:count] & used[channel] & (rows[:count] != table[channel])).any(1)
        fits = np.flatnonzero(~clash)
        found = fits[0] if fits.size else count
        count = max(count, found + 1)
        rows[found] = np.where(used[channel], table[channel], rows[found])
        known[found] |= used[channel]
        row_of[channel] = found
    return rows[:max(count, 1)], row_of
