"""Files appear whole or not at all."""

import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from svq.atomic import atomic_path, atomic_write, locked, remove_leftovers, write_json


def test_new_content_replaces_the_old_one(tmp_path):
    path = tmp_path / "deep folder" / "out.txt"
    with atomic_write(path) as file:
        file.write("old")
    with atomic_write(path) as file:
        file.write("né")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "né"
    assert os.listdir(path.parent) == ["out.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(error):
        with atomic_write(path, "wb") as file:
            file.write(b"half")
            raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_temporary_name_keeps_the_suffix_and_the_folder(tmp_path):
    with atomic_path(tmp_path / "plot.png") as temporary:
        assert temporary.endswith(".png") and os.path.dirname(temporary) == str(tmp_path)
        assert os.path.basename(temporary).startswith(".")


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "a.json").st_mode) == 0o640


def test_json_is_sorted_and_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [1.5, None], "b": 1}
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    path = tmp_path / "last.pt"
    writer = atomic_path(path)
    writer.__enter__()  # killed here: never exits
    others = ["last.pt", "best.pt", ".other.x.tmp.pt"]
    for name in others:
        (tmp_path / name).write_text("kept")
    assert len(os.listdir(tmp_path)) == 4
    remove_leftovers(path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


WRITERS = {
    "text": "with atomic_write(path) as file:\n    file.write('x' * 100000)",
    "bytes": "with atomic_write(path, 'wb') as file:\n    file.write(bytes(100000))",
    "torch": "import torch\nwith atomic_path(path) as temporary:\n    torch.save({'a': torch.zeros(50000)}, temporary)",
    "safetensors": "import torch\nfrom safetensors.torch import save_file\n"
                   "with atomic_path(path) as temporary:\n    save_file({'a': torch.zeros(50000)}, temporary)",
    "numpy": "import numpy\nwith atomic_path(path) as temporary:\n    numpy.save(open(temporary, 'wb'), numpy.zeros(50000))",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_could_not_be_written_whole_names_its_file(tmp_path, writer):
    """Files of this process may have 5,000 bytes; SIGXFSZ, which would end it, is Python's to ignore."""
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    lines = "\n        ".join(WRITERS[writer].splitlines())
    code = f"""
import resource, sys
from svq.atomic import atomic_path, atomic_write
from svq.cli import run_main
def main():
    path = sys.argv[1]
    import torch
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    if True:
        {lines}
run_main(main)
"""
    done = subprocess.run([sys.executable, "-B", "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"-c: {path}: ") and done.stderr.count("\n") == 1, done.stderr
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.bin"]


def test_a_private_file_stays_private(tmp_path):
    path = tmp_path / "voices.json"
    write_json(path, 1)
    path.chmod(0o600)
    write_json(path, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and json.loads(path.read_text()) == 2


def test_threads_that_count_in_a_file_lose_nothing(tmp_path):
    path = tmp_path / "deep folder" / "count"

    def count():
        for _ in range(25):
            with locked(path):
                number = int(path.read_text()) if path.exists() else 0
                path.write_text(str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "100" and os.listdir(path.parent) == ["count"]


def test_a_lock_that_cannot_be_had_names_its_file(tmp_path):
    (tmp_path / ".out.lock").mkdir()
    with pytest.raises(OSError, match="out.lock"), locked(tmp_path / "out"):
        pass
