"""Weights as packed codes in an ONNX graph, and the nodes that make weights of them.

Codes lie in bytes as densely as in a `.svq` file: 8, 4, 2 or 1 to a byte, five where there are three levels. Codes of
other widths are split into their leading bits and single bits, as 3 bits into 2 and 1. To unpack a byte, the graph
looks it up in a table of 256 rows, which it computes itself. A runtime keeps all intermediate tensors until it has the
last constant, so the nodes are chosen to make few large ones besides the weight.
"""

from __future__ import annotations

import numpy as np

from svq.deploy.constants import Constants, as_half
from svq.pack.format import PLAIN, digits_of, pack_digits
from svq.pack.reading import UnpackedLayer

PARTS = {3: (2, 1), 5: (4, 1), 6: (4, 1, 1), 7: (4, 1, 1, 1)}  # how widths that do not divide a byte are split
WORTH_A_TABLE = 64  # a channel of so many bytes or more gets its own table of 256 rows


def bases(levels: int) -> list[int]:
    """Gives the number of values of each digit of a code with so many levels, the leading digit first.

    5 to 8 levels give [4, 2]: a digit of 2 bits, then one of 1 bit.
    """
    if levels == 3:
        return [3]
    bits = max(1, (levels - 1).bit_length())
    return [1 << width for width in PARTS.get(bits, (bits,))]


def split(codes: np.ndarray, levels: int) -> list[tuple[int, np.ndarray]]:
    """Splits codes into their digits; gives (base, digits packed by `svq.pack.format.pack_digits`) for each of `bases`.

    ValueError for a code of `levels` or more.
    """
    if codes.size and int(codes.max()) >= levels:
        raise ValueError(f"code {codes.max()} of {levels} levels")
    parts, left = [], codes.astype(np.int16)
    for base in reversed(bases(levels)):
        left, digits = np.divmod(left, base)
        parts.insert(0, (base, pack_digits(digits, base)))
    return parts


