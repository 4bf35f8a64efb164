"""Targets of a student that came from anywhere: embeddings in files, whoever computed them, one vector an utterance."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from svq.backend.embeddings import EmbeddingReader, unit_length
from svq.data.ids import missing_message
from svq.data.words import Tokens
from svq.distill.cache import unit
from svq.distill.config import TargetsConfig
from svq.errors import UserError

_BLOCK = 1 << 13  # embeddings read together
_COPY = re.compile(r"sp[0-9.]+-")  # what the id of a copy at another speed begins with (svq.data.speeds)


class GivenTargets:
    """A student's targets from files of embeddings, for utterances `keys` (N,) in that order; several stand side by side.

    paths: scp files, archives (.ark), .npz files or folders, as svq.backend.embeddings reads them. Each is one teacher.
    From each teacher's vectors their mean over `keys` is taken off, and they are scaled to length 1, where the config
    says so: `dim` values in all. content: a digest of ids and values. An item is read when it is asked for.
    Raises UserError for an utterance without an embedding, a file that holds an id twice, vectors of several sizes, and
    vectors that are not finite or have no direction.
    """

    per_frame = False

    def __init__(self, paths: Sequence[str], config: TargetsConfig, keys: np.ndarray):
        self.length_normalize = config.length_normalize
        digest = hashlib.blake2b(digest_size=16)
        self.sources = [_Source(path, config.mean_normalize, keys, digest) for path in paths]
        self.dim = sum(source.reader.dim for source in self.sources)
        self.content = digest.hexdigest()

    def item(self, index: int, first: int, frames: int) -> np.ndarray:
        """Reads the target of utterance `index`, (D,) float32, wherever in the utterance the crop begins."""
        parts = [source.vector(index) for source in self.sources]
        return np.concatenate([unit(part) for part in parts] if self.length_normalize else parts)


class _Source:
    """The embeddings of one file, for `keys`; all are read once, checked, and added to `digest`."""

    def __init__(self, path, mean_normalize: bool, keys: np.ndarray, digest):
        self.reader = EmbeddingReader(path)
        self.rows = self.reader.index.find(Tokens.of_array(keys))
        self._require_all(keys)
        total = np.zeros(self.reader.dim)
        for first in range(0, len(keys), _BLOCK):
            rows = self.rows[first:first + _BLOCK]
            vectors = self.reader.read(rows)
            unit_length(vectors, self.reader.ids.take(rows), self.reader.path)
            digest.update(b"\0".join(keys[first:first + _BLOCK].tolist()) + b"\0" + vectors.astype("<f4").tobytes())
            total += vectors.sum(axis=0, dtype=np.float64)
        self.mean = (total / len(keys) * mean_normalize).astype(np.float32)

    def _require_all(self, keys: np.ndarray) -> None:
        lost = [key.decode() for key in keys[self.rows < 0]]
        if not lost:
            return
        mend = "give a file that has all of the training data"
        if all(map(_COPY.match, lost)):
            mend = ("copies at other speeds need targets of their own: compute these, too, from a data directory that holds "
                    "the copies (utils/perturb_data_dir_speed_3way.sh), or train without copies")
        raise UserError(f"{missing_message(lost, 'teacher embedding', self.reader.path)} (of {len(keys)} to train on); {mend}")

    def vector(self, index: int) -> np.ndarray:
        return self.reader.read(self.rows[index:index + 1])[0] - self.mean
