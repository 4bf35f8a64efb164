"""What a report holds, apart from how it is collected and how it is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np

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

    quantiles: at `svq.report.agreement.SHARES`. counts (bins,), edges (bins + 1,): their histogram up to 1, without the
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
