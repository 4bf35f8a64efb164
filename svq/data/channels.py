"""Which channel of a recording is meant: Kaldi's reco2file_and_channel, lines `recording file channel`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from svq.data.rxfilename import Rx, parse
from svq.data.table import Table
from svq.errors import UserError, located


def channel_index(text: str) -> int:
    """The channel, from 0, of Kaldi's A, B, ... or 1, 2, ...; ValueError for anything else."""
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text) - 1
    if len(text) == 1 and "A" <= text <= "Z":
        return ord(text) - ord("A")
    raise ValueError(f"`{text}` is no channel: A, B, ... or 1, 2, ...")


def wrong_lines(table: Table) -> list[tuple[int, str]]:
    """(0-based line, what is wrong with it) of a reco2file_and_channel."""
    (_, channels), ok = table.columns(2)
    wrong = {}
    for text in np.unique(channels[ok]).tolist():
        try:
            channel_index(text.decode())
        except ValueError as error:
            wrong |= dict.fromkeys(np.flatnonzero(ok & (channels == text)).tolist(), str(error))
    wrong |= dict.fromkeys(np.flatnonzero(~ok).tolist(), "is not `recording file channel`")
    return sorted(wrong.items())


class Recordings(Table):
    """A wav.scp whose values are `Rx` with a channel where `named`, a reco2file_and_channel, has one; else str.

    A recording of one channel needs no line there, and what its line says does not matter: whoever made the wav.scp
    has taken the channel already, as Kaldi's recipes do with sph2pipe.
    """

    def __init__(self, wav: Table, named: Table):
        self.__dict__.update(wav.__dict__)
        self.named = named

    def value(self, i: int) -> str | Rx:
        return self._of_channel(self.key(i), super().value(i))

    def items(self, indices: np.ndarray | None = None) -> Iterator[tuple[str, str | Rx]]:
        for key, value in super().items(indices):
            yield key, self._of_channel(key, value)

    def _of_channel(self, key: str, value: str) -> str | Rx:
        if key not in self.named:
            return value
        line = self.named.index(key)
        try:
            _, channel = self.named.value(line).split()
            return parse(value).of_channel(channel_index(channel))
        except ValueError as error:
            why = str(error) if "channel:" in str(error) else "is not `recording file channel`"
            raise UserError(located(self.named.path, line + 1, why)) from None
