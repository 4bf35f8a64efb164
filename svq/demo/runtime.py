"""Finds ONNX Runtime Web, the library that runs a network in a browser: from npm, or in a folder or archive at hand.

The library is no part of this repository. Two files of one version are used, whose digests are known.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from dataclasses import dataclass

from svq.errors import UserError
from svq.files import open_file

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
CODE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHA256 = {
    CODE: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
MEND = f"`npm pack {PACKAGE}@{VERSION}` brings {ARCHIVE}; give it: --ort-web {ARCHIVE}"
LARGEST = 64 << 20  # most bytes that are read of a file


@dataclass(frozen=True)
class Runtime:
    """The two files of ONNX Runtime Web. code: the JavaScript module. wasm: the program that it runs."""

    code: bytes
    wasm: bytes


def find_runtime(place=None) -> Runtime:
    """Finds ONNX Runtime Web in `place`, the package's archive or a folder that it lies in; None: from npm.

    UserError where it is not there, or is another version.
    """
    if place is None:
        return from_npm()
    read = from_folder if os.path.isdir(place) else from_archive
    return checked(read(os.fspath(place)), place)


def from_npm() -> Runtime:
    """Gets the package from npm, or from npm's cache. UserError where npm is missing or does not bring it."""
    if shutil.which("npm") is None:
        raise UserError(f"npm, which brings ONNX Runtime Web, is not installed; install it (bash utils/setup.sh --with npm), or "
                        f"work without it: on another machine {MEND}")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", folder, "--silent", "--prefer-offline",
                   "--fetch-retries=1"]
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        archive = os.path.join(folder, ARCHIVE)
        if done.returncode or not os.path.exists(archive):
            said = " ".join(f"{done.stderr} {done.stdout}".split())[-200:] or "it said nothing"
            raise UserError(f"npm did not bring {PACKAGE} {VERSION} ({said}); on a machine where it does, {MEND}")
        return checked(from_archive(archive), f"{PACKAGE} of npm")


def from_archive(path: str) -> dict[str, bytes]:
    """Reads the files named in SHA256 from an archive of the package. UserError where it cannot be read."""
    found = {}
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix("package/dist/")
                if name in SHA256 and member.isfile():
                    found[name] = archive.extractfile(member).read(LARGEST)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError):
        raise UserError(f"{path}: not an archive of {PACKAGE} that can be read; {MEND}") from None
    return found


def from_folder(path: str) -> dict[str, bytes]:
    """Reads the files named in SHA256 from a folder, its `dist` or its `package/dist`, as far as they are there."""
    found = {}
    for name in SHA256:
        for inner in ("", "dist", os.path.join("package", "dist")):
            with contextlib.suppress(FileNotFoundError), open_file(os.path.join(path, inner, name)) as file:
                found[name] = file.read(LARGEST)
                break
    return found


def checked(files: dict[str, bytes], place) -> Runtime:
    """Checks the digests of the library's files; gives a Runtime. UserError where one is missing or differs."""
    for name, expected in SHA256.items():
        if name not in files:
            raise UserError(f"{place}: {name} of {PACKAGE} is not in it; {MEND}")
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise UserError(f"{place}: its {name} is not that of {PACKAGE} {VERSION}; {MEND}")
    return Runtime(files[CODE], files[WASM])
