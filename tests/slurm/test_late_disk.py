"""Files appear late on the other machine: they are waited for on either side."""

import subprocess

import pytest

from tests.slurm.late_disk import LateDisk


@pytest.fixture
def disk(shell, cluster, tmp_path):
    """The shell's folder, which node n2 sees three seconds late, and sees so itself."""
    mount = ["unshare", "--mount", "mount", "--bind", tmp_path, tmp_path]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounts are not allowed here")
    other = tmp_path / "as n2 has it"
    other.mkdir()
    cluster.end("slurmd.n2")
    cluster.start_node("n2", shows=(shell.folder, other))
    with LateDisk(shell.folder, other, 3):
        yield other
        cluster.end("slurmd.n2")
    cluster.start_node("n2")


def test_late_files(shell, disk, seen):
    """The job reads what was written just before it, and what it has written is there when slurm.py returns."""
    shell.write("data/list", "old\n")
    shell.until((disk / "data/list").exists, "the disk shows the old list")
    shell.write("data/list", "new list\n")
    shell.write("part.2", "part\n")
    shell("slurm.py", "--sbatch-options", "-w n2", "JOB=2:2", "log/x.JOB.log", "bash", "-c",
          'mkdir -p made; cat "$0/list" "$1" > "$2"; echo more > made/more', "data", "part.JOB", "out.JOB", "made")
    assert shell.read("out.2") == "new list\npart\n" and shell.read("made/more") == "more\n"
    seen("6 files that appear late", "waited for on the node and after the job")
