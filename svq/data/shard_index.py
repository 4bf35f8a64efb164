"""Data directories whose recordings lie in shards: they have shards.json and shards.index beside wav.scp.

The lines of wav.scp point into the shards. shards.json lists the shards in order, each with its size in bytes, and has
a digest of wav.scp. shards.index has a line for each utterance: number of its shard, offset, bytes, CRC-32.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.data.datadir import DataDir, write_spk2utt
from svq.data.reshape import OF_TRAINING, _not_into_itself, _remove_others
from svq.data.shard_tables import ShardTables, require_size
from svq.data.speeds import write_speeds
from svq.data.table import Table
from svq.data.wavark import carry_tables
from svq.errors import UserError, some_of
from svq.files import fingerprint, read_json

MADE = ("wav.scp", "utt2dur", "utt2spk", "spk2utt")


def write_data_dir(dest, shards: Sequence[tuple[str, str]], source=None, speeds: Sequence[float] = (1.0,)) -> int:
    """Writes the data directory `dest` for `shards`, pairs (shard, its table as svq.data.shard_making writes it).

    source: the data directory that the shards were made from; its other files are copied, and the shards must hold all
    its utterances. None: the shards are all there is. speeds: factors at which training reads each utterance. Returns
    the number of utterances. UserError names utterances that are in no shard or in two.
    """
    rows = ShardTables(shards)
    dest = Path(dest) if source is None else _not_into_itself(dest, source)
    dest.mkdir(parents=True, exist_ok=True)
    for name in OF_TRAINING:  # until all is written, the directory counts as one without shards
        (dest / name).unlink(missing_ok=True)
    made = set(MADE)
    if source is not None:
        _require_all(source, rows)
        made |= carry_tables(DataDir(source), dest, made)
    rows.write(dest / "utt2spk", lambda part: rows.speaker[part].tolist())
    rows.write(dest / "utt2dur", lambda part: rows.seconds[part].tolist())
    rows.write(dest / "wav.scp", rows.places)
    _remove_others(dest, made)
    if list(speeds) != [1.0]:
        write_speeds(dest, speeds)
    rows.write(dest / "shards.index", rows.lines)
    count, about = len(rows), [[path, size] for path, size in zip(rows.paths, rows.sizes)]
    del rows  # before spk2utt takes as much memory again
    write_spk2utt(dest / "spk2utt", Table.read(dest / "utt2spk"))
    with atomic_write(dest / "shards.json") as file:
        json.dump({"format": 1, "wav.scp": fingerprint(("file", dest / "wav.scp")), "shards": about}, file, indent=0)
        file.write("\n")
    return count


def _require_all(source, rows: ShardTables) -> None:
    missing = rows.lacking(DataDir(source).utt2spk.key_array)
    if missing:
        raise UserError(f"{source}: {len(missing)} utterances are in no shard: {some_of(missing)}; make the shards again")


class ShardIndex:
    """Positions of utterances in the shards of a data directory.

    paths: of the shards. shard, offset, size, crc: an (N,) array each, for the utterances `keys`, (N,) ids as bytes.
    UserError if a shard is missing or has another size, an utterance is in no shard, or wav.scp has changed since
    shards.json was written.
    """

    def __init__(self, data_dir, keys: np.ndarray):
        about = os.path.join(data_dir, "shards.json")
        try:
            found = read_json(about)
            shards = [(str(path), int(size)) for path, size in found["shards"]]
            digest = found["wav.scp"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{about}: not as steps/make_shards.sh writes it ({error}); make it again") from None
        if not os.path.exists(os.path.join(data_dir, "wav.scp")):
            raise UserError(f"{data_dir}/wav.scp is missing; make the shards again")
        if digest != fingerprint(("file", os.path.join(data_dir, "wav.scp"))):
            raise UserError(f"{about}: was not made for this wav.scp; make both again, or remove shards.json")
        for name in ("segments", "reco2file_and_channel"):
            if os.path.exists(os.path.join(data_dir, name)):
                raise UserError(f"{os.path.join(data_dir, name)}: shards hold whole utterances of one channel; remove it, or shards.json")
        self.paths = [path for path, _ in shards]
        for path, size in shards:
            require_size(path, size)
        table = Table.read(os.path.join(data_dir, "shards.index"))
        try:
            rows = table.indices(keys)
        except KeyError as error:
            raise UserError(f"{table.path}: no line for {error.args[0]}, which is in utt2spk") from None
        self.shard, self.offset, self.size, self.crc = _columns(table, rows, len(shards))

    def place(self, row: int) -> str:
        """Gives where the recording of an utterance lies, as wav.scp says it: `shard:offset`."""
        return f"{self.paths[self.shard[row]]}:{self.offset[row]}"


def _columns(table: Table, rows: np.ndarray, shards: int) -> tuple[np.ndarray, ...]:
    columns, ok = table.columns(4)
    try:
        if not ok.all():
            raise ValueError
        crc = _from_hex(columns.pop())[rows]
        size, offset, shard = (columns.pop().astype(np.int64)[rows] for _ in range(3))
        if len(rows) and (min(shard.min(), offset.min(), size.min()) < 0 or shard.max() >= shards):
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(f"{table.path}: has lines that are not `utterance shard offset bytes crc`; make it again") from None
    return shard.astype(np.int32), offset, size.astype(np.int32), crc


def _from_hex(words: np.ndarray) -> np.ndarray:
    """Parses an `S` array (N,) of 8 hexadecimal digits each: (N,) uint32. ValueError for any other word."""
    if words.dtype.itemsize != 8:
        raise ValueError
    value = np.zeros(len(words), np.uint32)
    for digit in np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8).T:
        found = _DIGITS[digit]
        if (found > 15).any():
            raise ValueError
        value = (value << np.uint32(4)) | found
    return value


_DIGITS = np.full(256, 99, np.uint8)  # value of each byte as a hexadecimal digit, 99 for none
_DIGITS[np.frombuffer(b"0123456789abcdefABCDEF", np.uint8)] = [*range(16), *range(10, 16)]


def has_shards(data_dir) -> bool:
    """Says whether training can read the recordings of a data directory shard by shard."""
    return os.path.exists(os.path.join(data_dir, "shards.json"))
