"""Order of the items of an epoch that is read from shards: well mixed, yet read in long pieces, each item once.

The order is a pure function of the seed, the epoch and the items' positions, whatever the number of processes:

1. Shards are cut into blocks of a few MB. The blocks are put in a random order, each block once for every speed.
2. The items, block after block, are dealt to lanes: a long stretch to each. A batch takes its first items from the first
   lane, the next from the second, and so on. So it mixes as many places of the corpus as there are lanes.
3. Each lane is cut into pools, and the items of a pool are shuffled. One pool of every lane makes the shuffle buffer. A
   pool is read at once, in the order of the shards.

A process reads only the lanes of its slice of each batch, and each of its workers some of these lanes. So no two read
the same item, and a run that resumes in the middle of an epoch reads only what is left of the pools.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from svq.errors import UserError

BLOCK_BYTES = 4 << 20
LANES = 64
_BLOCKS = 1 << 13  # blocks whose items are laid out together
_SHUFFLE = 4  # keeps this random stream apart from those of svq.data.dataset and svq.data.shard_making


@dataclass(frozen=True)
class Blocks:
    """Items in the order in which they lie in the shards, cut into blocks.

    order: (N,) numbers of items. start: (M + 1,) where each block begins in `order`, and its end.
    """

    order: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, shard: np.ndarray, offset: np.ndarray, block_bytes: int = BLOCK_BYTES) -> "Blocks":
        """Cuts items into blocks of `block_bytes`; item i lies in shard[i] at byte offset[i], both (N,)."""
        order = np.lexsort((offset, shard))
        place = offset[order] // block_bytes
        new = place[1:] != place[:-1]
        place = shard[order]
        new |= place[1:] != place[:-1]
        cuts = np.flatnonzero(new) + 1
        return cls(order, np.concatenate([[0], cuts, [len(order)]]).astype(np.int64))

    def shuffled(self, rng: np.random.Generator, speeds: int) -> np.ndarray:
        """Gives items at all speeds, (speeds * N,), whole blocks in random order; s * N + i is item i at speed s.

        They are int32 where that suffices: an epoch of 90 million items is 360 MB.
        """
        total = speeds * len(self.order)
        out = np.empty(total, np.int32 if total < 1 << 31 else np.int64)
        speed, block = np.divmod(rng.permutation(speeds * (len(self.start) - 1)), len(self.start) - 1)
        length = np.diff(self.start)[block]
        ends = np.cumsum(length)
        for first in range(0, len(block), _BLOCKS):  # so many at a time: what is in between takes several times as much
            part = slice(first, first + _BLOCKS)
            begin, count = int(ends[first] - length[first]), length[part]
            within = np.arange(begin, int(ends[part][-1])) - np.repeat(ends[part] - count, count)
            place = np.repeat(self.start[block[part]], count) + within
            out[begin : begin + len(place)] = self.order[place] + np.repeat(speed[part] * len(self.order), count)
        return out


class ShardBatches:
    """Batches of one epoch read from shards: int64 arrays of items, as svq.data.dataset.EpochBatches gives them.

    Items that do not fill a last batch are dropped; which ones differs from epoch to epoch.
    batch_size: items of all ranks together; rank r of world_size takes the r-th contiguous slice of each batch.
    start_batch: number of batches already done. buffer: number of items in the pools of all lanes together.
    The order is the same for every number of ranks that divides both LANES and batch_size. UserError if the ranks
    cannot share a batch evenly, or the items do not fill one.
    """

    def __init__(self, blocks: Blocks, speeds: int, batch_size: int, seed: int, epoch: int, start_batch: int = 0,
                 rank: int = 0, world_size: int = 1, buffer: int = 8192):
        total = speeds * len(blocks.order)
        if batch_size % world_size:
            raise UserError(f"a batch of {batch_size} cannot be shared evenly by {world_size} processes")
        if total < batch_size:
            raise UserError(f"{total} training utterances do not fill a batch of {batch_size}; choose a smaller batch")
        self.batch_size, self.start_batch, self.batches = batch_size, start_batch, total // batch_size
        lanes = min(LANES, batch_size)
        if lanes % world_size or batch_size % lanes:  # each rank's slice must be made of whole lanes
            lanes = world_size * max(1, min(LANES // world_size, batch_size // world_size))
        self.slots = _shares(batch_size, lanes, world_size)
        each = lanes // world_size
        self.lanes = range(rank * each, (rank + 1) * each)
        rng = np.random.default_rng([_SHUFFLE, seed, epoch])
        items = blocks.shuffled(rng, speeds)[: self.batches * batch_size]
        starts = self.slots * self.batches
        self.pools = [_pool_bounds(int(self.slots[lane + 1] - self.slots[lane]) * self.batches, lane, lanes, buffer)
                      for lane in range(lanes)]
        self.items = []  # for each lane of this rank: its items, in the order in which batches take them
        for lane in range(lanes):
            keys = rng.random(int(starts[lane + 1] - starts[lane]))
            if lane in self.lanes:
                pool = np.repeat(np.arange(len(self.pools[lane]) - 1), np.diff(self.pools[lane]))
                self.items.append(items[starts[lane] : starts[lane + 1]][np.lexsort((keys, pool))])

    def __len__(self) -> int:
        return max(0, self.batches - self.start_batch)

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in range(self.start_batch, self.batches):
            yield np.concatenate([self.of_lane(lane, batch) for lane in self.lanes])

    def of_lane(self, lane: int, batch: int) -> np.ndarray:
        """Gives the items of batch `batch` that come from lane `lane`, one of this rank's."""
        count = int(self.slots[lane + 1] - self.slots[lane])
        return self.items[lane - self.lanes.start][batch * count : (batch + 1) * count].astype(np.int64)

    def pools_of(self, lane: int, batch: int) -> range:
        """Gives the numbers of the pools of lane `lane` that hold its items of batch `batch`."""
        count = int(self.slots[lane + 1] - self.slots[lane])
        bounds = self.pools[lane]
        first, last = np.searchsorted(bounds, [batch * count, (batch + 1) * count - 1], side="right") - 1
        return range(int(first), int(last) + 1)

    def of_pool(self, lane: int, pool: int) -> np.ndarray:
        """Gives the items of a lane's pool that batches from start_batch on take; none if `pool` is past the last."""
        bounds = self.pools[lane]
        if pool + 1 >= len(bounds):
            return np.empty(0, np.int64)
        done = self.start_batch * int(self.slots[lane + 1] - self.slots[lane])
        return self.items[lane - self.lanes.start][max(int(bounds[pool]), done) : int(bounds[pool + 1])].astype(np.int64)


def _shares(batch_size: int, lanes: int, world_size: int) -> np.ndarray:
    """Gives where each lane's items begin in a batch, and its end, (lanes + 1,); a rank's slice has whole lanes."""
    each = lanes // world_size
    within = np.arange(each) * (batch_size // world_size) // each
    starts = np.arange(world_size)[:, None] * (batch_size // world_size) + within
    return np.append(starts.reshape(-1), batch_size)


def _pool_bounds(items: int, lane: int, lanes: int, buffer: int) -> np.ndarray:
    """Gives where the pools of a lane begin, and its end. First pools differ in length, lest all lanes read at once."""
    size = max(1, buffer // lanes)
    first = max(1, size * (lane + 1) // lanes)
    return np.unique(np.minimum(np.append(0, np.arange(first, items + size, size)), items))
