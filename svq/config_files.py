"""Finds the files and rows that a config is made of, and merges them. svq.config checks the result against a schema.

`base: other.yaml` in a file takes over all settings of other.yaml. The path counts from the folder of the file that
names it, and a base may have a base. Mappings are merged key by key. Where both files give a value, the file that names
the base wins: `null` there drops a whole part, a list replaces a list.

`FILE.yaml:ROW` is FILE with row ROW laid over it, from the tables that FILE names with `rows: [...]` (svq.rows). It may
be a base, too.
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
    """Reads config `path` (None: an empty one) and merges its bases, its row and `overrides` into one nested dict.

    No schema is checked and no defaults are filled in: a key that is absent was not given. overrides: strings
    `dotted.key=value`, applied last. UserError for what is missing or malformed.
    """
    tree: dict = {}
    for layer in reversed(layers_of(path) if path is not None else []):
        tree = _merged(tree, layer.settings)
    for text in overrides:
        _apply_override(tree, text)
    return tree


def config_files(path) -> list[str]:
    """Lists the files that config `path` depends on: its own, its chain of bases and, for a row, the tables of rows."""
    return list(dict.fromkeys(file for layer in layers_of(path) for file in layer.files))


def row_tables(path) -> list[str]:
    """Lists the tables of rows that config `path` names, else those of its nearest base that names any; [] for none."""
    return next((layer.tables for layer in layers_of(path) if layer.tables), [])


@dataclasses.dataclass(frozen=True)
class Layer:
    """The settings that one file, or one row of a table, gives to a config.

    where: its name in errors. files: the files it was read from. tables: the paths that its `rows` names.
    """

    where: str
    files: tuple[str, ...]
    settings: dict
    tables: list[str] = dataclasses.field(default_factory=list)


def layers_of(path, named_by: str = "", seen: tuple[str, ...] = ()) -> list[Layer]:
    """Reads the layers of config `path`, nearest first: a row before its file, a file before its base.

    named_by: the file that names `path` as its base. seen: real paths of the files on the way to it. UserError for a
    file or row that is missing or malformed, and for a chain of bases that does not end.
    """
    file, row = split_path(path)
    if row is None:
        return _file_layers(file, named_by, seen)
    layers = _file_layers(file, named_by, seen)
    tables = next((layer.tables for layer in layers if layer.tables), [])
    if not tables:
        raise UserError(f"{file} names no tables of rows, so it has no row '{row}'; name some: `rows: [quant.yaml]`")
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
    """Raises UserError unless `key: value` is one line from the first column: tools look there without reading YAML."""
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
    """Gives the paths of the tables that `rows`, a value in config file `path`, names; UserError unless all exist."""
    names = [rows] if isinstance(rows, str) else [] if rows is None else rows
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: 'rows' names files of rows, such as [quant.yaml]; not {rows!r}")
    tables = [_short(os.path.join(os.path.dirname(path), name)) for name in names]
    for table in tables:
        if not os.path.isfile(table):
            raise UserError(f"{path}: the table of rows {table}, which it names, is no file")
    return tables


def _short(path: str) -> str:
    """Takes `folder/..` out of `path`, unless a link makes the result another file."""
    short = os.path.normpath(path)
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def _merged(base: dict, nearer: dict) -> dict:
    """Lays `nearer` over `base`, mappings key by key."""
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
