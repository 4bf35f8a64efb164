"""exp/results.tsv: one row per system, trial list, back end and score normalization.

No number is made here that is not in a file under exp/: the equal error rate and the minimum
costs come from the scores, Cllr and the actual cost from the calibrated log-likelihood ratios,
bits, bytes and parameters from the packed model's summary.json.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing

from svq.atomic import atomic_write
from svq.errors import UserError, located
from svq.names import Names

_NAME = re.compile(r"[^\s|]+\Z")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of results.tsv.

    eer, eer_low, eer_high: percent, the last two the 95 % interval of a bootstrap over speakers
    (nan when none was asked for). mindcf01, mindcf05: normalized minimum detection cost at a
    target prior of 0.01 and 0.05 with unit costs. actdcf01: the cost at the calibrated scores' own
    Bayes threshold. cllr, mincllr: bits. avg_bits: mean bits per weight, size_bytes: the model file.
    """

    system: str
    trials: str
    backend: str
    norm: str
    eer: float
    mindcf01: float
    mindcf05: float
    cllr: float
    avg_bits: float
    size_bytes: int
    params: int
    mincllr: float
    actdcf01: float
    eer_low: float
    eer_high: float
    num_target: int
    num_nontarget: int


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
_TYPES = typing.get_type_hints(Row)
_DECIMALS = {"eer": 4, "eer_low": 4, "eer_high": 4, "avg_bits": 4}


def format_value(name: str, value) -> str:
    """One field as text: names as they are, counts whole, measures with a fixed number of decimals."""
    if _TYPES[name] is str:
        if not _NAME.match(value):
            raise UserError(f"results: {name} {value!r} must not be empty or hold blanks or '|'")
        return value
    if _TYPES[name] is int:
        return str(int(value))
    return f"{value:.{_DECIMALS.get(name, 5)}f}"


def write_results(path, rows) -> None:
    """Writes results.tsv whole or not at all; the rows stay in the order given."""
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(format_value(n, getattr(row, n)) for n in COLUMNS) for row in rows]
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")


def read_results(path) -> list[Row]:
    """Reads results.tsv. Columns are found by name, so a later version's further ones do no harm.

    Raises UserError naming file and line for a missing file or column, a short line, a bad number.
    """
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            lines = file.read().split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; stage 11 makes it") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8") from None
    header = lines[0].split("\t")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(located(path, 1, f"no column {', '.join(missing)}; is this a results.tsv?"))
    place = {name: header.index(name) for name in COLUMNS}
    body = lines[1:-1] if lines[-1] == "" else lines[1:]
    return [_parse(path, number, line, header, place) for number, line in enumerate(body, 2)]


def _parse(path, number: int, line: str, header: list[str], place: dict[str, int]) -> Row:
    fields = line.split("\t")
    if len(fields) != len(header):
        text = f"{len(fields)} fields where the header has {len(header)}"
        raise UserError(located(path, number, text))
    values = {}
    for name in COLUMNS:
        text = fields[place[name]]
        try:
            values[name] = _TYPES[name](text)
        except ValueError:
            kind = "a whole number" if _TYPES[name] is int else "a number"
            raise UserError(located(path, number, f"{name} is '{text}', not {kind}")) from None
        if _TYPES[name] is str and not _NAME.match(text):
            raise UserError(located(path, number, f"{name} is empty or holds blanks or '|'"))
    return Row(**values)


def unique(values) -> list[str]:
    """The different values, in the order they first come."""
    return list(dict.fromkeys(values))


def parent_of(system: str, bits: dict[str, float], names: Names) -> str | None:
    """The float system that a quantized one was made from, by name: teacher_kmqat4 -> teacher.

    bits: average bits per weight of every system in the report. None for a float system, or
    when that system is not in the report. teacher_float-int8 was made from teacher_float.
    """
    if bits[system] >= 32:
        return None
    found = names.parse(system)
    return next((name for name in (found.exported_from, found.net) if bits.get(name, 0) >= 32), None)


# Smaller is better in each of these; they are the columns in which a table marks the best.
MEASURES = ("eer", "mindcf01", "mindcf05", "cllr", "mincllr", "actdcf01")


def best_values(rows, names=MEASURES) -> dict[tuple[str, str], float]:
    """(trial list, column) -> the least value. Compare in print, so that all who tie are marked."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        for name in names:
            value = getattr(row, name)
            if not math.isnan(value):
                key = (row.trials, name)
                best[key] = min(best.get(key, math.inf), value)
    return best
