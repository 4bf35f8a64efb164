"""What workers share: one line for a user's mistake, exit codes, progress in a log."""

import argparse
import subprocess
import sys

import numpy as np
import pytest
import torch

import svq.errors
from svq.cli import boolean, parser, run_main
from svq.errors import UserError, located, some_of
from svq.progress import progress


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("main, status", [
    (lambda: None, 0), (lambda: 3, 3), (raising(UserError("x")), 1), (raising(KeyboardInterrupt()), 130)])
def test_exit_status(main, status):
    with pytest.raises(SystemExit) as done:
        run_main(main)
    assert done.value.code == status


def test_user_error_is_one_line_even_when_a_library_gave_it_two(capsys):
    with pytest.raises(SystemExit):
        run_main(raising(UserError("a.yaml: bad\nvery bad")))
    error = capsys.readouterr().err
    assert error.endswith(": a.yaml: bad very bad\n") and error.count("\n") == 1


def test_a_renamed_option_is_taken_with_a_warning(monkeypatch, capsys):
    arguments = parser("About.", renamed={"--old": "--new"})
    arguments.add_argument("--new", type=int)
    for words in (["--old", "3"], ["--old=3"], ["--new", "3"]):
        monkeypatch.setattr(sys, "argv", ["worker", *words])
        assert arguments.parse_args().new == 3
        assert capsys.readouterr().err == ("warning: --old is --new now\n" if "old" in words[0] else "")


def errors_of_the_machine(tmp_path):
    """What each does, and what its line begins with."""
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    (tmp_path / "file").touch()
    (tmp_path / "full").symlink_to("/dev/full")

    def fill():
        with open(tmp_path / "full", "w") as file:
            file.write("x")

    def nest(x=0):
        nest(x)

    return {
        "space": (fill, "No space left on device; free some space"),
        "missing": (lambda: open(tmp_path / "none"), f"{tmp_path}/none: No such file or directory; check the name"),
        "folder": (lambda: open(tmp_path), f"{tmp_path}: Is a directory; give a file"),
        "below a file": (lambda: (tmp_path / "file" / "x").mkdir(), f"{tmp_path}/file/x: Not a directory; give a folder"),
        "two names": (lambda: (tmp_path / "none").rename(tmp_path / "other"), f"{tmp_path}/none and {tmp_path}/other: No such"),
        "long name": (lambda: open(tmp_path / ("x" * 300)), f"{tmp_path}/{'x' * 300}: File name too long; give a shorter"),
        "memory": (lambda: bytearray(2**62), "out of memory; fewer jobs"),
        "numpy's memory": (lambda: np.empty(10**15), "out of memory (Unable to allocate 7.11 PiB"),
        "torch's memory": (lambda: torch.empty(10**15), "out of memory ("),
        "encoding": (lambda: (tmp_path / "latin1").read_text(encoding="utf-8"), "text that is not utf-8 (byte 0xe9 at 3)"),
        "depth": (nest, "nested too deeply"),
        "size of a number": (lambda: float(10**400), "a number is out of range (int too large"),
    }


@pytest.mark.parametrize("what", ["space", "missing", "folder", "below a file", "two names", "long name", "memory",
                                  "numpy's memory", "torch's memory", "encoding", "depth", "size of a number"])
def test_what_the_machine_refuses_is_one_line(tmp_path, capsys, monkeypatch, what):
    main, line = errors_of_the_machine(tmp_path)[what]
    with pytest.raises(SystemExit) as done:
        run_main(main)
    error = capsys.readouterr().err
    assert done.value.code == 1 and error.count("\n") == 1 and error.partition(": ")[2].startswith(line)
    monkeypatch.setenv("SVQ_TRACEBACK", "1")
    with pytest.raises((OSError, MemoryError, RuntimeError, ValueError, OverflowError)):
        run_main(main)


def test_a_line_without_a_file_names_the_place(tmp_path, capsys):
    (tmp_path / "bits.tsv").write_bytes(b"caf\xe9")
    with pytest.raises(SystemExit):
        run_main(lambda: svq.errors.some_of(iter(open(tmp_path / "bits.tsv", encoding="utf-8"))))
    assert " (some_of, errors.py:" in capsys.readouterr().err


def test_output_to_a_full_disk_is_no_success():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", "from svq.cli import run_main\nrun_main(lambda: print('x'))"],
                              stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "No space left on device" in done.stderr


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)


def test_the_line_names_the_worker(tmp_path):
    done = subprocess.run([sys.executable, "-m", "svq.bin.data_dir", "validate", str(tmp_path / "none")],
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("svq.bin.data_dir: ") and done.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_traceback():
    code = "from svq.cli import run_main\nrun_main(lambda: [print('x' * 1000) for _ in range(10000)] and None)"
    done = subprocess.run(["bash", "-c", '"$0" -c "$1" | head -n 1 > /dev/null', sys.executable, code],
                          capture_output=True, text=True)
    assert done.stderr == ""


def test_help_shows_the_text_as_written_and_defaults():
    arguments = parser("First line.\n\n  indented")
    arguments.add_argument("--size", type=int, default=7, help="how large")
    text = arguments.format_help()
    assert "\n  indented" in text and "how large (default: 7)" in text


@pytest.mark.parametrize("seed, status", [("-1", 2), ("0", 0)])
def test_no_worker_takes_a_negative_seed(capsys, seed, status):
    arguments = parser("x")
    arguments.add_argument("--seed", type=int, default=0, help="seed")
    if status:
        with pytest.raises(SystemExit) as done:
            arguments.parse_args(["--seed", seed])
        assert done.value.code == status and "--seed -1: must not be negative" in capsys.readouterr().err
    else:
        assert arguments.parse_args(["--seed", seed]).seed == 0


def test_boolean():
    assert boolean("true") is True and boolean("false") is False
    with pytest.raises(argparse.ArgumentTypeError, match="maybe"):
        boolean("maybe")


def test_progress_in_a_log(capsys):
    assert list(progress(iter("abc"), total=3, desc="items", seconds=0)) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("items: 1/3 (33 %)") and "left" in lines[0]
    assert lines[-1].startswith("items: 3/3 (100 %)") and "left" not in lines[-1]


def test_progress_of_unknown_length(capsys):
    assert list(progress(iter([]), desc="none")) == []
    assert capsys.readouterr().err.startswith("none: 0 in")


def test_messages():
    assert located("a b/wav.scp", 3, "no key") == "a b/wav.scp:3: no key"
    assert some_of("abc") == "a, b, c"
    assert some_of(range(7), shown=2) == "0, 1 and 5 more"
