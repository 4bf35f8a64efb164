"""Shards: tar archives that hold, for each recording, `KEY.spk` (the speaker), then `KEY.flac`, `KEY.ogg` or the like.

WeSpeaker's shards have the same layout, so either toolkit reads the other's. In a wav.scp a recording of a shard is
`SHARD.tar:OFFSET`. OFFSET is the place of its first byte; the tar header before it says how many bytes it has.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from svq.data.table import MAX_KEY
from svq.errors import UserError
from svq.files import open_file

AUDIO = {"flac", "mp3", "m4a", "aac", "ogg", "opus", "wav", "wma"}
BLOCK = 512  # bytes; headers and contents of a tar begin at multiples of it


@dataclass(frozen=True)
class Entry:
    """A recording of a shard. data: its bytes; offset: where they begin in the shard; suffix: such as `flac`."""

    key: str
    speaker: str
    suffix: str
    offset: int
    data: bytes

    @property
    def crc(self) -> int:
        """The CRC-32 of the bytes."""
        return zlib.crc32(self.data)


def add(tar: tarfile.TarFile, key: str, speaker: str, suffix: str, data: bytes) -> None:
    """Adds a recording and its speaker to a tar that is open for writing; owner and time are left out."""
    for name, content in ((f"{key}.spk", speaker.encode()), (f"{key}.{suffix}", data)):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def entries(path) -> Iterator[Entry]:
    """Yields the recordings of a shard in the order in which they lie there; reads the archive once, front to back.

    UserError names the file if it is no tar, is cut short, or holds anything but recordings with their speakers.
    """
    with open_file(path) as file:
        try:
            yield from _entries(path, file)
        except tarfile.TarError as error:
            raise UserError(f"{path}: no tar archive, or cut short ({error}); copy or make it again") from None


def _entries(path, file) -> Iterator[Entry]:
    members: dict[str, tuple] = {}
    current, end = None, 0
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if not member.isfile():
                raise UserError(f"{path}: {member.name}: a {'folder' if member.isdir() else 'link'}; shards hold files alone")
            content = tar.extractfile(member).read()
            if len(content) < member.size:
                raise UserError(f"{path}: cut short in the middle of {member.name}; copy or make it again")
            stem, _, suffix = member.name.rpartition(".")
            if stem != current and members:
                yield _entry(path, current, members)
                members = {}
            if suffix in members:
                raise UserError(f"{path}: {member.name} is there twice")
            current, members[suffix] = stem, (member.offset_data, content)
            end = member.offset_data + -(-member.size // BLOCK) * BLOCK
    if members:
        yield _entry(path, current, members)
    file.seek(end)
    if file.read(BLOCK) != bytes(BLOCK):
        raise UserError(f"{path}: cut short after {current or 'nothing'}: a tar ends in zeros; copy or make it again")


def _entry(path, key: str, members: dict[str, tuple]) -> Entry:
    found = [suffix for suffix in members if suffix in AUDIO]
    if "spk" not in members or len(found) != 1:
        what = "no speaker (.spk)" if "spk" not in members else "no recording" if not found else "two recordings"
        raise UserError(f"{path}: {key or 'a nameless file'} has {what}; a shard holds KEY.spk and KEY.flac (wav, ogg, m4a, ...)")
    try:
        speaker = members["spk"][1].decode().strip()
    except UnicodeDecodeError:
        raise UserError(f"{path}: {key}.spk: text that is not UTF-8") from None
    for kind, name in (("utterance", key), ("speaker", speaker)):
        if not name or len(name.encode(errors="surrogateescape")) > MAX_KEY or name.split() != [name]:
            raise UserError(f"{path}: the {kind} `{name}` of {key} is no id: empty, too long, or with white space in it")
    offset, data = members[found[0]]
    return Entry(key, speaker, found[0], offset, data)


def member_at(file, offset: int) -> tuple[str, int] | None:
    """Gives (suffix, bytes) of the tar member whose contents begin at `offset` of an open file; None if none does."""
    if offset < BLOCK or offset % BLOCK:
        return None
    file.seek(offset - BLOCK)
    try:
        member = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return member.name.rpartition(".")[2], member.size
