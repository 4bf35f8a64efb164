"""exp/results.tsv: one row per system, trial list, back end and score normalization.

No number is made here that is not in a file under exp/: the equal error rate and the minimum
costs come from the scores, Cllr and the actual cost from the calibrated log-likelihood ratios,
bits, bytes and parameters from the packed model's summary.json.

A report has to know more of each system: the float network it comes from, its method, its layers' bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import typing
from collections.abc import Iterable
from pathlib import Path

from svq.atomic import atomic_write
from svq.errors import UserError, located
from svq.files import open_file, read_json
from svq.names import Names, before_finetuning
from svq.numbers import integer, printed

_NAME = re.compile(r"[^\s|]+\Z")
FLOAT_BITS = 32
FLOAT = "Float"
INT8 = "INT8"
FILE = "File"  # quantized, and made elsewhere: nobody here knows how
# Names of rows are <method><bits>[-<variant>]; the order is that of a table's rows.
FAMILIES = {"float": FLOAT, "uniform": "Uniform", "kmqat": "KMQAT", "pot": "PoT", "apot": "APoT", "twn": "TWN",
            "admm": "ADMM", "integer": "Integer", "selected": "Selected", "selective": "Selective", "mixed": "Mixed",
            "static": "Static", "adaptive": "Adaptive", "best": "Best", "calibrated": "Calibrated",
            "int8": INT8}


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
    """Formats one field: names as they are, counts whole, measures with a fixed number of decimals.

    Raises UserError for a name that is empty or holds blanks or '|'.
    """
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
        with open_file(path, "r", encoding="utf-8", newline="\n") as file:
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
            values[name] = {int: integer, float: printed}.get(_TYPES[name], str)(text)
        except ValueError:
            kind = "a whole number" if _TYPES[name] is int else "a number"
            raise UserError(located(path, number, f"{name} is '{text}', not {kind}")) from None
        if _TYPES[name] is str and not _NAME.match(text):
            raise UserError(located(path, number, f"{name} is empty or holds blanks or '|'"))
    return Row(**values)


def unique(values) -> list[str]:
    """Lists the different values, in the order in which they first come."""
    return list(dict.fromkeys(values))


def parent_of(system: str, bits: dict[str, float], names: Names) -> str | None:
    """Finds the float system that a quantized one was made from, by name: teacher_kmqat4 -> teacher.

    bits: average bits per weight of every system in the report. Gives None for a float system, and
    where its network is not in the report. teacher_float-int8 was made from teacher_float.
    """
    if bits[system] >= 32:
        return None
    found = names.parse(system)
    return next((name for name in (found.exported_from, found.net) if bits.get(name, 0) >= 32), None)


MEASURES = ("eer", "mindcf01", "mindcf05", "cllr", "mincllr", "actdcf01")


@dataclasses.dataclass(frozen=True)
class System:
    """A line of a table or a point of a figure.

    parent: the float system that it was made from, None for a float system. root: the float system that it and
    its relatives are grouped under. family: what it is called in tables and figures. variant: what sets it apart
    from others of its family and bits (another seed, an ablation), most often nothing. kind: the quantization
    type in the words of Liu et al., table III. average: bits per weight. bits: of each layer by name, empty for
    float and for an exported system, whose layers are not looked into.
    """

    name: str
    parent: str | None
    root: str
    family: str
    variant: str
    kind: str
    average: float
    bits: dict[str, int]

    @property
    def mixed(self) -> bool:
        """Whether layers have different bits."""
        return len(set(self.bits.values())) > 1


def read_systems(exp, rows: Iterable[Row], names: Names) -> dict[str, System]:
    """Reads name -> System for every system of the results, from exp/<system>/config.yaml. names: the grammar of their
    names.

    An exported system, a file for a runtime with INT8 arithmetic, has no config: it is what its name and its row say. Nor
    has a file that was made elsewhere: it belongs to no other system.
    Raises UserError for a config that is missing or malformed, or at odds with the bits in the results.
    """
    bits = {row.system: row.avg_bits for row in rows}
    return {name: _read_system(Path(exp) / name / "config.yaml", name, bits, names) for name in bits}


def _exported(name: str, bits: dict[str, float], names: Names) -> System:
    """teacher-int8 is made from teacher, teacher_kmqat4-int8 too, by way of kmqat4, its variant."""
    parent = parent_of(name, bits, names)
    root = name if parent is None else _root(name, bits, names)
    variant = "" if parent is None else names.parse(name).exported_from.removeprefix(parent).removeprefix("_")
    return System(name, parent, root, INT8, variant, "INT8 arithmetic", bits[name], {})


def _layer_bits(config) -> dict[str, int]:
    """Layer -> bits of a quantized network; nothing for a float one, and for one of which a choice left all in
    float."""
    import torch

    from svq.quant.api import quantizable

    if config.quant is None:
        return {}
    with torch.device("meta"):  # only the names of the layers are wanted
        found = {layer: config.quant.bits_of(layer) for layer, _ in quantizable(config.build())}
    return found if set(found.values()) != {FLOAT_BITS} else {}


def _read_system(path: Path, name: str, bits: dict[str, float], names: Names) -> System:
    from svq.config import load_config
    from svq.network import ModelConfig

    if not path.is_file() and names.parse(name).int8:
        return _exported(name, bits, names)
    if not path.is_file() and _is_file(path.parent / "summary.json"):
        return System(name, None, name, FLOAT if bits[name] >= FLOAT_BITS else FILE, "", "-", bits[name], {})
    config = load_config(path, ModelConfig)
    by_layer = _layer_bits(config)
    if bool(by_layer) != (bits[name] < FLOAT_BITS):
        stated = f"{bits[name]:g} bits in the results, {'a' if by_layer else 'no'} quantization here"
        raise UserError(f"{path}: {stated}; redo stages 10 and 11")
    parent, root = parent_of(name, bits, names), _root(name, bits, names)
    own, variant = _own(name, names)
    if not by_layer:
        return System(name, parent, root, FLOAT, variant, "-", bits[name], {})
    different = set(by_layer.values())
    family = _family(own, config.quant.method, different)
    return System(name, parent, root, family, variant, _kind(config.quant.method, different), bits[name],
                  by_layer)


def _is_file(summary: Path) -> bool:
    """Says whether a system is a file that was made elsewhere, by what its summary.json says."""
    with contextlib.suppress(OSError, ValueError):
        tree = read_json(summary)
        return isinstance(tree, dict) and tree.get("given") is True
    return False


def _own(name: str, names: Names) -> tuple[str, str]:
    """(method and bits, variant) of what a name says beside the network: small_kmqat4-r80-s2 -> kmqat4, r80-s2."""
    system = names.parse(name)
    if system.row is None:
        return "", "" if system.seed is None else f"s{system.seed}"
    own, _, variant = name.removeprefix(f"{system.net}_").partition("-")
    return own, variant


def _root(name: str, bits: dict[str, float], names: Names) -> str:
    """The float system of the results that this one comes from in the end, or itself."""
    found = [net for net in names.ancestry(name) if bits.get(net, 0) >= FLOAT_BITS]
    return found[-1] if found else name


def _family(own: str, method: str, bits: set[int]) -> str:
    """The family, by the letters that begin the row's name, as in kmqat4, or by the config where there are none."""
    said = re.match(r"[A-Za-z]*", own).group(0) or ("mixed" if len(bits) > 1 else method)
    return FAMILIES.get(said, said)


def _kind(method: str, bits: set[int]) -> str:
    if len(bits) > 1:
        return f"Mixed {{{', '.join(str(b) for b in sorted(bits))}}}"
    return {"static": "Binary", "adaptive": "Binary", "twn": "Ternary"}.get(method, "Uniform")


def in_order(systems: Iterable[System]) -> list[System]:
    """Sorts systems by root, then family, then falling bits; those that tie stay in the order given."""
    systems = list(systems)
    roots = unique(system.root for system in systems)
    families = [*FAMILIES.values(), *unique(system.family for system in systems)]
    return sorted(systems, key=lambda s: (roots.index(s.root), families.index(s.family), -s.average))


def finetuned(names: Iterable[str]) -> list[str]:
    """Lists the names that have a line of their own: all but NAME-ptq beside NAME."""
    names = list(names)
    return [name for name in names if not before_finetuning(name, names)]
