"""What a report holds, apart from how it is collected and how it is drawn.

Among it: how near the embeddings of NAME-int8, a system in INT8 arithmetic, are to those of NAME, which it comes
from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from svq.backend.embeddings import EmbeddingReader, unit_length
from svq.errors import UserError
from svq.names import INT8
from svq.report.results import Row, unique


@dataclasses.dataclass(frozen=True)
class Scored:
    """The scores of the plotted back end and normalization, for one system and trial list.

    target, nontarget: raw scores, llr_*: the calibrated ones (natural log), all 1-D float arrays.
    """

    target: np.ndarray
    nontarget: np.ndarray
    llr_target: np.ndarray
    llr_nontarget: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layer:
    """A quantized layer to draw: its float weights and its levels, scaled by alpha."""

    name: str
    weights: np.ndarray
    levels: np.ndarray
    bits: int


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Cosines between a system's embeddings and those of its INT8 twin, over the utterances that both have.

    quantiles: at `svq.report.contents.SHARES`. counts (bins,), edges (bins + 1,): their histogram up to 1, without the
    lowest 0.2 %.
    """

    utterances: int
    quantiles: tuple[float, ...]
    counts: np.ndarray
    edges: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
    """All that the page shows.

    scored: (system, list) -> Scored of `backend` and `norm`. curves: system -> columns of its
    curves.csv, where it has one. layers: quantized system -> up to three layers. provenance:
    system -> the tree of its provenance.yaml. agreement: NAME-int8 -> set -> how near to NAME. parents: quantized
    system -> the float one that it was made from, where that is there.
    """

    title: str
    rows: list[Row]
    backend: str
    norm: str
    scored: dict[tuple[str, str], Scored]
    curves: dict[str, dict[str, np.ndarray]]
    layers: dict[str, list[Layer]]
    provenance: dict[str, dict]
    agreement: dict[str, dict[str, Agreement]] = dataclasses.field(default_factory=dict)
    parents: dict[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        return unique(row.system for row in self.rows)

    @property
    def lists(self) -> list[str]:
        return unique(row.trials for row in self.rows)

    @property
    def bits(self) -> dict[str, float]:
        return {row.system: row.avg_bits for row in self.rows}

    def headline(self) -> list[Row]:
        return [r for r in self.rows if (r.backend, r.norm) == (self.backend, self.norm)]

    def dashed(self, system: str) -> bool:
        return self.bits[system] < 32


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
