"""The package as a house: each folder on its floor, imports point downwards only, no circle anywhere.

Imports inside functions count like all others.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the top; a module may import its own folder and floors below its own. Two folders of one floor know nothing of
# each other. Names are folders of svq/ and modules that stand beside them.
FLOORS = (
    ("__main__",),
    ("bin",),
    ("cli",),
    ("recipe",),
    ("analysis", "cascade", "compression", "demo", "search"),
    ("report",),
    ("svq",),  # svq/__init__.py, which hands out svq.Verifier
    ("verifier",),
    ("voices",),
    ("deploy", "importing"),
    ("train",),
    ("bits", "distill"),
    ("evaluation",),
    ("models",),
    ("pack",),
    ("network",),
    ("quant",),
    ("backend", "nets"),
    ("data", "draw", "hub"),
    ("config", "names"),
    ("config_files",),
    ("rows",),
    ("yaml_file",),
    ("atomic", "hardware", "progress", "ready"),
    ("files", "numbers"),
    ("errors",),
)
FLOOR = {name: len(FLOORS) - place for place, names in enumerate(FLOORS) for name in names}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted((ROOT / "svq").rglob("*.py"))}


def place_of(module: str) -> str:
    """The folder of svq/ that a module is in, or its own name where it stands beside them."""
    return module.split(".")[1] if "." in module else module


def imports_of(path: Path) -> set[str]:
    """Modules of svq that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: line {node.lineno}: a relative import; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.split(".")[0] == "svq"}


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def test_every_folder_has_a_floor():
    assert {place_of(module) for module in MODULES} == set(FLOOR)


def test_imports_point_downwards():
    upward = [f"{module} imports {other}" for module, others in IMPORTS.items() for other in others
              if place_of(module) != place_of(other) and FLOOR[place_of(module)] <= FLOOR[place_of(other)]]
    assert not upward


def test_no_circles_between_modules():
    left = dict(IMPORTS)
    while True:
        free = [module for module, others in left.items() if not others & left.keys() - {module}]
        if not free:
            break
        for module in free:
            del left[module]
    assert not left, f"each of these imports another of them: {sorted(left)}"


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_every_folder_says_what_lives_there(folder):
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
