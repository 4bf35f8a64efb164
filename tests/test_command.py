"""The command svq: its list, its names, and what the model in the box is to it."""

import importlib.util
import subprocess
import sys

import pytest

import svq
from svq import cli, ready
from svq.__main__ import COMMANDS, main
from svq.bin import embed, verify
from svq.errors import UserError
from svq.verifier import Verifier
from tests.conftest import ROOT
from tests.helpers import run_worker


def called(monkeypatch, capsys, *words):
    """(status, stdout, stderr) of `svq WORDS`."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/svq", *words])
    monkeypatch.setattr(cli, "typed", None)
    try:
        status = main() or 0
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_help_lists_the_commands(monkeypatch, capsys):
    status, out, err = called(monkeypatch, capsys, "--help")
    assert status == 0 and not err and out.startswith("usage: svq COMMAND ")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ") and "--" not in line] == list(COMMANDS)
    assert called(monkeypatch, capsys) == (2, "", out)


def test_version(monkeypatch, capsys):
    assert called(monkeypatch, capsys, "--version") == (0, f"svq {svq.__version__}\n", "")


@pytest.mark.parametrize("word, mend", [("nonsense", f"known: {', '.join(COMMANDS)}"), ("verfy", "did you mean verify?"),
                                        ("--verify", "did you mean verify?"), ("", "known: ")])
def test_no_such_command(monkeypatch, capsys, word, mend):
    status, out, err = called(monkeypatch, capsys, word, "x")
    assert status == 2 and not out and err.count("\n") == 1
    assert err.startswith(f"svq: no command `{word}`; {mend}")


@pytest.mark.parametrize("name", [name for name in COMMANDS if importlib.util.find_spec(f"svq.bin.{COMMANDS[name][0]}")])
def test_usage_names_what_was_typed(monkeypatch, capsys, name):
    status, out, _ = called(monkeypatch, capsys, name, "--help")
    assert status == 0 and out.startswith(f"usage: svq {name} ") and f"svq.bin.{COMMANDS[name][0]} " not in out
    status, _, err = called(monkeypatch, capsys, name, "--no-such-option")
    assert status == 2 and err.splitlines()[-1].startswith(f"svq {name}")
    monkeypatch.setattr(cli, "typed", None)


def test_errors_name_what_was_typed(monkeypatch, capsys):
    status, _, err = called(monkeypatch, capsys, "verify", "--model", "none.onnx", "a.wav", "--", "b.wav")
    assert status == 1 and err == "svq verify: none.onnx: no such file; svq.bin.export makes it\n"
    monkeypatch.setattr(cli, "typed", None)


def test_from_a_checkout():
    """utils/svq, from anywhere, and by a link to it."""
    for how in ([ROOT / "utils" / "svq"], [sys.executable, "-m", "svq"]):
        done = subprocess.run([*how, "--version"], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"svq {svq.__version__}\n"), done.stderr


def test_the_model_in_the_box(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ready, "_FOLDER", str(tmp_path))
    for take in (ready.path, ready.card, Verifier.load, lambda: run_worker(verify.main, "a.wav", "--", "b.wav"),
                 lambda: run_worker(embed.main, "--out", "e", "a.wav")):
        with pytest.raises(UserError, match="no model in the box; name another"):
            take()
    for name in ("verifier.onnx", "CARD.md"):
        (tmp_path / name).write_bytes(b"")
    assert (ready.path(), ready.card()) == (str(tmp_path / "verifier.onnx"), str(tmp_path / "CARD.md"))
    for take in (Verifier.load, lambda: run_worker(verify.main, "a.wav", "--", "b.wav"),
                 lambda: run_worker(embed.main, "--out", "e", "a.wav")):
        with pytest.raises(UserError, match="verifier.onnx: not an ONNX model|needs onnxruntime"):
            take()
    with pytest.raises(UserError, match="ladder.yaml"):  # a ladder has models of its own
        run_worker(verify.main, "--cascade", "ladder.yaml", "a.wav", "--", "b.wav")
