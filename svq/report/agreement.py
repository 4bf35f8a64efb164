"""How near the embeddings of NAME-int8, a system in INT8 arithmetic, are to those of NAME, which it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from svq.backend.embeddings import EmbeddingReader, unit_length
from svq.errors import UserError
from svq.names import INT8
from svq.report.contents import Agreement

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9)  # of the utterances, at or below each quantile
_BINS, _OUTSIDE = 40, 0.002
_BLOCK = 1 << 13  # embeddings held at a time


def int8_agreement(exp, systems: Iterable[str]) -> dict[str, dict[str, Agreement]]:
    """NAME-int8 -> set -> Agreement, of those of `systems` that have embeddings of some set, as NAME does, under `exp`.

    Raises UserError for embeddings that cannot be read, are not finite or zero, or have not the same dimension.
    """
    found = {}
    for system in systems:
        twin = Path(exp) / system.removesuffix(INT8)
        if not system.endswith(INT8) or not twin.is_dir():
            continue
        sets = {}
        for path in sorted((Path(exp) / system / "embeddings").glob("*/embedding.scp")):
            other = twin / "embeddings" / path.parent.name / path.name
            if other.is_file():
                values = cosines(path, other)
                if len(values):
                    sets[path.parent.name] = summarized(values)
        if sets:
            found[system] = sets
    return found


def cosines(path, other) -> np.ndarray:
    """(n,) float64: between the embeddings of two scp files, of every utterance that is in both."""
    first, second = EmbeddingReader(path), EmbeddingReader(other)
    if first.dim != second.dim:
        raise UserError(f"{path}: embeddings of {first.dim} values, but {other} has {second.dim}; redo stage 6")
    there = second.index.find(first.ids)
    rows = np.flatnonzero(there >= 0)
    out = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = rows[start:start + _BLOCK]
        pair = [unit_length(reader.read(which).astype(np.float64), reader.ids.take(which), reader.path)
                for reader, which in ((first, part), (second, there[part]))]
        out[start:start + _BLOCK] = np.einsum("ij,ij->i", *pair)
    return np.clip(out, -1, 1)


def summarized(values: np.ndarray) -> Agreement:
    """`values`: cosines (n,), n above 0."""
    low = min(float(np.quantile(values, _OUTSIDE)), 1 - 1e-6)
    counts, edges = np.histogram(values, _BINS, (low, 1.0))
    return Agreement(len(values), tuple(np.quantile(values, SHARES).tolist()), counts, edges)
