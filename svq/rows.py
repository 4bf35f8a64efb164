"""Tables of rows: settings that many systems share, one named row for each way to quantize or to distil.

A config names its tables, `rows: [quant.yaml, ../../../conf/quant.yaml]`. `FILE.yaml:ROW` is that config with the row's
settings laid over it. The first table that has the row wins, so a recipe's own table overrides the shared one.

A table is a YAML mapping from a row's name to its settings; no settings mean "as FILE says". `base: OTHER` in a row
takes over the settings of row OTHER; `base: SAME_NAME` is the row of that name in the tables that follow. Tools digest
one row without reading YAML, so the text of a table must show its rows: a row begins with `name:` in the first column,
and all of it is on that line or on indented lines below. Anchors, aliases and `<<` are refused.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import re

import yaml

from svq.errors import UserError, located
from svq.yaml_file import PARSER, parse_mapping, read_text

ROW_NAME = re.compile(r"[A-Za-z0-9.+-]+\Z")
# The ends of systems' names, such as teacher_kmqat4-s2 or teacher_nested4-2bit: no row's name may end so.
SUFFIX = re.compile(r"-(ptq|int8|s\d+|\d+bit)\Z")
_KEY = re.compile(r"([^\s:#{}\[\]&*!|>'\"%@`,][^\s:]*):(?=\s|\Z)")
_BASE = re.compile(r"(?:^|[\s{,])base:[ \t]+([^\s,}]+)")
_COMMENT = re.compile(r"(^|\s)#.*")


@dataclasses.dataclass(frozen=True)
class Row:
    """The settings of one row. where: `table:line`. base: the name of the row that it builds on, None for none."""

    name: str
    where: str
    base: str | None
    settings: dict


@dataclasses.dataclass(frozen=True)
class Table:
    """A file of rows by name."""

    path: str
    rows: dict[str, Row]


def split_path(path) -> tuple[str, str | None]:
    """Splits `FILE.yaml:ROW` into (file, row); the row is None for a path that names a file alone."""
    path = os.fspath(path)
    file, colon, row = path.rpartition(":")
    if not colon or not file or "/" in row or os.path.exists(path):
        return path, None
    return file, row


def row_layers(file: str, tables: list[str], name: str) -> list[Row]:
    """Gives row `name` of `tables`, which config `file` names, and the rows that it builds on, nearest first.

    The settings are copies that the caller may change. UserError for a row that no table has, a chain of bases that
    does not end, and a table that is missing or breaks the rules of this module.
    """
    read = [read_table(path) for path in tables]
    layers: list[Row] = []
    seen = set()
    first, wanted = 0, name
    while True:
        place = next((i for i in range(first, len(read)) if wanted in read[i].rows), None)
        if place is None:
            raise UserError(_unknown(file, read[first:], wanted, layers))
        row = read[place].rows[wanted]
        if row.where in seen:
            raise UserError(f"{layers[-1].where}: row {layers[-1].name} builds on {wanted}, which builds on it; "
                            "a chain of bases must end")
        seen.add(row.where)
        layers.append(dataclasses.replace(row, settings=copy.deepcopy(row.settings)))
        if row.base is None:
            return layers
        first, wanted = (place + 1 if row.base == row.name else 0), row.base


def row_names(tables: list[str]) -> list[str]:
    """Lists the names of all rows in `tables`, in the order of the files, each once."""
    return list(dict.fromkeys(name for path in tables for name in read_table(path).rows))


def unknown_row(file: str, tables: list[str], name: str) -> str:
    """Gives the message that config `file` has no row `name`, with the rows of similar names in its `tables`."""
    return _unknown(file, [read_table(path) for path in tables], name, [])


def _unknown(file: str, tables: list[Table], name: str, layers: list[Row]) -> str:
    import difflib

    close = difflib.get_close_matches(name, [row for table in tables for row in table.rows], 3)
    hint = f"; did you mean {' or '.join(dict.fromkeys(close))}?" if close else "."
    listed = ", ".join(table.path for table in tables) or ("none further" if layers else "none")
    if layers:
        return f"{layers[-1].where}: row {layers[-1].name} builds on '{name}', which is no row{hint} Its tables: {listed}"
    return f"{file} has no row '{name}'{hint} Its tables: {listed}"


def read_table(path: str) -> Table:
    """Reads the table of rows in file `path`. UserError where it is missing or breaks the rules of this module."""
    try:
        about = os.stat(path)
    except OSError:
        read_text(path)  # says what is wrong
        raise
    return _read_table(path, (about.st_mtime_ns, about.st_size, about.st_ino))


@functools.lru_cache(maxsize=32)
def _read_table(path: str, state: tuple) -> Table:
    """Reads a table once for many rows. state: time, size and inode, so that a changed file is read again."""
    text = read_text(path)
    tree = parse_mapping(text, path)
    lines = _key_lines(path, text)
    if list(tree) != list(lines):
        odd = next((name for name in lines if name not in tree), None)
        if odd is None:
            raise UserError(f"{path}: each row begins with its name in the first column, `name:`")
        raise UserError(located(path, lines[odd], f"'{odd}' is no row to YAML: indent the line, or call the row something "
                                                  "that YAML reads as text"))
    spans = dict(zip(lines, _spans(text, list(lines.values())), strict=True))
    return Table(path, {name: _row(path, name, lines[name], spans[name], tree[name]) for name in tree})


def _key_lines(path: str, text: str) -> dict[str, int]:
    """Finds the line of each row, by name, in the text alone. UserError for text that a table must not hold."""
    found: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line[0] in "# \t":
            continue
        key = _KEY.match(line)
        if key is None:
            raise UserError(located(path, number, "begin a row with `name:` in the first column, and indent the lines "
                                                  "that follow; a table holds nothing else"))
        found.setdefault(key[1], number)
    _refuse_references(path, text)
    return found


def _refuse_references(path: str, text: str) -> None:
    """Raises UserError for anchors, aliases and `<<`: with them, one row's meaning depends on text elsewhere."""
    for event in yaml.parse(text, PARSER):
        line = event.start_mark.line + 1
        if getattr(event, "anchor", None) is not None:
            raise UserError(located(path, line, "a table has no anchors (&name) and no aliases (*name); write the values "
                                                "out, or give the row a `base:`"))
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise UserError(located(path, line, "a table has no `<<`; give the row a `base:`"))


def _spans(text: str, starts: list[int]) -> list[str]:
    """Cuts out the text of each row, without comments, from its line in `starts` (counted from 1) to the next row's."""
    lines = [_COMMENT.sub(" ", line) for line in text.splitlines()]
    return ["\n".join(lines[a - 1:b - 1]) for a, b in zip(starts, [*starts[1:], len(lines) + 1], strict=True)]


def _row(path: str, name: str, line: int, text: str, settings) -> Row:
    def refuse(problem: str):
        raise UserError(located(path, line, f"row '{name}': {problem}"))

    if not ROW_NAME.match(name):
        refuse("a row's name is letters, digits and . + - (an underscore ends the network's name in a system's)")
    suffix = SUFFIX.search(name)
    if suffix:
        refuse(f"the end {suffix[0]} means something else in a system's name; call the row something else")
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        refuse(f"its settings are a mapping of keys to values, or nothing; not {settings!r}")
    settings = dict(settings)
    base = settings.pop("base", None)
    if _BASE.findall(text.partition(":")[2]) != ([] if base is None else [base]):
        refuse("write the row that it builds on as `base: NAME`, once, without quotes")
    return Row(name, f"{path}:{line}", base, settings)
