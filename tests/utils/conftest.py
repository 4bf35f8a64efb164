"""Shell scripts under test run in a folder with a space in its name, as users have them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Shell:
    """Runs commands in ``folder`` with utils/ in front of PATH."""

    def __init__(self, folder):
        self.folder, self.root = folder, ROOT
        self.bin = folder / "fake bin"
        self.bin.mkdir()
        self.env = dict(os.environ, LC_ALL="C", SVQ_ROOT=str(ROOT))
        self.env["PATH"] = "%s:%s:%s/utils:%s" % (
            self.bin, Path(sys.executable).parent, ROOT, os.environ["PATH"])
        self.env["SVQ_GPU_LOCKS"] = str(folder)      # not those of the machine that the tests run on
        for name in ("SVQ_GPU_HOLDER", "SVQ_PLANNED", "SVQ_PARENT_PID", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            self.env.pop(name, None)

    def write(self, name, text, executable=False):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if executable:
            path.chmod(0o755)
        return path

    def read(self, name):
        return (self.folder / name).read_text()

    def start(self, *argv, **env):
        return subprocess.Popen([str(a) for a in argv], cwd=self.folder, env=dict(self.env, **env),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def __call__(self, *argv, code=0, **env):
        """Run; returns (stdout, stderr). The exit status must be ``code``."""
        process = self.start(*argv, **env)
        out, err = process.communicate(timeout=100)
        assert process.returncode == code, "exit status %s\n%s\n%s" % (process.returncode, out, err)
        return out, err

    def until(self, condition, what, seconds=60):
        """Wait for something that happens soon; the limit only keeps a broken test from hanging."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "never happened: " + what
            time.sleep(0.01)


def processes_with(text):
    """Pids of living processes whose command line or environment holds ``text``."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                if folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    continue
                if text.encode() in folder.joinpath("environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                pass
    return found


@pytest.fixture
def shell(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    shell = Shell(folder)
    # A mark in the environment of all that is started, to find who is still there.
    shell.env["SVQ_TEST_MARK"] = "%d-%d-" % (os.getpid(), time.monotonic_ns())
    yield shell
    for pid in processes_with("SVQ_TEST_MARK=" + shell.env["SVQ_TEST_MARK"]):   # of a failed test
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def marked(shell):
    """Pids of the living processes that the shell has started, and of all that they have started."""
    return lambda: processes_with("SVQ_TEST_MARK=" + shell.env["SVQ_TEST_MARK"])
