"""Which files and rows a config is made of, and what they give when they are merged. No schema: see svq.config.

`base: other.yaml` in a file takes over all that the other one says (its path counts from the folder of the file that
names it; a base may have a base). Mappings are merged key by key, and where both files give a value, the file that names
the base wins: `null` there drops a whole part, a list replaces a list. `FILE.yaml:ROW` is FILE with row ROW of the tables
that it names with `rows: [...]` laid over it (svq.rows); it may be a base, too.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import yaml

from svq.errors import UserError
from svq.rows import row_layers, split_path
from svq.yaml_file import load, parse_mapping, read_text, require_small


def read_tree(path, overrides: Sequence[str] = ()) -> dict:
    """What the files, the row and overrides give, not checked against any schema: a key that is absent was not given."""
    tree: dict = {}
    for layer in reversed(layers_of(path) if path is not None else []):
        tree = _merged(tree, layer.settings)
    for text in overrides:
        _apply_override(tree, text)
    return tree


def config_files(path) -> list[str]:
    """The file `path`, its base, the base of that, and so on, and tables of rows: all that the config depends on."""
    return list(dict.fromkeys(file for layer in layers_of(path) for file in layer.files))


def row_tables(path) -> list[str]:
    """The tables of rows that config file `path`, or the nearest of its bases that names any, names; [] for none."""
    return next((layer.tables for layer in layers_of(path) if layer.tables), [])


@dataclasses.dataclass(frozen=True)
class Layer:
    """What one file, or one row of a table, gives. where: as errors name it. tables: what its `rows` names."""

    where: str
    files: tuple[str, ...]
    settings: dict
    tables: list[str] = dataclasses.field(default_factory=list)


def layers_of(path, named_by: str = "", seen: tuple[str, ...] = ()) -> list[Layer]:
    """The layers of `path`, the nearest first: a row's before its file's, a file's before its base's.

    named_by: the file that names it as its base. seen: the real paths on the way to it.
    """
    file, row = split_path(path)
    if row is None:
        return _file_layers(file, named_by, seen)
    layers = _file_layers(file, named_by, seen)
    tables = next((layer.tables for layer in layers if layer.tables), [])
    if not tables:
        raise UserError(f"{file} names no tables of rows: '{row}' is looked up where it says `rows: [quant.yaml]`")
    return [Layer(found.where, tuple(tables), found.settings) for found in row_layers(file, tables, row)] + layers


def _file_layers(path: str, named_by: str, seen: tuple[str, ...]) -> list[Layer]:
    try:
        text = read_text(path)
        tree = parse_mapping(text, path)
    except UserError as error:
        raise UserError(f"{error} (the base that {named_by} names)" if named_by else str(error)) from None
    base, rows = tree.pop("base", None), tree.pop("rows", None)
    if base is not None and (not isinstance(base, str) or "\0" in base):
        raise UserError(f"{path}: 'base' must be the name of another config file, not {base!r}")
    for key, value in (("base", base), ("rows", rows)):
        _require_line(path, text, key, value)
    layer = Layer(path, (path,), tree, _tables(path, rows))
    if base is None:
        return [layer]
    seen, base = (*seen, os.path.realpath(path)), os.path.join(os.path.dirname(path), base)
    if os.path.realpath(split_path(base)[0]) in seen:
        raise UserError(f"{path}: its base {base} builds on {path} itself; a chain of bases must end")
    return [layer, *layers_of(base, path, seen)]


def _require_line(path: str, text: str, key: str, value) -> None:
    """UserError unless what `key` says is on one line from the first column: tools find it there without reading YAML."""
    if value is None:
        return
    lines = [line for line in text.splitlines() if line.startswith(f"{key}:")]
    try:
        written = load(lines[0])[key] if len(lines) == 1 else None
    except yaml.YAMLError:
        written = None
    if written != value:
        raise UserError(f"{path}: write `{key}: ...` on a line of its own, in the first column")


def _tables(path: str, rows) -> list[str]:
    """The files that `rows`, of config file `path`, names."""
    names = [rows] if isinstance(rows, str) else [] if rows is None else rows
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: 'rows' names files of rows, such as [quant.yaml]; not {rows!r}")
    tables = [_short(os.path.join(os.path.dirname(path), name)) for name in names]
    for table in tables:
        if not os.path.isfile(table):
            raise UserError(f"{path}: the table of rows {table}, which it names, is no file")
    return tables


def _short(path: str) -> str:
    """`path` without `folder/..`, unless a link makes that another file."""
    short = os.path.normpath(path)
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def _merged(base: dict, nearer: dict) -> dict:
    """`base` with all that `nearer` gives, mappings key by key."""
    merged = dict(base)
    for key, value in nearer.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def _apply_override(tree: dict, text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"override '{text}': write it as key.sub=value")
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if child is None:
            child = tree[parent] = {}
        elif not isinstance(child, dict):
            raise UserError(f"override '{text}': the file gives '{parent}' the value {child!r}, not a mapping")
        tree = child
    try:
        tree[last] = load(value)
    except yaml.YAMLError:
        raise UserError(f"override '{text}': the value is not valid YAML") from None
    require_small(tree[last], f"override '{text[:40]}'")
