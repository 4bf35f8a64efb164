"""Looks up millions of ids, whole arrays at a time."""

from __future__ import annotations

import numpy as np

from svq.data.words import Tokens
from svq.errors import UserError, located

_ROWS = 1 << 15  # ids looked up at a time: few enough that they stay in the processor's cache


class IdIndex:
    """Positions of ids: an open-addressing hash table that is built and searched whole arrays at a time.

    ids: Tokens, without repeats; UserError for a repeat. source: the file that the message then names.
    """

    def __init__(self, ids, source="ids"):
        self.ids = ids
        self._bits = max(4, int(len(ids) * 4).bit_length())
        self._slots = np.full(1 << self._bits, -1, dtype=np.int32)
        hashes = ids.hashes()
        order = np.argsort(hashes, kind="stable")
        twin = np.flatnonzero(np.diff(hashes[order]) == 0)
        same = ids.take(order[twin]).equal(ids.take(order[twin + 1]))
        if same.any():
            at = twin[np.argmax(same)]
            first, second = (int(row) for row in order[at:at + 2])
            raise UserError(located(source, second + 1, f"`{ids[second]}` is already on line {first + 1}"))
        self._hashes = hashes
        waiting, slot = np.arange(len(ids)), self._home(hashes)
        while len(waiting):
            free = self._slots[slot] < 0
            self._slots[slot[free]] = waiting[free]     # where several want one slot, one gets it
            lost = self._slots[slot] != waiting
            waiting, slot = waiting[lost], self._next(slot[lost])

    def __len__(self):
        return len(self.ids)

    def _home(self, hashes):
        return (hashes >> np.uint64(64 - self._bits)).astype(np.int64)

    def _next(self, slot):
        return (slot + 1) & (len(self._slots) - 1)

    def find(self, wanted):
        """Finds the position of each word of `wanted` (Tokens) among the ids: (n,) int32, -1 where absent."""
        out = np.full(len(wanted), -1, dtype=np.int32)
        for first in range(0, len(wanted), _ROWS):
            part = wanted.take(slice(first, first + _ROWS))
            out[first:first + _ROWS] = self._find(part)
        return out

    def _find(self, wanted):
        hashes = wanted.hashes()
        found = np.full(len(wanted), -1, dtype=np.int32)
        waiting, slot = np.arange(len(wanted)), self._home(hashes)
        while len(waiting):
            held = self._slots[slot]
            match = held >= 0
            match[match] = self._hashes[held[match]] == hashes[waiting[match]]
            # Equal hashes are not yet equal ids: the bytes decide.
            match[match] = self.ids.take(held[match]).equal(wanted.take(waiting[match]))
            found[waiting[match]] = held[match]
            going = (held >= 0) & ~match
            waiting, slot = waiting[going], self._next(slot[going])
        return found

    def require(self, what, where, *wanted):
        """Finds the positions of each of the Tokens `wanted`, and gives a list of (n,) int32.

        UserError lists the absent ids: there is no `what` (e.g. "embedding") for them in the file `where`.
        """
        found = [self.find(words) for words in wanted]
        absent = [word for words, rows in zip(wanted, found) for word in words.take(rows < 0)]
        if absent:
            raise UserError(missing_message(absent, what, where))
        return found


def missing_message(absent, what, where, shown=5):
    """Gives the message that file `where` has no `what` for the absent ids: it counts them and lists the first."""
    names = list(dict.fromkeys(absent))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    mend = "; paths become ids by utils/take_trials.sh" if "/" in names[0] else ""
    return f"{where}: no {what} for {len(names)} id{'s' * (len(names) > 1)}: {' '.join(names[:shown])}{more}{mend}"