def packed_bytes(count: int, levels: int) -> int:
    """Counts the bytes that `split` takes for so many codes."""
    return sum(-(-count // digits_of(base)) for base in bases(levels))


def float_weight(constants: Constants, layer: UnpackedLayer, factor: np.ndarray | None, shape) -> str:
    """Adds the nodes that make the float32 weight of `layer`, times `factor` (C,) where given; gives the tensor's name.

    shape: the weight's, or that with a 1 before it. The operations are those of `UnpackedLayer.weight`, so the numbers
    are the same.
    """
    codes, levels = layer.codes.numpy().reshape(len(layer.codes), -1), layer.row.levels
    rows = layer.row.codebooks if factor is None else len(codes)
    if layer.row.grid == PLAIN:
        table = np.atleast_2d(layer.levels.float().numpy())
        if levels <= 2:
            return _one_of_two(constants, codes, table, factor, shape)
        table = _stored(constants, table.ravel() if factor is None else table)
    else:
        scale, zero = (value.numpy().reshape(-1, 1) for value in (layer.scale, layer.zero))
        zero = constants.cast(constants.tensor(zero.astype(np.uint8)), np.float32)
        steps = constants.node("Sub", constants.count(levels, np.float32), zero)
        table = constants.node("Mul", steps, constants.tensor(scale))
    if factor is not None:
        table = constants.node("Mul", table, _stored(constants, factor.astype(np.float32)[:, None]))
    if factor is not None or layer.row.grid != PLAIN:
        table = constants.shaped(table, (-1,))
    return looked_up(constants, codes, table, rows, levels, shape)


def _one_of_two(constants: Constants, codes: np.ndarray, table: np.ndarray, factor: np.ndarray | None, shape) -> str:
    """Adds the nodes that make a weight of two levels from a bit for each."""
    ((_, packed),) = split(codes, 2)
    is_second = _plane(constants, 2, constants.tensor(packed, alone=True), codes.size, shape, bool)
    columns = []
    for level in (table[:, -1], table[:, 0]):
        columns.append(_stored(constants, level.reshape(_along(len(level), shape))))
        if factor is not None:
            by = _stored(constants, factor.astype(np.float32).reshape(_along(len(factor), shape)))
            columns[-1] = constants.node("Mul", columns[-1], by)
    return constants.node("Where", is_second, *columns)


def _stored(constants: Constants, array: np.ndarray) -> str:
    """Stores float32 numbers, as float16 where that loses nothing; gives the name of the float32 tensor."""
    half = as_half(array)
    return constants.tensor(array) if half is None else constants.cast(constants.tensor(half), np.float32)


def looked_up(constants: Constants, codes: np.ndarray, table: str, rows: int, levels: int, shape) -> str:
    """Adds the nodes that look codes up in a table; gives the name of a tensor in `shape`.

    Its entries are table[c * levels + codes[c, n]], or table[codes[c, n]] where the table has one row. table: name of a
    tensor (rows * levels,). codes: (C, N) uint8. shape: (C, ...) or (1, C, ...).
    """
    parts = split(codes, levels)
    base, packed = parts[0]
    digits = digits_of(base)
    own_tables = codes.shape[1] % digits == 0 and codes.shape[1] // digits >= WORTH_A_TABLE
    if len(parts) == 1 and digits > 1 and (rows == 1 or own_tables):
        inside = _digit_table(constants, base, levels - 1)
        index = constants.cast(constants.tensor(packed.reshape(rows, -1), alone=True), np.int32)
        if rows > 1:
            inside = constants.node("Add", inside, _starts(constants, rows, levels, (rows, 1, 1)))
            inside = constants.shaped(inside, (-1, digits))  # shared by all layers of so many channels
            index = constants.node("Add", index, _starts(constants, rows, 256, (rows, 1)))
        entries = constants.node("Gather", table, inside)
        return _in_shape(constants, constants.node("Gather", entries, index), digits, codes.size, shape)
    index = constants.cast(_numbers(constants, parts, codes.size, shape), np.int32)
    if rows > 1:
        index = constants.node("Add", index, _starts(constants, rows, levels, _along(rows, shape)))
    return constants.node("Gather", table, index)


def _along(rows: int, shape) -> tuple[int, ...]:
    """Gives a shape in which `rows` values, one for each channel, broadcast with `shape`; one row does with any."""
    axis = int(shape[0] != rows)
    return tuple(rows if place == axis else 1 for place in range(len(shape)))


def _starts(constants: Constants, rows: int, step: int, shape) -> str:
    """Adds the nodes that give 0, step, 2 step, ... for each row, int32."""
    numbers = constants.shaped(constants.count(rows, np.int32), shape)
    return constants.node("Mul", numbers, constants.tensor(np.int32(step)))


def _digit_table(constants: Constants, base: int, most: int) -> str:
    """Adds the nodes that give the digits in each byte, (256, digits) int32, none above `most`."""
    powers = constants.tensor((base ** np.arange(digits_of(base) - 1, -1, -1, dtype=np.int32))[None])
    whole = constants.node("Div", constants.shaped(constants.count(256, np.int32), (256, 1)), powers)
    table = constants.node("Mod", whole, constants.tensor(np.int32(base)))
    return table if most >= base - 1 else constants.node("Min", table, constants.tensor(np.int32(most)))


def _plane(constants: Constants, base: int, stored: str, count: int, shape, dtype, times: int = 1,
           plus: int = 0) -> str:
    """Adds the nodes that give times * digit + plus of stored digits, as `dtype`, in `shape`."""
    if digits_of(base) == 1:
        return constants.shaped(stored, shape)
    table = _digit_table(constants, base, base - 1)
    if times > 1:
        table = constants.node("Mul", table, constants.tensor(np.int32(times)))
    if plus:
        table = constants.node("Add", table, constants.tensor(np.int32(plus)))
    found = constants.node("Gather", constants.cast(table, dtype), constants.cast(stored, np.int32))
    return _in_shape(constants, found, digits_of(base), count, shape)


def _in_shape(constants: Constants, found: str, digits: int, count: int, shape) -> str:
    """Puts rows of digits one after another into `shape`, without the digits that only fill the last byte."""
    if count % digits:
        first, last = (constants.tensor(np.array([number], dtype=np.int64)) for number in (0, count))
        found = constants.node("Slice", constants.shaped(found, (-1,)), first, last)
    return constants.shaped(found, shape)


def _numbers(constants: Constants, parts: list[tuple[int, np.ndarray]], count: int, shape) -> str:
    """Adds the nodes that put codes together from their parts, uint8.

    ONNX has no sum of uint8, so each single bit chooses between two tensors: the codes with that bit and without it.
    """
    base, bits = parts[0][0], len(parts) - 1
    leading, *single = [constants.tensor(packed, alone=True) for _, packed in parts]
    found = [_plane(constants, base, leading, count, shape, np.uint8, 1 << bits, low) for low in range(1 << bits)]
    for stored in reversed(single):
        is_set = _plane(constants, 2, stored, count, shape, bool)
        found = [constants.node("Where", is_set, odd, even) for even, odd in zip(found[::2], found[1::2])]
    return found[0]


def integer_weight(constants: Constants, layer: UnpackedLayer, weight: np.ndarray) -> str:
    """Adds the nodes that look up the integer `weight` by the codes of `layer`, or stores it where that is smaller.

    weight: (C, ...) int8 or uint8. Gives the tensor's name. No other layer shares the tensor: on processors without
    VNNI ONNX Runtime changes the integers of each layer by name. ValueError where one code of a channel stands for two
    integers.
    """
    codes, flat = layer.codes.numpy().reshape(len(weight), -1), weight.reshape(len(weight), -1)
    levels = layer.row.levels
    table, row_of = integer_rows(codes, flat, levels)
    if 1 < len(table) and len(codes) * levels <= table.size + row_of.nbytes:
        table = table[row_of]
    rows, channels = len(table), len(codes)
    if table.size + row_of.nbytes * (1 < rows < channels) + packed_bytes(codes.size, levels) >= weight.size:
        return constants.tensor(weight, alone=True)
    if 1 < rows < channels:
        rows_of = constants.cast(constants.tensor(row_of), np.int32)
        stored = constants.shaped(constants.node("Gather", constants.tensor(table), rows_of), (-1,))
    else:
        stored = constants.tensor(table.ravel())
    return looked_up(constants, codes, stored, 1 if rows == 1 else channels, levels, weight.shape)


def integer_rows(codes: np.ndarray, weight: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds rows (R, levels) of integers that codes stand for, and the row (C,) of each channel.

    weight[c, n] == rows[row_of[c], codes[c, n]]. codes, weight: (C, N). Channels share a row where they can: a code
    that a channel does not use may stand for anything there. The search is greedy, so R is small but not always the
    least. ValueError where one code of a channel stands for two integers.
    """
    channels = np.arange(len(codes))[:, None]
    table = np.zeros((len(codes), levels), dtype=weight.dtype)
    used = np.zeros((len(codes), levels), dtype=bool)
    table[channels, codes], used[channels, codes] = weight, True
    if not (table[channels, codes] == weight).all():
        raise ValueError("weights of one code and channel are different integers")
    rows, known = np.zeros_like(table), np.zeros_like(used)
    row_of, count = np.zeros(len(codes), dtype=np.int64), 0
    for channel in np.argsort(-used.sum(1), kind="stable"):  # channels that use the most codes come first
        clash = (known[:count] & used[channel] & (rows[:count] != table[channel])).any(1)
        fits = np.flatnonzero(~clash)
        found = fits[0] if fits.size else count
        count = max(count, found + 1)
        rows[found] = np.where(used[channel], table[channel], rows[found])
        known[found] |= used[channel]
        row_of[channel] = found
    return rows[:max(count, 1)], row_of.astype(np.uint8 if count <= 256 else np.uint16)
