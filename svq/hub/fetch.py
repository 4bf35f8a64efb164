"""Gets a published file over HTTP, goes on with one that was cut off, and checks it before it gets its name."""

from __future__ import annotations

import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator

from svq.atomic import atomic_write, locked
from svq.errors import UserError
from svq.files import open_file, sha256_of
from svq.hub.catalogue import Published
from svq.progress import progress

PIECE = 1 << 20
TIMEOUT = 60  # seconds without a byte
MOST = 1 << 32  # bytes of a file: larger ones are no checkpoints of a speaker network


def cache_folder() -> str:
    """Gives the folder for downloads: SVQ_CACHE, else svq in XDG_CACHE_HOME, else ~/.cache/svq."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("SVQ_CACHE") or os.path.join(home, "svq")


def download(published: Published, folder: str | None = None, url: str | None = None) -> str:
    """Downloads a published file to `folder`/NAME/FILE, unless it is there, and returns its path.

    folder: None: `cache_folder()`. url: a mirror of the file; None: its publisher's. Its SHA-256 must be the published
    one or, where none is known, that of the first download, which is kept beside it (FILE.sha256). A download that was
    cut off goes on where it was. UserError, naming the address or the file, for a server that does not give it and for
    a file that is not what it should be; then no file of that name is left.
    """
    folder = os.path.join(folder or cache_folder(), published.name)
    path = os.path.join(folder, published.file)
    os.makedirs(folder, exist_ok=True)
    with locked(path):
        if os.path.exists(path):
            check(published, path, path)
            return path
        part = f"{path}.part"
        receive(url or published.url, part, published)
        try:
            check(published, part, path)
        except UserError:
            os.unlink(part)
            raise
        os.replace(part, path)
    return path


def receive(url: str, part: str, published: Published) -> None:
    """Appends to file `part` what it lacks of the file at `url`; UserError where that fails, and `part` is kept."""
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: not an address of the web (http or https)")
    if published.bytes and os.path.exists(part) and os.path.getsize(part) >= published.bytes:
        return  # whole, or wrong: its check says which
    done = os.path.getsize(part) if os.path.exists(part) else 0
    try:
        with answer(url, done) as (response, goes_on):
            total = size_told(response, done if goes_on else 0)
            if total is not None and total > MOST:
                raise UserError(f"{url}: has {total} bytes; no checkpoint is so large")
            with open(part, "ab" if goes_on else "wb") as file:
                for piece in progress(pieces(response), None if total is None else -(-(total - file.tell()) // PIECE),
                                      f"{published.file} (MiB)"):
                    if file.tell() + len(piece) > MOST:
                        raise UserError(f"{url}: does not end; no checkpoint is so large")
                    file.write(piece)
                got = file.tell()
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server says {error.code} {error.reason}; get the file otherwise and give it to "
                        f"`svq import --from {published.origin}`, or name a mirror with --url") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise UserError(f"{url}: {reason}; the same command goes on where this one stopped") from None
    if total is not None and got < total:
        raise UserError(f"{url}: the connection broke after {got} of {total} bytes; the same command goes on from there")


@contextlib.contextmanager
def answer(url: str, done: int) -> Iterator[tuple[http.client.HTTPResponse, bool]]:
    """Asks for the file at `url` from byte `done` on; yields the answer, and whether it starts there or at 0."""
    request = urllib.request.Request(url, headers={"User-Agent": "svq", "Accept-Encoding": "identity"})
    if done:
        request.add_header("Range", f"bytes={done}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if not done or error.code != 416:  # nothing lies after `done`: it is whole, or it is of another file
            raise
        request.remove_header("Range")
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    with response:
        starts = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        yield response, bool(done) and response.status == 206 and starts


def size_told(response: http.client.HTTPResponse, before: int) -> int | None:
    """Gives the bytes of the whole file as the answer tells them, `before` of which are here; None: it does not."""
    told = response.headers.get("Content-Length", "")
    return before + int(told) if told.isdigit() else None


def pieces(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Reads the body of an answer, PIECE bytes at a time."""
    while piece := response.read(PIECE):
        yield piece


def check(published: Published, path: str, name: str) -> None:
    """Checks the file at `path`, to be called `name`, against the bytes and the SHA-256 that are known.

    Where no SHA-256 is published the first one is kept in `name`.sha256. UserError for a file that is another one.
    """
    size = os.path.getsize(path)
    if published.bytes is not None and size != published.bytes:
        raise UserError(f"{name}: has {size} bytes where {published.name} has {published.bytes}; remove it and download "
                        "again")
    found = sha256_of(path)
    kept = f"{name}.sha256"
    known, whose = published.sha256, "the published one"
    if known is None and os.path.exists(kept):
        with open_file(kept, "r", encoding="ascii", errors="replace") as file:
            known, whose = file.read().split(" ")[0].strip(), f"that of the first download ({kept})"
    if known is not None and found != known:
        raise UserError(f"{name}: its SHA-256 is {found}, not {whose}: damaged, or replaced by its publisher; remove it "
                        "and download again")
    if known is None:
        with atomic_write(kept) as file:
            file.write(f"{found}  {os.path.basename(name)}\n")
