"""Tests of utils/slurm.py, utils/submit.sh and training under srun on a real cluster: bash tests/run.sh --slurm."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from utils import guard

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))       # each file has a cluster of its own


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if not os.environ.get("SVQ_TEST_SLURM"):
        pytest.skip("bash tests/run.sh --slurm starts a cluster")
    why = missing()
    if why:
        pytest.skip(why)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        try:
            cluster.start()
        except (subprocess.SubprocessError, AssertionError) as error:      # a container may forbid what the daemons need
            pytest.skip("Slurm's daemons do not start here: %s" % str(error).splitlines()[0])
        yield cluster
    finally:
        cluster.stop()


class Shell:
    """Runs commands in ``folder``, on the login node so to say."""

    def __init__(self, folder, cluster):
        self.folder, self.cluster = folder, cluster
        self.env = dict(os.environ, LC_ALL="C", SVQ_ROOT=str(ROOT), PYTHONPATH=str(ROOT), SVQ_SLURM_POLL="0.5",
                        SVQ_SLURM_GRACE="8", OMP_NUM_THREADS="1", **cluster.env)
        self.env["PATH"] = "%s:%s/utils:%s" % (Path(sys.executable).parent, ROOT, os.environ["PATH"])
        for name in ("SVQ_SLURM_OPTIONS", "SVQ_CMD", "SVQ_STEP_CMD", "SVQ_RESUMES"):
            self.env.pop(name, None)
        self.started = []

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def read(self, name):
        return (self.folder / name).read_text()

    def start(self, *argv, **env):
        process = subprocess.Popen([str(word) for word in argv], cwd=self.folder, env=dict(self.env, **env),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def end(self, process, code=0, timeout=150):
        """Wait for a started command; returns (stdout, stderr). The exit status must be ``code``."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                out, err = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, "never ended: %s" % process.args
                self.cluster.hurry()
        assert process.returncode == code, "exit status %s\n%s\n%s" % (process.returncode, out, err)
        return out, err

    def __call__(self, *argv, code=0, **env):
        return self.end(self.start(*argv, **env), code)

    def until(self, condition, what, seconds=60):
        self.cluster.until(condition, what, seconds)

    def lose(self, process):
        """As if the machine was switched off: all that was started from here is gone at once, and cancels nothing."""
        os.kill(process.pid, signal.SIGSTOP)
        for pid in [*guard.descendants(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def shell(tmp_path, cluster):
    folder = tmp_path / "a folder"
    folder.mkdir()
    shell = Shell(folder, cluster)
    yield shell
    for process in shell.started:
        if process.poll() is None:
            shell.lose(process)
    cluster("scancel", "--user=root")
    deadline = time.monotonic() + 20
    while cluster("squeue", "-h") and time.monotonic() < deadline:
        time.sleep(0.2)


@pytest.fixture
def seen(request):
    """Notes what was seen on the cluster, for the table at the end: seen("what", "how it went")."""
    return lambda item, text: request.node.user_properties.append(("seen on Slurm", (item, text)))


def pytest_terminal_summary(terminalreporter):
    rows = [value for report in terminalreporter.getreports("passed") for name, value in report.user_properties
            if name == "seen on Slurm"]
    if rows:
        terminalreporter.write_sep("=", "on a real Slurm cluster")
        for item, text in sorted(rows):
            terminalreporter.write_line("%-36s %s" % (item, text))
