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
from svq.data.speeds import write_speeds
from svq.data.table import Table, write_table
from svq.data.wavark import carry_tables
from svq.errors import UserError, located, some_of
from svq.files import fingerprint, open_file, read_json

MADE = ("wav.scp", "utt2dur", "utt2spk", "spk2utt")


def write_data_dir(dest, shards: Sequence[tuple[str, str]], source=None, speeds: Sequence[float] = (1.0,)) -> int:
    """Writes the data directory `dest` for `shards`, pairs (shard, its table as svq.data.shard_making writes it).

    source: the data directory that the shards were made from; its other files are copied, and the shards must hold all
    its utterances. None: the shards are all there is. speeds: factors at which training reads each utterance. Returns
    the number of utterances. UserError names utterances that are in no shard or in two.
    """
    tables = [_Part(path, index) for path, index in shards]
    rows = [(key, number, *row) for number, part in enumerate(tables) for key, *row in part.rows()]
    seen: dict[str, int] = {}
    for key, number, *_ in rows:
        if seen.setdefault(key, number) != number:
            raise UserError(f"{tables[number].path}: {key} is also in {tables[seen[key]].path}; leave one of them out")
    dest = Path(dest) if source is None else _not_into_itself(dest, source)
    dest.mkdir(parents=True, exist_ok=True)
    for name in OF_TRAINING:  # until all is written, the directory counts as one without shards
        (dest / name).unlink(missing_ok=True)
    made = set(MADE)
    if source is not None:
        _require_all(source, seen)
        made |= carry_tables(DataDir(source), dest, made)
    write_table(dest / "utt2spk", ((key, speaker) for key, _, speaker, *_ in rows))
    write_table(dest / "utt2dur", ((row[0], row[-1]) for row in rows))
    write_spk2utt(dest / "spk2utt", Table.read(dest / "utt2spk"))
    write_table(dest / "wav.scp", ((key, f"{tables[number].path}:{offset}") for key, number, _, offset, *_ in rows))
    _remove_others(dest, made)
    if list(speeds) != [1.0]:
        write_speeds(dest, speeds)
    write_table(dest / "shards.index", ((key, f"{number} {offset} {count} {crc}")
                                        for key, number, _, offset, count, crc, _ in rows))
    with atomic_write(dest / "shards.json") as file:
        json.dump({"format": 1, "wav.scp": fingerprint(("file", dest / "wav.scp")),
                   "shards": [[part.path, part.size] for part in tables]}, file, indent=0)
        file.write("\n")
    return len(rows)


def _require_all(source, found) -> None:
    missing = [key for key in DataDir(source).utt2spk if key not in found]
    if missing:
        raise UserError(f"{source}: {len(missing)} utterances are in no shard: {some_of(missing)}; make the shards again")


class _Part:
    """The table of one shard; UserError if the archive has another size than the table says."""

    def __init__(self, path: str, index: str):
        self.path, self.index = os.fspath(path), index
        try:
            with open_file(index, "r", encoding="utf-8") as file:
                head, *self.lines = file.read().splitlines()
            mark, _, size = head.split()
            self.size = int(size)
        except FileNotFoundError:
            raise UserError(f"{path}: has no table {index}: its job was lost; run the step again") from None
        except ValueError:
            raise UserError(f"{index}: is no table of a shard; remove it and run the step again") from None
        require_size(self.path, self.size)

    def rows(self):
        for number, line in enumerate(self.lines, 2):
            fields = line.split()
            if len(fields) != 6:
                raise UserError(located(self.index, number, "is not `utterance speaker offset bytes crc seconds`"))
            yield fields


def require_size(path: str, size: int) -> None:
    """Checks that the shard `path` exists and has `size` bytes; UserError if not."""
    try:
        found = os.path.getsize(path)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}: a shard is missing; copy it back or make it again") from None
    if found != size:
        how = "cut short" if found < size else "altered"
        raise UserError(f"{path}: {how}: it has {found} bytes, and {size} when it was made; copy it back or make it again")


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
        if digest != fingerprint(("file", os.path.join(data_dir, "wav.scp"))):
            raise UserError(f"{about}: was not made for this wav.scp; make both again, or remove shards.json")
        self.paths = [path for path, _ in shards]
        for path, size in shards:
            require_size(path, size)
        table = Table.read(os.path.join(data_dir, "shards.index"))
        try:
            rows = table.indices(keys)
        except KeyError as error:
            raise UserError(f"{table.path}: no line for {error.args[0]}, which is in utt2spk") from None
        self.shard, self.offset, self.size, self.crc = _columns(table, rows, len(shards))


def _columns(table: Table, rows: np.ndarray, shards: int) -> tuple[np.ndarray, ...]:
    columns, ok = table.columns(4)
    try:
        if not ok.all():
            raise ValueError
        shard, offset, size = (column[rows].astype(np.int64) for column in columns[:3])
        crc = np.array([int(text, 16) for text in columns[3][rows].tolist()], np.uint32)
        if len(rows) and (min(shard.min(), offset.min(), size.min()) < 0 or shard.max() >= shards):
            raise ValueError
    except (ValueError, OverflowError):
        raise UserError(f"{table.path}: has lines that are not `utterance shard offset bytes crc`; make it again") from None
    return shard.astype(np.int32), offset, size.astype(np.int32), crc


def has_shards(data_dir) -> bool:
    """Says whether training can read the recordings of a data directory shard by shard."""
    return os.path.exists(os.path.join(data_dir, "shards.json"))
