"""Joins the tables of shards into those of a data directory, all columns in arrays: 60 bytes an utterance, no Python object."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np

from svq.atomic import atomic_write
from svq.data.table import BLOCK_LINES, Table
from svq.errors import UserError, located

_FORM = "is not `utterance speaker offset bytes crc seconds`"
_COLUMNS = ("key", "speaker", "offset", "size", "crc", "seconds", "shard")


class ShardTables:
    """The rows of the tables of several shards, sorted by utterance.

    paths, sizes: of the shards. key, speaker, crc, seconds: `S` arrays (N,); offset, size: (N,) int64; shard: (N,) int32.
    tables: pairs (shard, its table as svq.data.shard_making writes it). UserError for a table that is missing or malformed,
    a shard of another size than its table says, and an utterance that is there twice.
    """

    def __init__(self, tables: Sequence[tuple[str, str]]):
        self.paths, self.sizes = [str(path) for path, _ in tables], []
        parts: dict[str, list[np.ndarray]] = {name: [] for name in _COLUMNS}
        for number, (path, index) in enumerate(tables):
            size, columns = _read(path, index)
            self.sizes.append(size)
            for name, column in zip(_COLUMNS, (*columns, np.full(len(columns[0]), number, np.int32))):
                parts[name].append(column)
        for name in _COLUMNS:  # one after the other, lest all be there twice
            setattr(self, name, np.concatenate(parts.pop(name)))
        self.order = np.argsort(self.key, kind="stable")
        self._require_once()

    def __len__(self) -> int:
        return len(self.key)

    def _require_once(self) -> None:
        for begin in range(0, len(self), BLOCK_LINES):
            rows = self.order[begin : begin + BLOCK_LINES + 1]
            keys = self.key[rows]
            again = np.flatnonzero(keys[1:] == keys[:-1])
            if len(again):
                first, second = (self.paths[self.shard[row]] for row in rows[again[0] : again[0] + 2])
                raise UserError(f"{second}: {keys[again[0]].decode()} is also in {first}; leave one of them out")

    def lacking(self, wanted: np.ndarray) -> list[str]:
        """Lists those of the ids `wanted`, an `S` array, that are in no shard."""
        found = np.zeros(len(wanted), bool)
        for begin in range(0, len(wanted), BLOCK_LINES):
            part = wanted[begin : begin + BLOCK_LINES]
            place = np.minimum(np.searchsorted(self.key, part, sorter=self.order), len(self) - 1)
            found[begin : begin + BLOCK_LINES] = self.key[self.order[place]] == part
        return [key.decode() for key in wanted[~found].tolist()]

    def write(self, path, values: Callable[[np.ndarray], list[bytes]]) -> None:
        """Writes `utterance value` for each row, sorted, to `path`, atomically; `values` gives those of some rows (b,)."""
        with atomic_write(path, "wb") as file:
            for begin in range(0, len(self), BLOCK_LINES):
                rows = self.order[begin : begin + BLOCK_LINES]
                file.write(b"".join([b"%s %s\n" % pair for pair in zip(self.key[rows].tolist(), values(rows))]))

    def places(self, rows: np.ndarray) -> list[bytes]:
        """Gives `shard:offset` of some rows, as wav.scp has it."""
        paths = [path.encode() for path in self.paths]
        return [b"%s:%d" % (paths[shard], offset) for shard, offset in zip(self.shard[rows].tolist(), self.offset[rows].tolist())]

    def lines(self, rows: np.ndarray) -> list[bytes]:
        """Gives `shard offset bytes crc` of some rows, as shards.index has it."""
        columns = (getattr(self, name)[rows].tolist() for name in ("shard", "offset", "size", "crc"))
        return [b"%d %d %d %s" % row for row in zip(*columns)]


def require_size(path: str, size: int) -> None:
    """Checks that the shard `path` exists and has `size` bytes; UserError if not."""
    try:
        found = os.path.getsize(path)
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}: a shard is missing; copy it back or make it again") from None
    if found != size:
        how = "cut short" if found < size else "altered"
        raise UserError(f"{path}: {how}: it has {found} bytes, and {size} when it was made; copy it back or make it again")


def _read(path: str, index: str) -> tuple[int, tuple[np.ndarray, ...]]:
    """Reads the table of one shard: (size of the shard, columns); UserError as in ShardTables."""
    try:
        table, malformed = Table.scan(index, need_value=False)
    except UserError:
        raise UserError(f"{path}: has no table {index}: its job was lost; run the step again") from None
    try:
        mark, (_, text) = table.key(0), table.value(0).split()
        size = int(text)
        if mark != "#" or "\n" in str(path):
            raise ValueError
    except (IndexError, ValueError):
        raise UserError(f"{index}: is no table of a shard; remove it and run the step again") from None
    require_size(path, size)
    (speaker, offset, count, crc, seconds), ok = table.columns(5)
    ok[0] = True
    if malformed or not ok.all():
        line = min([int(fault.lines[0]) for fault in malformed] + [int(np.argmin(ok)) + 1] * (not ok.all()))
        raise UserError(located(index, line, _FORM))
    try:
        numbers = [column[1:].astype(np.int64) for column in (offset, count)]
    except (ValueError, OverflowError):
        raise UserError(f"{index}: a line {_FORM}; remove it and run the step again") from None
    return size, (table.key_array[1:], speaker[1:], *numbers, crc[1:], seconds[1:])
