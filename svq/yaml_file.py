"""Reads one YAML file as a mapping, safely. Each error is one line that names the file and the line."""

from __future__ import annotations

import re

import yaml

from svq.errors import UserError
from svq.files import open_file

MOST_VALUES = 100_000  # in one config, aliases written out; large search spaces have hundreds
# libyaml reads a table of rows in a tenth of the time.
PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(PARSER):
    """A safe YAML loader that reads numbers as svq.numbers and YAML 1.2 do, and refuses a key that is given twice.

    PyYAML's own loader keeps the last of two equal keys without a word. By YAML 1.1, it takes 1e-4 for a text, and 010,
    1_000, 0x10 and 1:30 for the numbers 8, 1000, 16 and 90.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if not tag.endswith((":int", ":float"))]
        for first, found in PARSER.yaml_implicit_resolvers.items()}

    def construct_mapping(self, node, deep=False):
        lines = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag != "tag:yaml.org,2002:merge":
                name = self.construct_object(key, deep=True)
                if isinstance(name, str) and name in lines:
                    problem = f"'{name}' is given twice, in line {lines[name]}, too; take one out"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                lines[name if isinstance(name, str) else id(key)] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(
    r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+.0123456789"))


def read_text(path) -> str:
    """Reads the text of config file `path`. UserError where it is missing, cannot be read or is not UTF-8."""
    try:
        with open_file(path, "r", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise not_yaml(path, error) from None


def load(text: str):
    """Reads the value of YAML `text`; yaml.YAMLError for text that is not YAML and values that Python cannot hold."""
    try:
        return yaml.load(text, Loader)
    except ValueError as error:  # a date of month 13, an integer of thousands of digits
        raise yaml.YAMLError(str(error).partition(";")[0]) from None


def parse_mapping(text: str, path) -> dict:
    """Reads `text`, the YAML of file `path`, as a mapping, {} where it is empty. UserError for anything else."""
    try:
        tree = load(text)
    except yaml.YAMLError as error:
        raise not_yaml(path, _explained(text, error)) from None
    require_small(tree, path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a config is a mapping of keys to values, not a {type(tree).__name__}")
    return tree


def _explained(text: str, error: yaml.YAMLError) -> yaml.YAMLError:
    """Gives the error of PyYAML's own parser, which knows the line better than libyaml, or else `error`."""
    try:
        yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as better:
        return better
    except RecursionError:
        pass
    return error


def not_yaml(path, error: Exception) -> UserError:
    """Makes the UserError for YAML file `path` from the parser's own error: file, line and reason."""
    mark = getattr(error, "problem_mark", None)
    line = f":{mark.line + 1}" if mark else ""
    reason = getattr(error, "problem", None) or str(error).splitlines()[0]
    return UserError(f"{path}{line}: not valid YAML: {reason}")


def require_small(tree, where) -> None:
    """Raises UserError for a YAML tree whose aliases, written out, never end or give more than MOST_VALUES values.

    where: the name of the file in messages.
    """
    sizes: dict[int, int | None] = {}

    def size(node) -> int:
        if not isinstance(node, (dict, list)):
            return 1
        if sizes.setdefault(id(node), 0) is None:
            raise UserError(f"{where}: an alias (*name) lies within what it names; write it out")
        if not sizes[id(node)]:
            sizes[id(node)] = None
            sizes[id(node)] = 1 + sum(map(size, node.values() if isinstance(node, dict) else node))
        return sizes[id(node)]

    if size(tree) > MOST_VALUES:
        raise UserError(f"{where}: more than {MOST_VALUES:,} values, its aliases (*name) written out; make it smaller")
