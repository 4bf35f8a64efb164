"""tests/slow.txt names tests that there are, each once, in order."""

import ast

from tests.conftest import ROOT


def test_slow_tests_exist():
    names = (ROOT / "tests" / "slow.txt").read_text().split()
    assert names == sorted(set(names))
    for name in names:
        path, _, function = name.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree)), name
