"""Reads the recordings of an epoch's lanes (svq.data.shard_order) from the shards, a pool at a time, front to back."""

from __future__ import annotations

import contextlib
import os
import zlib

import numpy as np

from svq.data.shard_index import ShardIndex
from svq.data.shard_order import ShardBatches
from svq.errors import UserError
from svq.files import open_file

GAP = 64 << 10  # bytes; a gap of so many or fewer between two wanted recordings is read, not skipped
PIECE = 8 << 20  # bytes, the most that are read at once; only a longer recording takes more


class LaneReader:
    """Reader of the recordings, as bytes, that lanes give to each batch.

    It holds the pools that it has read of each lane, less the recordings that it has given. Ask for a lane's batches
    one after the other. Asked out of order, as when a loader moves the lane to another worker, it reads again what it
    lacks, and gives the same.
    """

    def __init__(self, index: ShardIndex, batches: ShardBatches):
        self.index, self.batches, self.utterances = index, batches, len(index.shard)
        self.held: dict[int, tuple[int, dict[int, bytes]]] = {}  # by lane: the last pool read, and what is left
        self.bytes_read = 0

    def take(self, lane: int, batch: int) -> list[tuple[int, bytes]]:
        """Gives (item, its recording's bytes) for each item of a batch that comes from `lane`.

        UserError names a shard that cannot be read, is cut short or altered.
        """
        found = []
        for pool in self.batches.pools_of(lane, batch):
            if pool not in self._pools(lane):
                self._load(lane, pool)
        last, left = self.held[lane]
        for item in self.batches.of_lane(lane, batch).tolist():
            if item not in left:
                left[item] = next(iter(self.read(np.array([item])).values()))
            found.append((item, left.pop(item)))
        return found

    def _pools(self, lane: int) -> range:
        return range(self.held[lane][0] + 1) if lane in self.held else range(0)

    def _load(self, lane: int, pool: int) -> None:
        left = self.held[lane][1] if lane in self.held else {}
        left.update(self.read(self.batches.of_pool(lane, pool)))
        self.held[lane] = (pool, left)
        self._announce(self.batches.of_pool(lane, pool + 1))

    def read(self, items: np.ndarray) -> dict[int, bytes]:
        """Reads recordings and gives their bytes by item; UserError if a CRC differs or a shard cannot be read."""
        found = {}
        for shard, begin, end, members in self._pieces(items):
            data = self._bytes(shard, begin, end)
            for item, row in members:
                start = int(self.index.offset[row]) - begin
                own = data[start : start + int(self.index.size[row])]
                if zlib.crc32(own) != self.index.crc[row]:
                    raise UserError(f"{self.index.paths[shard]}: altered: the {len(own)} bytes from {begin + start} on are not "
                                    "those it was made with; copy it back or make it again")
                found[item] = own
        return found

    def _pieces(self, items: np.ndarray):
        """Yields (shard, begin, end, [(item, utterance)]) of each piece to read at once, in the order of the shards."""
        rows = items % self.utterances
        order = np.lexsort((self.index.offset[rows], self.index.shard[rows]))
        shard, begin, end, members = -1, 0, 0, []
        for item, row in zip(items[order].tolist(), rows[order].tolist()):
            first = int(self.index.offset[row])
            last = first + int(self.index.size[row])
            if members and (self.index.shard[row] != shard or first > end + GAP or last > begin + PIECE):
                yield shard, begin, end, members
                members = []
            if not members:
                shard, begin, end = int(self.index.shard[row]), first, last
            members.append((item, row))
            end = max(end, last)
        if members:
            yield shard, begin, end, members

    def _bytes(self, shard: int, begin: int, end: int) -> bytes:
        path = self.index.paths[shard]
        try:
            with open_file(path, "rb", buffering=0) as file:
                file.seek(begin)
                pieces, left = [], end - begin
                while left and (piece := file.read(left)):
                    pieces.append(piece)
                    left -= len(piece)
        except OSError as error:
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}: a shard that was there when training began") from None
        if left:
            raise UserError(f"{path}: cut short: it ends before byte {end}; copy it back or make it again")
        self.bytes_read += end - begin
        return b"".join(pieces)

    def _announce(self, items: np.ndarray) -> None:
        """Tells the system which items are read next, so that a disk or a server can fetch them meanwhile."""
        if not hasattr(os, "posix_fadvise"):
            return
        with contextlib.suppress(OSError):
            for shard, begin, end, _ in self._pieces(items):
                file = os.open(self.index.paths[shard], os.O_RDONLY)
                try:
                    os.posix_fadvise(file, begin, end - begin, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(file)
