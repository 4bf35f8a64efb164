"""Opens checkpoint files: says what a file is that is none, and reads the one checkpoint of an archive in place.

Nothing is ever extracted to disk: a file in an archive is read into memory by its place, so its name and links cannot
point anywhere. What unpacks to far more than weights do is refused before it fills the memory.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import tarfile
import zipfile
import zlib
from dataclasses import dataclass

from svq.errors import UserError, some_of
from svq.files import open_file, require_file

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".model", ".safetensors", ".onnx")
# The names that hubs give the network itself, where other checkpoints lie beside it.
MAIN = ("avg_model.pt", "embedding_model.ckpt", "model_weights.ckpt", "pytorch_model.bin")
MOST_RATIO = 100  # how many times as large as an archive its content may be: weights hardly shrink
SMALL = 64 << 20  # bytes of content that no archive is refused for
MOST_FILES = 100_000
_KINDS = (
    (b"\x89PNG", "a picture (PNG)"), (b"\xff\xd8\xff", "a picture (JPEG)"), (b"GIF8", "a picture (GIF)"),
    (b"RIFF", "a recording (RIFF, WAV)"), (b"fLaC", "a recording (FLAC)"), (b"OggS", "a recording (Ogg)"),
    (b"ID3", "a recording (MP3)"), (b"%PDF", "a PDF"), (b"\x7fELF", "a program"), (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file (Keras, MATLAB)"), (b"GGUF", "a GGUF file"), (b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"), (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; `git lfs pull` fetches that"),
    (b"<!DOCTYPE", "a web page; download the file itself"), (b"<html", "a web page; download the file itself"),
)
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, KeyError,
           NotImplementedError, RuntimeError, OverflowError)


@dataclass(frozen=True)
class Source:
    """A checkpoint. where: names it in messages. name: its file name, for its suffix. content: its bytes where it lay
    in an archive; None: it is the file `where` itself."""

    where: str
    name: str
    content: bytes | None = None

    def opened(self):
        """Gives what readers take: a path, or a file in memory."""
        return self.where if self.content is None else io.BytesIO(self.content)

    def read(self) -> bytes:
        """Reads the whole content."""
        if self.content is not None:
            return self.content
        with open_file(self.where) as file:
            return file.read()


def find_source(path, suffixes: tuple[str, ...] = SUFFIXES) -> Source:
    """Finds the checkpoint in `path`: that file, or the one file with one of `suffixes` in a tar or zip archive.

    UserError where there is no such file, and for an archive that is damaged, holds no checkpoint or several, or grows
    beyond what weights do.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder; name the checkpoint file in it")
    if not os.path.exists(require_file(path)):
        raise UserError(f"{path}: no such file")
    kind = _archive_kind(path)
    if kind is None:
        return Source(path, os.path.basename(path))
    try:
        name, content = (_from_zip if kind == "zip" else _from_tar)(path, suffixes)
    except _BROKEN as error:
        raise UserError(f"{path}: an archive that is damaged or cut short ({error or type(error).__name__}); copy it "
                        "again") from None
    return Source(f"{path} ({name} in it)", os.path.basename(name), content)


def what_it_is(content: bytes) -> str | None:
    """Says what a file is by its first bytes; None where that is not known."""
    if not content:
        return "an empty file"
    for magic, kind in _KINDS:
        if content.startswith(magic):
            return kind
    if like_onnx(content):
        return "an ONNX file; --from onnx takes it"
    head = content[:512]
    try:
        text = head.decode("ascii")
    except UnicodeDecodeError:
        return None
    return "a text" if text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) <= set("\r\n\t") else None


def described(source: Source) -> str:
    """Says in words, with a colon and a blank behind, what a source is by its first bytes; empty where unknown."""
    if source.content is not None:
        head = source.content[:1024]
    else:
        with open_file(source.where) as file:
            head = file.read(1024)
    kind = what_it_is(head)
    return f"{kind}: " if kind else ""


def like_onnx(content: bytes) -> bool:
    """Says whether bytes begin like an ONNX model: with the fields ir_version and producer_name."""
    return len(content) > 3 and content[0] == 0x08 and 3 <= content[1] < 64 and content[2] in (0x12, 0x1A, 0x3A, 0x42)


