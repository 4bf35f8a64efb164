"""`bits.tsv`, the table of the bits that each layer gets, written by hand or by `svq.bin.allocate`.

Tab separated, header `layer shape trace bits`. `shape` is like 16x8x3x3, `trace` the average Hessian trace
or `-`, `bits` 1 to 8, or 32 for a layer that stays in float. Blank lines and lines that start with # are
skipped. Rows are written in the order of the network and read in any order.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator

from torch import nn

from svq.atomic import atomic_write
from svq.errors import UserError, located, some_of
from svq.files import open_file
from svq.numbers import number
from svq.quant.api import FLOAT_BITS, float_weight, quantizable

COLUMNS = ("layer", "shape", "trace", "bits")


@dataclasses.dataclass(frozen=True)
class LayerBits:
    """A row of bits.tsv: name of the layer, shape of its weight, average Hessian trace (None: unknown), bits.

    line: its line in the file, counted from 1; 0 for a row that was not read from a file.
    """

    layer: str
    shape: tuple[int, ...]
    trace: float | None
    bits: int
    line: int = dataclasses.field(default=0, compare=False)


def read_bits(path) -> list[LayerBits]:
    """Reads the rows of a bits.tsv. Raises UserError that names file and line of the first wrong row."""
    rows, seen = [], {}
    for line, (layer, shape, trace, bits) in table_rows(path, COLUMNS):
        if layer in seen:
            raise UserError(located(path, line, f"layer {layer} is already on line {seen[layer]}; keep one of them"))
        seen[layer] = line
        try:
            rows.append(LayerBits(layer, parse_shape(shape), _parse_trace(trace), _parse_bits(bits), line))
        except ValueError as error:
            raise UserError(located(path, line, f"layer {layer}: {error}")) from None
    return rows


def write_bits(path, rows: Iterable[LayerBits], comment: str | None = None) -> None:
    """Writes rows to a bits.tsv, atomically; `comment`, if given, becomes its first line."""
    with atomic_write(path) as file:
        if comment is not None:
            file.write(f"# {comment}\n")
        file.write("\t".join(COLUMNS) + "\n")
        for row in rows:
            trace = "-" if row.trace is None else f"{row.trace:.6g}"
            file.write(f"{row.layer}\t{format_shape(row.shape)}\t{trace}\t{row.bits}\n")


def check_bits(rows: Iterable[LayerBits], net: nn.Module, path) -> None:
    """Raises UserError that names `path` and the layer where `rows` are not exactly the layers and shapes of `net`."""
    shapes = {name: tuple(float_weight(layer).shape) for name, layer in quantizable(net)}
    rows = list(rows)
    for row in rows:
        where = located(path, row.line, f"layer {row.layer}") if row.line else f"{path}: layer {row.layer}"
        if row.layer not in shapes:
            raise UserError(f"{where} is not in the network; it has {some_of(shapes)}")
        if row.shape != shapes[row.layer]:
            raise UserError(f"{where} has shape {format_shape(row.shape)}, in the network it is "
                            f"{format_shape(shapes[row.layer])}; take the table that was made for this network")
    missing = shapes.keys() - {row.layer for row in rows}
    if missing:
        names = some_of(name for name in shapes if name in missing)
        raise UserError(f"{path}: no row for layer {names}; add it, or make the table for this network")


def bits_by_layer(rows: Iterable[LayerBits]) -> dict[str, int]:
    """Maps the name of each row's layer to its bits, for `QuantConfig.layers`."""
    return {row.layer: row.bits for row in rows}


def table_rows(path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, fields) for each row of a tab-separated table whose header is `columns`.

    Comments and blank lines are skipped. Raises UserError where the file cannot be read, has another header, a row of
    another length, or no row.
    """
    lines = [(number, line) for number, line in enumerate(_read_lines(path), 1)
             if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: empty table; it needs the header {' '.join(columns)} and a row for each layer")
    number, header = lines[0]
    if [field.strip() for field in header.split("\t")] != list(columns):
        raise UserError(located(path, number, f"the header must be {' '.join(columns)}, separated by tabs"))
    if len(lines) == 1:
        raise UserError(located(path, number, "no row follows the header; it needs one for each layer"))
    for number, line in lines[1:]:
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != len(columns) or not all(fields):
            raise UserError(located(path, number, f"must have {len(columns)} fields separated by tabs: "
                                                  f"{' '.join(columns)}"))
        yield number, fields


def _read_lines(path) -> list[str]:
    try:
        with open_file(path, "r", encoding="utf-8-sig") as file:
            return [line.rstrip() for line in file]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None


def format_shape(shape: Iterable[int]) -> str:
    """Writes a shape like 16x8x3x3."""
    return "x".join(map(str, shape))


def parse_shape(text: str) -> tuple[int, ...]:
    """Parses a shape like 16x8x3x3 to (16, 8, 3, 3). Raises ValueError for anything else."""
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", text, re.ASCII):
        raise ValueError(f"shape is '{text}'; write it like 16x8x3x3")
    return tuple(map(int, text.split("x")))


def _parse_trace(text: str) -> float | None:
    if text == "-":
        return None
    try:
        return number(text)
    except ValueError:
        raise ValueError(f"trace is '{text}'; it must be a number, or - where it is unknown") from None


def _parse_bits(text: str) -> int:
    if text not in {str(bits) for bits in [*range(1, 9), FLOAT_BITS]}:
        raise ValueError(f"bits is '{text}'; it must be from 1 to 8, or {FLOAT_BITS} for float")
    return int(text)
