"""Docstrings stand alone: a public function's begins with its verb ("Reads ..."), none begins in the middle of a sentence.
What a module offers to others has one."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "svq").rglob("*.py"))
# Words that end in s and are no verbs, so that a docstring that begins with them lists what is given in place of saying it.
NOUNS = frozenset("""Activations Bands Bits Blocks Bounds Bytes Cells Channels Classes Codes Columns Components Digits Embeddings
    Errors Features Figures Files Folders Frames Gradients Groups Indices Intervals Keys Labels Layers Lengths Levels Lines
    Means Milliseconds Models Moments Networks Numbers Options Pairs Paths Points Positions Quantizers Recordings Results Rows
    Samples Seconds Segments Settings Shares Sizes Speakers Statistics Steps Systems Tables Tensors Thresholds Trials
    Utterances Values Variances Vectors Voices Waveforms Weights Words As Always Across Besides Less Perhaps This Those
    Is Was Has Does Yes Its Towards""".split())
MIDDLE = frozenset("As By For From How In Of On That Those Than To What When Where Which Who Whose With Without".split())


def documented(tree) -> Iterator[tuple[ast.AST, str, bool]]:
    """Node, docstring, and whether the node is a public function or method (properties and what is private are none)."""
    stack = [(tree, True)]
    while stack:
        node, public = stack.pop()
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            inside = public and not (named and child.name.startswith("_"))
            if named:
                inside = inside and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            stack.append((child, inside))
            if named and ast.get_docstring(child):
                noun = isinstance(child, ast.ClassDef) or any("property" in ast.unparse(d) for d in child.decorator_list)
                yield child, ast.get_docstring(child), inside and not noun
    if ast.get_docstring(tree):
        yield tree, ast.get_docstring(tree), False


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "svq")))
def test_a_docstring_begins_with_its_verb(path):
    wrong = []
    for node, text, function in documented(ast.parse(path.read_text())):
        first = text.split()[0].rstrip(":,.;")
        verb = re.fullmatch("[A-Z][a-z]+s", first) and first not in NOUNS
        if first in MIDDLE or (function and not verb):
            wrong.append(f"{path}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}")
    assert not wrong, "\n".join(wrong)


def undocumented(path) -> Iterator[str]:
    """Public functions, classes and methods without a docstring that other modules name.

    A method needs none that overrides a documented one, nor do `forward` and `backward`, whose class tells the shapes.
    """
    tree = ast.parse(path.read_text())
    stack = [(tree, "", None)]
    while stack:
        node, prefix, owner = stack.pop()
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or child.name.startswith("_"):
                continue
            inherited = owner is not None and (child.name in ("forward", "backward") or overrides(owner, child.name))
            if MODULES[child.name] > 1 and not inherited and not ast.get_docstring(child):
                yield f"{path}:{child.lineno}: {prefix}{child.name}"
            if isinstance(child, ast.ClassDef):
                stack.append((child, f"{child.name}.", child))


def overrides(owner: ast.ClassDef, name: str) -> bool:
    """Says whether a class of the package that `owner` builds on documents the method."""
    for base in owner.bases:
        above = CLASSES.get(ast.unparse(base).rpartition(".")[2].partition("[")[0])
        if above is not None and (overrides(above, name) or any(
                isinstance(child, ast.FunctionDef) and child.name == name and ast.get_docstring(child) for child in above.body)):
            return True
    return False


# Workers document themselves by their module, which --help prints, and networks by their classes.
LIBRARY = [path for path in FILES if path.relative_to(ROOT / "svq").parts[0] not in ("bin", "nets")]
MODULES = Counter(word for path in FILES for word in set(re.findall(r"\w+", path.read_text())))  # that have the word
CLASSES = {node.name: node for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)}


def test_what_other_modules_use_has_a_docstring():
    assert not [line for path in LIBRARY for line in undocumented(path)]
