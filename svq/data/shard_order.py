"""The order of an epoch that is read from shards: mixed well, and yet read in long pieces, each item once.

It is a pure function of seed, epoch and where the items lie, whatever the number of processes:

1. Shards are cut into blocks of a few MB. The blocks, those of every speed by themselves, stand in a random order.
2. The items, block after block, are dealt to lanes: a long stretch to each. A batch takes its first items from the first
   lane, the next from the second, and so on: it mixes as many places of the corpus as there are lanes.
3. Within a lane, pools of items are shuffled: the shuffle buffer. A pool is read at once, in the order of the shards.

A process reads the lanes of its slice of each batch, and each of its workers some of these. So nothing is read by two,
and whoever resumes in the middle of an epoch reads what is left of the pools, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from svq.errors import UserError

BLOCK_BYTES = 4 << 20
LANES = 64
_SHUFFLE = 4  # keeps this random stream apart from those of svq.data.dataset and svq.data.shard_making


@dataclass(frozen=True)
class Blocks:
    """Items in the order in which they lie in the shards, cut into blocks.

    order: (N,) numbers of items; start: (M + 1,) where each block begins in it.
    """

    order: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, shard: np.ndarray, offset: np.ndarray, block_bytes: int = BLOCK_BYTES) -> "Blocks":
        """Blocks of items that lie at these offsets of these shards, both (N,)."""
        order = np.lexsort((offset, shard))
        place = np.stack([shard[order].astype(np.int64), offset[order] // block_bytes])
        cuts = np.flatnonzero(np.any(place[:, 1:] != place[:, :-1], axis=0)) + 1
        return cls(order, np.concatenate([[0], cuts, [len(order)]]).astype(np.int64))

    def shuffled(self, rng: np.random.Generator, speeds: int) -> np.ndarray:
        """All items of all speeds, (speeds * N,): whole blocks in a random order. Item i at speed s is number s * N + i."""
        blocks = rng.permutation(speeds * (len(self.start) - 1))
        speed, block = np.divmod(blocks, len(self.start) - 1)
        length = np.diff(self.start)[block]
        ends = np.cumsum(length)
        within = np.arange(ends[-1]) - np.repeat(ends - length, length)
        place = np.repeat(self.start[block], length) + within
        return self.order[place] + np.repeat(speed * len(self.order), length)


class ShardBatches:
    """Batches of one epoch, int64 arrays of items, as svq.data.dataset.EpochBatches gives them; the last, incomplete
    batch is dropped, other items each epoch.

    batch_size is that of all ranks together; rank r of world_size takes the r-th contiguous slice of each batch.
    start_batch: batches already done. buffer: items in the pools of all lanes together.
    The order is the same for every number of ranks that divides LANES and the batch.
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
        if lanes % world_size or batch_size % lanes:  # slices of the batch must end where lanes do
            lanes = world_size * max(1, min(LANES // world_size, batch_size // world_size))
        self.slots = _shares(batch_size, lanes, world_size)
        each = lanes // world_size
        self.lanes = range(rank * each, (rank + 1) * each)
        rng = np.random.default_rng([_SHUFFLE, seed, epoch])
        items = blocks.shuffled(rng, speeds)[: self.batches * batch_size]
        starts = self.slots * self.batches
        self.pools = [_pool_bounds(int(self.slots[lane + 1] - self.slots[lane]) * self.batches, lane, lanes, buffer)
                      for lane in range(lanes)]
        self.items = []  # of each lane of this rank, in the order in which they are taken
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
        """The items that a lane of this rank gives to a batch."""
        count = int(self.slots[lane + 1] - self.slots[lane])
        return self.items[lane - self.lanes.start][batch * count : (batch + 1) * count]

    def pools_of(self, lane: int, batch: int) -> range:
        """The numbers of the pools that a lane's part of a batch lies in."""
        count = int(self.slots[lane + 1] - self.slots[lane])
        bounds = self.pools[lane]
        first, last = np.searchsorted(bounds, [batch * count, (batch + 1) * count - 1], side="right") - 1
        return range(int(first), int(last) + 1)

    def of_pool(self, lane: int, pool: int) -> np.ndarray:
        """The items of a pool that are still to come, of those from start_batch on; empty past the last pool."""
        bounds = self.pools[lane]
        if pool + 1 >= len(bounds):
            return np.empty(0, np.int64)
        done = self.start_batch * int(self.slots[lane + 1] - self.slots[lane])
        return self.items[lane - self.lanes.start][max(int(bounds[pool]), done) : int(bounds[pool + 1])]


def _shares(batch_size: int, lanes: int, world_size: int) -> np.ndarray:
    """(lanes + 1,): where each lane's items begin in a batch; ranks' slices end where lanes do."""
    each = lanes // world_size
    within = np.arange(each) * (batch_size // world_size) // each
    starts = np.arange(world_size)[:, None] * (batch_size // world_size) + within
    return np.append(starts.reshape(-1), batch_size)


def _pool_bounds(items: int, lane: int, lanes: int, buffer: int) -> np.ndarray:
    """Where the pools of a lane begin, and its end. The first are of different lengths, so that lanes do not all read at
    once."""
    size = max(1, buffer // lanes)
    first = max(1, size * (lane + 1) // lanes)
    return np.unique(np.minimum(np.append(0, np.arange(first, items + size, size)), items))
