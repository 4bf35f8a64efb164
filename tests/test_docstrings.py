"""Docstrings stand alone: a public function's begins with its verb ("Reads ..."), none begins in the middle of a sentence."""

from __future__ import annotations

import ast
import re
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
