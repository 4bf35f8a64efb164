"""Sums embeddings by speaker exactly, so that means have the same bytes in whatever order and parts utterances come.

A value becomes two integers, a coarse and a fine part, and integers are summed. No value above 2**-25 in magnitude loses
a bit; a smaller one is rounded to a multiple of 2**-49.
"""

from __future__ import annotations

import os
import zipfile

import numpy as np

from svq.atomic import atomic_path
from svq.errors import UserError

_COARSE, _FINE = 12, 49  # binary places of the two parts
_LIMIT = 2.0 ** 24       # largest magnitude of a value: 2**27 of them still fit 64 bits
_MOST = 1 << 26          # utterances of all speakers together
_ARRAYS = ("coarse", "fine", "counts")


class SpeakerSums:
    """Running sums of embeddings: of `speakers` speakers, `dim` values each.

    counts: (speakers,) int64, utterances that were added of each. coarse, fine: (speakers, dim) int64.
    """

    def __init__(self, speakers: int, dim: int):
        self.coarse, self.fine = (np.zeros((speakers, dim), np.int64) for _ in range(2))
        self.counts = np.zeros(speakers, np.int64)

    def add(self, values, speaker) -> None:
        """Adds embeddings `values` (b, dim), finite floats, to the sums of `speaker` (b,) ints; b may be 0.

        UserError for a value beyond 2**24 in magnitude.
        """
        if not len(values):
            return
        values = np.asarray(values, np.float64)
        refused = too_large(values)
        if refused is not None:
            raise refused
        order = np.argsort(speaker, kind="stable")
        values, speaker = values[order], np.asarray(speaker)[order]
        first = np.flatnonzero(np.concatenate([[True], speaker[1:] != speaker[:-1]]))
        whole = np.rint(values * 2.0 ** _COARSE)
        rest = np.rint((values - whole * 2.0 ** -_COARSE) * 2.0 ** _FINE)
        self.coarse[speaker[first]] += np.add.reduceat(whole.astype(np.int64), first, axis=0)
        self.fine[speaker[first]] += np.add.reduceat(rest.astype(np.int64), first, axis=0)
        self.counts[speaker[first]] += np.diff(np.append(first, len(speaker)))

    def merge(self, other: "SpeakerSums") -> None:
        """Adds the sums of other utterances, of the same speakers and dimension."""
        for name in _ARRAYS:
            getattr(self, name).__iadd__(getattr(other, name))

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Gives the mean of each speaker, (speakers, dim) float32, and that of all utterances, (dim,) float32.

        UserError where a speaker has no utterance, or there are more than 2**26 utterances.
        """
        total = int(self.counts.sum())
        if not self.counts.all():
            raise UserError(f"{int((self.counts == 0).sum())} of {len(self.counts)} speakers have no embedding")
        if total > _MOST:
            raise UserError(f"{total} utterances; a mean is taken of {_MOST} at most")
        of_each = _value(self.coarse, self.fine) / self.counts[:, None]
        return of_each.astype(np.float32), (_value(self.coarse.sum(axis=0), self.fine.sum(axis=0)) / total).astype(np.float32)

    def save(self, path, made_from: str, done: int) -> None:
        """Writes the sums to the file `path`, atomically, with a digest of what they were made from and `done`, a number."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, made_from=np.array(made_from), done=np.array(done), **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path) -> tuple["SpeakerSums", str, int] | None:
        """Reads (sums, made_from, done) as `save` wrote them; None where there is no such file, or it is cut short."""
        if not os.path.exists(path):
            return None
        try:
            with np.load(path, allow_pickle=False) as found:
                sums = cls(*found["coarse"].shape)
                for name in _ARRAYS:
                    getattr(sums, name)[:] = found[name]
                return sums, str(found["made_from"]), int(found["done"])
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
            return None


def too_large(values: np.ndarray) -> UserError | None:
    """Gives the UserError for embeddings with a value beyond 2**24 in magnitude, or one that is no number; else None."""
    largest = np.abs(values).max(initial=0.0)
    if largest <= _LIMIT:
        return None
    return UserError(f"an embedding has a value of {largest:g}; means are taken of values up to {_LIMIT:g}: is the model sound?")


def _value(coarse: np.ndarray, fine: np.ndarray) -> np.ndarray:
    return coarse * 2.0 ** -_COARSE + fine * 2.0 ** -_FINE
