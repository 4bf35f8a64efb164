"""local/download_speechocean762.sh against archives on this disk: resume, checks, nothing half-unpacked."""

import hashlib
import shutil
import tarfile

import pytest

from tests.local import corpora
from tests.local.helpers import error, run, tree

SCRIPT = "download_speechocean762.sh"
pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="wget knows no file:// addresses; curl is not installed")


@pytest.fixture
def archive(tmp_path):
    corpora.speechocean762(tmp_path / "made" / "speechocean762", train=2, test=2, utts=2)
    path = tmp_path / "published" / "speechocean762.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as file:
        file.add(tmp_path / "made" / "speechocean762", "speechocean762")
    return path


def options(archive, folder):
    return ("--url", f"file://{archive}", "--folder", folder, "--size", archive.stat().st_size,
            "--recordings", 8, "--speakers", 4)


def test_download_resumes_checks_and_unpacks(archive, tmp_path):
    folder = tmp_path / "my corpora"
    folder.mkdir()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    (folder / "speechocean762.tar.gz.part").write_bytes(archive.read_bytes()[:1000])
    said = run(SCRIPT, *options(archive, folder), "--sha256", sha256.upper()).stdout
    assert sha256 in said and "is complete: 8 recordings of 4 speakers" in said
    assert tree(folder / "speechocean762") == tree(tmp_path / "made" / "speechocean762")
    assert [path.name for path in folder.iterdir()] == ["speechocean762"]
    archive.unlink()  # nothing is downloaded again
    assert "is there and complete" in run(SCRIPT, "--folder", folder, "--recordings", 8, "--speakers", 4).stdout
    (folder / "speechocean762" / "WAVE" / "SPEAKER0001" / "000010000.WAV").unlink()
    assert "incomplete (7 recordings, not 8)" in error(SCRIPT, "--folder", folder, "--recordings", 8, "--speakers", 4)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (("--size", 99), "bytes, not 99"),
        (("--sha256", "0" * 64), "does not have the SHA-256"),
        (("--recordings", 9), "not the complete corpus: 8 recordings, not 9"),
        (("--speakers", 5), "not the complete corpus: 4 speakers, not 5"),
        (("--url", "file:///nowhere.tar.gz"), "downloading file:///nowhere.tar.gz failed"),
    ],
)
def test_refusals_leave_no_corpus(archive, tmp_path, wrong, said):
    assert said in error(SCRIPT, *options(archive, tmp_path / "out"), *wrong)
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


def test_a_damaged_archive_is_refused(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    assert "is damaged" in error(SCRIPT, *options(archive, tmp_path / "out"))