def _archive_kind(path: str) -> str | None:
    with open_file(path) as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return None if _is_torch_zip(path) else "zip"
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\0" or head[257:262] == b"ustar":
        return "tar"
    return None


def _is_torch_zip(path: str) -> bool:
    """Says whether a zip archive is a file of torch.save, or so damaged that its reader had better say so."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except _BROKEN:
        return True
    return any(name.rpartition("/")[2] in ("data.pkl", "constants.pkl") for name in names)


def _chosen(path: str, names: list[str], suffixes: tuple[str, ...]) -> str:
    """Chooses the checkpoint among the names of an archive's files."""
    fit = [name for name in dict.fromkeys(names) if name.endswith(suffixes) and not name.rpartition("/")[2].startswith(".")]
    if len(fit) > 1:
        fit = [name for name in fit if name.rpartition("/")[2] in MAIN] or fit
    if not fit:
        holds = f"holds {some_of(names, 3)}" if names else "is empty"
        raise UserError(f"{path}: an archive without a checkpoint ({', '.join(suffixes)}): it {holds}; name the file that "
                        "has the weights")
    if len(fit) > 1:
        raise UserError(f"{path}: an archive of several checkpoints ({some_of(fit, 3)}); unpack it and name one")
    return fit[0]


def _check_size(path: str, size: int) -> None:
    if size > max(SMALL, MOST_RATIO * os.path.getsize(path)):
        raise UserError(f"{path}: an archive that unpacks to more than {MOST_RATIO} times its size, as no weights do; "
                        "unpack it yourself if you trust it")


def _from_zip(path: str, suffixes) -> tuple[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        files = [member for member in archive.infolist() if not member.is_dir()]
        name = _chosen(path, [member.filename for member in files], suffixes)
        chosen = [member for member in files if member.filename == name]
        if len(chosen) > 1:
            raise UserError(f"{path}: an archive with {name} in it {len(chosen)} times; unpack it and name one")
        if chosen[0].flag_bits & 1:
            raise UserError(f"{path}: an archive with a password; unpack it and name the checkpoint")
        _check_size(path, chosen[0].file_size)
        with archive.open(chosen[0]) as file:
            content = file.read(chosen[0].file_size + 1)
        return name, content


class _Bounded(io.RawIOBase):
    """A stream that ends with a UserError where an archive has grown beyond its bound."""

    def __init__(self, file, path: str):
        self.file, self.path, self.total = file, path, 0

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self.file.read(len(buffer))
        self.total += len(data)
        _check_size(self.path, self.total)
        buffer[:len(data)] = data
        return len(data)


def _decompressed(path: str):
    with open_file(path) as file:
        head = file.read(6)
    if head[:2] == b"\x1f\x8b":
        return gzip.open(path)
    if head[:3] == b"BZh":
        import bz2

        return bz2.open(path)
    return lzma.open(path) if head == b"\xfd7zXZ\0" else open_file(path)


def _from_tar(path: str, suffixes) -> tuple[str, bytes]:
    """Reads the checkpoint of a tar archive, compressed or not. The names are read first: two passes."""
    names = [name for name, _ in _members(path)]
    name = _chosen(path, names, suffixes)
    if names.count(name) > 1:
        raise UserError(f"{path}: an archive with {name} in it {names.count(name)} times; unpack it and name one")
    return next((name, content()) for each, content in _members(path) if each == name)


def _members(path: str):
    """Yields name and reader of each plain file of a tar archive, in order. Links and devices are passed over."""
    with _decompressed(path) as plain, tarfile.open(fileobj=io.BufferedReader(_Bounded(plain, path)), mode="r|") as archive:
        for number, member in enumerate(archive):
            if number >= MOST_FILES:
                raise UserError(f"{path}: an archive of more than {MOST_FILES} files; unpack it and name the checkpoint")
            if member.isreg():
                yield member.name, lambda member=member: _content(path, archive, member)


def _content(path: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    _check_size(path, member.size)
    return archive.extractfile(member).read()
