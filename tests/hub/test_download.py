"""`svq download`, from a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from svq.errors import UserError
from svq.evaluation.zoo import published_markdown
from svq.hub import catalogue as lists
from svq.hub import fetch
from svq.hub.catalogue import Published, catalogue, find
from svq.importing import ORIGINS
from svq.nets import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]
CONTENT = bytes(range(256)) * 20_000  # five pieces


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /model.pt. breaks_after: bytes after which it closes the connection, once; ranges: whether it
    sends the rest of a file when it is asked for; told: whether it says how long the file is."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks_after, self.ranges, self.told, self.asked = CONTENT, None, True, True, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, begin = self.server, 0
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if self.path == "/moved.pt":
            self.send_response(302)
            self.send_header("Location", "/model.pt")
            self.end_headers()
            return
        if self.path != "/model.pt":
            self.send_error(404)
            return
        if wanted and server.ranges:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        if server.told:
            self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        end, server.breaks_after = server.breaks_after, None
        self.wfile.write(server.content[begin:end])

    def log_message(self, *words):
        pass


@pytest.fixture
def server():
    served = Server()
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def published(server, **about) -> Published:
    return replace(Published("mine", "ResNet34", "wespeaker", server.url, "CC BY 4.0", bytes=len(CONTENT),
                             sha256=hashlib.sha256(CONTENT).hexdigest()), **about)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)


def test_a_file_comes_once_and_under_its_own_name(tmp_path, server):
    path = fetch.download(published(server), tmp_path)
    assert path == str(tmp_path / "mine" / "model.pt") and Path(path).read_bytes() == CONTENT
    assert fetch.download(published(server), tmp_path) == path and server.asked == [None]
    assert files(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("after", [1, 1 << 20, len(CONTENT) - 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_off_goes_on(tmp_path, server, after, ranges):
    server.breaks_after, server.ranges = after, ranges
    with pytest.raises(UserError, match=f"broke after {after} of {len(CONTENT)} bytes; the same command goes on"):
        fetch.download(published(server), tmp_path)
    assert files(tmp_path) == ["model.pt.part"]
    path = fetch.download(published(server), tmp_path)
    assert Path(path).read_bytes() == CONTENT and server.asked == [None, f"bytes={after}-"] and files(tmp_path) == ["model.pt"]


def test_a_server_that_tells_no_length_and_cuts_off_is_found_out(tmp_path, server):
    server.told, server.breaks_after = False, 1000
    with pytest.raises(UserError, match=f"has 1000 bytes where mine has {len(CONTENT)}"):
        fetch.download(published(server), tmp_path)
    server.told = False
    assert Path(fetch.download(published(server), tmp_path)).read_bytes() == CONTENT


@pytest.mark.parametrize("about", [{}, {"bytes": None}])
def test_what_lies_there_half_is_of_another_file(tmp_path, server, about):
    part = tmp_path / "mine" / "model.pt.part"
    part.parent.mkdir()
    for content in (b"x" * 1000, CONTENT + b"x", CONTENT[:-1] + b"x"):
        part.write_bytes(content)
        try:
            path = fetch.download(published(server, **about), tmp_path)
        except UserError as error:
            assert "SHA-256" in str(error) or "bytes where" in str(error)
            assert files(tmp_path) == []
            path = fetch.download(published(server, **about), tmp_path)
        assert Path(path).read_bytes() == CONTENT
        Path(path).unlink()


def test_another_file_than_the_published_one_is_refused(tmp_path, server):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match="its SHA-256 is .*, not the published one"):
        fetch.download(published(server), tmp_path)
    assert files(tmp_path) == []


def test_the_first_download_is_the_measure_of_later_ones(tmp_path, server):
    unknown = published(server, sha256=None, bytes=None)
    path = Path(fetch.download(unknown, tmp_path))
    assert files(tmp_path) == ["model.pt", "model.pt.sha256"]
    done = subprocess.run(["sha256sum", "-c", "model.pt.sha256"], cwd=path.parent, capture_output=True)
    assert done.returncode == 0
    path.write_bytes(CONTENT[1:])
    with pytest.raises(UserError, match="not that of the first download"):
        fetch.download(unknown, tmp_path)
    path.unlink()
    server.content = CONTENT[1:]
    with pytest.raises(UserError, match="not that of the first download"):
        fetch.download(unknown, tmp_path)
    assert files(tmp_path) == ["model.pt.sha256"]


def test_a_mirror_and_an_address_that_moved(tmp_path, server):
    elsewhere = published(server, url="http://127.0.0.1:1/away/model.pt")
    with pytest.raises(UserError, match="^http://127.0.0.1:1/away/model.pt: .*the same command goes on"):
        fetch.download(elsewhere, tmp_path)
    assert fetch.download(elsewhere, tmp_path, server.url.replace("model", "moved"))


@pytest.mark.parametrize("path, what", [("gone.pt", "the server says 404 .* name a mirror with --url")])
def test_what_a_server_has_not_is_one_line(tmp_path, server, path, what):
    with pytest.raises(UserError, match=what) as error:
        fetch.download(published(server), tmp_path, server.url.replace("model.pt", path))
    assert "\n" not in str(error.value) and files(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "model.pt"])
def test_only_the_web_is_asked(tmp_path, server, url):
    with pytest.raises(UserError, match="not an address of the web"):
        fetch.download(published(server), tmp_path, url)


def test_a_file_without_an_end_is_not_kept(tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetch, "MOST", 1000)
    for server.told in (True, False):
        with pytest.raises(UserError, match="no checkpoint is so large"):
            fetch.download(published(server), tmp_path)


def test_the_list_is_of_networks_and_toolkits_that_are_known_here():
    for name, each in catalogue().items():
        assert each.arch in ARCHITECTURES and each.origin in ORIGINS, name
        assert each.url.startswith("http") and "." in each.file and each.licence
        assert each.sha256 is None or len(each.sha256) == 64
    assert find("speechbrain-ecapa").file == "embedding_model.ckpt"
    with pytest.raises(UserError, match="did you mean speechbrain-ecapa"):
        find("speechbran-ecapa")
    with pytest.raises(UserError, match="without a name lists them"):
        find("zzz")


def test_the_page_has_the_table_of_today():
    table = published_markdown(list(catalogue().values()), (4, 2, 1))
    assert f"<!-- published:begin -->\n\n{table}\n\n<!-- published:end -->" in (ROOT / "docs" / "published.md").read_text()


def test_the_command_lists_says_and_gets(tmp_path, server, monkeypatch):
    run = [sys.executable, "-m", "svq", "download"]
    told = subprocess.run(run, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert len(told.splitlines()) == 1 + len(catalogue()) and lists.listing() == told
    done = subprocess.run([*run, "clova-fastresnet34", "--url", server.url, "--folder", tmp_path / "a folder"], cwd=ROOT,
                          text=True, capture_output=True, check=True)
    assert "licence: MIT" in done.stdout and "EER as published 2.18 %" in done.stdout
    path = tmp_path / "a folder" / "clova-fastresnet34" / "baseline_lite_ap.model"
    assert path.read_bytes() == CONTENT
    assert done.stdout.endswith(f"next: svq import --from clova '{path}' --out clova-fastresnet34\n")
    done = subprocess.run([*run, "nothing-of-that-name"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
