"""Workers of the server behave as processes of their own do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.warm import environment

WORKER = '''
import os, signal, sys, time
words = sys.argv[1:]
print("out", words, os.environ["ONLY_HERE"], os.getcwd(), flush=True)
print("err", sys.stdin.read(), file=sys.stderr)
if "caught" in words:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if "child" in words:
    import subprocess
    print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
if "wait" in words:
    print("waits", flush=True)
    time.sleep(60)
sys.exit("a message" if "message" in words else 7 if "seven" in words else 1 / 0 if "error" in words else None)
'''


@pytest.fixture
def start(tmp_path):
    """Starts a worker of a package that lies in a folder of its own, by the server or without it."""
    for name in ("svq/__init__.py", "svq/bin/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "svq/bin/probe.py").write_text(WORKER)

    def run(*words, warm=True):
        given = {**os.environ, "ONLY_HERE": "yes", **(environment() if warm else {})}
        given["PYTHONPATH"] = f"{tmp_path}:{given['PYTHONPATH']}"
        process = subprocess.Popen([sys.executable, "-m", "svq.bin.probe", *words], env=given, cwd=tmp_path, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write("given")
        process.stdin.close()
        return process

    return run


def ended(process) -> tuple[int, str, str]:
    """Status and output; of an error's lines the last, for those above name what has started the worker."""
    process.wait(60)
    return process.returncode, process.stdout.read(), process.stderr.read().splitlines()[-1]


@pytest.mark.parametrize("words", [(), ("two words", "*"), ("seven",), ("message",), ("error",)], ids=str)
def test_as_a_process_of_its_own(start, words):
    assert ended(start(*words)) == ended(start(*words, warm=False))


@pytest.mark.parametrize("words, code", [(("wait",), -signal.SIGTERM), (("wait", "caught"), 143)], ids=str)
def test_signals_reach_it(start, words, code):
    process = start(*words)
    process.stdout.readline()
    assert process.stdout.readline() == "waits\n"
    process.terminate()
    assert process.wait(60) == code


def test_killed_it_takes_with_it_what_it_started(start):
    process = start("child", "wait")
    process.stdout.readline()
    child = int(process.stdout.readline())
    process.kill()
    deadline = time.monotonic() + 60
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


