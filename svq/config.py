"""YAML configs checked against a schema of nested frozen dataclasses.

A worker declares its schema as dataclasses whose fields have annotations and defaults; `load_config`
fills it from a YAML file and `key.sub=value` overrides. An unknown key or a wrong type is an error that
names the file and the dotted key. No torch here: configs load in milliseconds.

svq.config_files describes how files build on one another (`base: other.yaml`), svq.rows what FILE.yaml:ROW means.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import os
import types
import typing

import yaml

from svq import numbers
from svq.config_files import layers_of, read_tree
from svq.errors import UserError


def load_config(path, schema: type, overrides: typing.Sequence[str] = ()):
    """Reads the config file `path`, or a row of it, `FILE.yaml:ROW`, into an instance of dataclass `schema`.

    path: None for an empty file. overrides: strings `dotted.key=value`, the value in YAML, applied last.
    Raises UserError for a file or base that is missing or not YAML, a base that leads back to the file, a row that
    its tables do not have, an unknown key, a missing one, a value of the wrong type or out of range.
    """
    where = "defaults"
    if path is not None:
        layers = layers_of(path)
        bases = [layer.where for layer in layers if layer.where != os.fspath(path)]
        where = f"{os.fspath(path)} (base: {', '.join(bases)})" if bases else os.fspath(path)
    return from_dict(read_tree(path, overrides), schema, where)


def from_dict(tree, schema: type, where="config", prefix: str = ""):
    """Builds an instance of dataclass `schema` from nested dict `tree`; UserError names `where` and the dotted key.

    prefix: the keys above `tree`, with a dot at the end, as errors show them.
    """
    if not isinstance(tree, dict):
        raise UserError(f"{where}: '{prefix.rstrip('.')}' must be a mapping of keys to values")
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}
    for key in tree:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, 1)
            hint = f"; did you mean '{prefix}{close[0]}'?" if close else f"; known: {', '.join(fields)}"
            raise UserError(f"{where}: unknown key '{prefix}{key}'{hint}")
    values = {}
    for name, field in fields.items():
        if name in tree:
            values[name] = _check(tree[name], hints[name], where, prefix + name, field.metadata.get("infinite", False))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: key '{prefix}{name}' is missing")
    try:
        return schema(**values)
    except ValueError as error:  # from __post_init__: a value out of range
        raise UserError(f"{where}: {prefix}{error}") from None


def _check(value, hint, where, key, infinite=False):
    """Gives `value` as the type `hint`, or raises UserError. infinite: whether infinity counts as a number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (hint,) = [arg for arg in args if arg is not type(None)]
        return _check(value, hint, where, key, infinite)
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint, where, key + ".")
    if origin is typing.Literal:
        if _is_one_of(value, args):
            return value
        raise UserError(f"{where}: '{key}' is {value!r}; it must be one of {', '.join(map(str, args))}")
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: '{key}' must be a list, not {value!r}")
        return origin(_check(item, args[0], where, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: '{key}' must be a mapping, not {value!r}")
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = numbers.number(value, infinite=True) if isinstance(value, str) else float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) or (infinite and math.isinf(number)):
            return number
        if math.isinf(number):  # it would slip through most checks of a range, and a NaN through all
            raise UserError(f"{where}: '{key}' must be a finite number, not {value!r}")
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        if hint is int and value < 0 and key.rpartition(".")[2] == "seed":
            raise UserError(f"{where}: '{key}' is {value}; a seed must not be negative")
        return value
    raise UserError(f"{where}: '{key}' must be of type {hint.__name__}, not {value!r}")


def check_choices(config) -> None:
    """Raises ValueError where a field of dataclass instance `config` has a value that its Literal does not list.

    To be called first in a class's __post_init__: instances made in Python are then checked as those from YAML are.
    """
    for name, allowed in _choices(type(config)).items():
        value = getattr(config, name)
        if not _is_one_of(value, allowed):
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, allowed))}")


@functools.cache
def _choices(schema: type) -> dict[str, tuple]:
    """Gives the allowed values of each field of dataclass `schema` that is a Literal, or a Literal or None, by name."""
    hints = typing.get_type_hints(schema)
    found = {}
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        united = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
        parts = [part for part in united if part is not type(None)]
        if parts and all(typing.get_origin(part) is typing.Literal for part in parts):
            values = [value for part in parts for value in typing.get_args(part)]
            found[field.name] = (*values, None) if len(parts) < len(united) else tuple(values)
    return found


def _is_one_of(value, allowed: tuple) -> bool:
    """Says whether `value` is among `allowed` with the same type: True is not 1."""
    return any(type(value) is type(choice) and value == choice for choice in allowed)


def to_dict(config) -> dict:
    """Turns a dataclass instance into plain nested dicts and lists, ready for YAML or JSON.

    A field with metadata {"left_out": True} is left out where it is None. So a schema can get a new setting, and the
    files and digests of whoever does not use it stay the same.
    """
    if dataclasses.is_dataclass(config):
        values = {f.name: (getattr(config, f.name), f.metadata.get("left_out")) for f in dataclasses.fields(config)}
        return {name: to_dict(value) for name, (value, left_out) in values.items() if not (left_out and value is None)}
    if isinstance(config, (list, tuple)):
        return [to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    return config


def dump_config(config, path) -> None:
    """Writes the resolved config to YAML file `path`: every key that `to_dict` gives, defaults too."""
    from svq.atomic import atomic_write

    with atomic_write(path) as file:
        yaml.safe_dump(to_dict(config), file, sort_keys=False, width=100)


def write_provenance(folder, config, seed: int) -> None:
    """Writes `folder/provenance.yaml`: config, seed, package versions and the git commit of the code."""
    from svq.atomic import atomic_write

    tree = {"seed": seed, "git": _git_commit(), "versions": _versions(), "config": to_dict(config)}
    with atomic_write(os.path.join(folder, "provenance.yaml")) as file:
        yaml.safe_dump(tree, file, sort_keys=False, width=100)


def _versions() -> dict:
    import platform
    from importlib import metadata

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in ("torch", "numpy", "scipy", "kaldiio", "soundfile", "safetensors"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git_commit() -> str:
    import subprocess

    folder = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
