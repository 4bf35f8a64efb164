"""Every worker explains itself, quickly: --help needs no torch, and bad options are one line with status 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Not systems: its words are NAME=VALUE, and tests/recipe has how it refuses others and how little it imports.
WORKERS = sorted({path.stem for path in (ROOT / "svq" / "bin").glob("*.py")} - {"__init__", "systems"})

# One process for all: each --help is asked for in turn, and whoever imports a heavy library is named.
ASK = """
import contextlib, importlib, io, sys
for name in sys.argv[1:]:
    module = importlib.import_module(f"svq.bin.{name}")
    told = io.StringIO()
    sys.argv = [name, "--help"]
    try:
        with contextlib.redirect_stdout(told):
            module.main()
    except SystemExit as end:
        assert end.code == 0, (name, end.code)
    text = told.getvalue()
    assert text.startswith(f"usage: python3 -m svq.bin.{name} "), (name, text[:80])
    for heavy in ("torch", "onnxruntime", "openvino", "matplotlib", "optuna"):
        assert heavy not in sys.modules, f"svq.bin.{name} imports {heavy} before its options are parsed"
"""


def test_help_of_every_worker_comes_without_torch():
    done = subprocess.run([sys.executable, "-c", ASK, *WORKERS], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("worker", WORKERS)
def test_unknown_option_is_one_line_after_the_usage(worker, capsys, monkeypatch):
    import importlib

    monkeypatch.setattr(sys, "argv", [worker, "--no-such-option"])
    with pytest.raises(SystemExit) as end:
        raise SystemExit(importlib.import_module(f"svq.bin.{worker}").main())
    error = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2 and error[-1].startswith("python3 -m svq.bin.")
