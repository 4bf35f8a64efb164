"""How scores are analysed: settings that are checked, and written beside the results."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from svq.config import check_choices

RAW = "raw"  # the scale of scores as they are
SCALES = (RAW, "affine", "isotonic", "logistic")  # what a low-bit score is before it is set against float


@dataclasses.dataclass(frozen=True)
class System:
    """name: its folder under exp. bits: of a weight; None: what its summary.json says."""

    name: str
    bits: float | None = None

    @classmethod
    def parse(cls, text: str) -> System:
        """'name' or 'name:bits'; ValueError for anything else."""
        name, colon, bits = text.partition(":")
        try:
            number = float(bits) if colon else None
        except ValueError:
            number = math.nan
        if not name or not (number is None or 0 < number < math.inf):
            raise ValueError(f"'{text}': write a system as NAME or NAME:BITS")
        return cls(name, number)


@dataclasses.dataclass(frozen=True)
class ScoreAnalysisConfig:
    """Which systems are set against which, on which trials, and how.

    systems: `name` or `name:bits`; the first is the float system, the reference of all. trials: trial lists in their
        data directories; the first is the development list, and maps, calibrations, the threshold and the bins are
        from it alone. exp: folder of the systems. scores: BACKEND_NORM of the score files.
    scale: the scale of the break-downs, one of SCALES. sweep: the systems in which the knee over bits is looked for;
        empty: all but the reference, where no two of them have the same bits.
    operating_point: `eer`, the reference's EER threshold on the development list, or `bayes`, the threshold on its
        calibrated scores that p_target, c_miss and c_fa give. These also say what minDCF and actDCF are of.
    prior: weight of the target trials together in the fits of calibrations and maps.
    duration: the break-down goes by the `shorter` of a trial's utterances, or by the `test` utterance.
    duration_edges: seconds between its groups; empty: the quartiles of each list.
    bootstrap: resamplings of the speakers for the intervals; 0: none. seed: of these.
    ValueError for values out of range.
    """

    systems: tuple[str, ...]
    trials: tuple[str, ...]
    exp: str = "exp"
    scores: str = "cosine_none"
    scale: Literal["raw", "affine", "isotonic", "logistic"] = "affine"
    sweep: tuple[str, ...] = ()
    operating_point: Literal["eer", "bayes"] = "eer"
    p_target: float = 0.01
    c_miss: float = 1.0
    c_fa: float = 1.0
    prior: float = 0.5
    duration: Literal["shorter", "test"] = "shorter"
    duration_edges: tuple[float, ...] = ()
    bootstrap: int = 200
    seed: int = 0

    def __post_init__(self):
        check_choices(self)
        names = [system.name for system in self.parsed]
        if len(names) < 2:
            raise ValueError("systems must name the float system and at least one other")
        for what, listed in (("systems", names), ("trials", self.trials)):
            double = [item for i, item in enumerate(listed) if item in listed[:i]]
            if double:
                raise ValueError(f"{what} names {double[0]} twice")
        if not self.trials:
            raise ValueError("trials must name the development list first, then those to report on")
        for name in self.sweep:
            if name not in names[1:]:
                raise ValueError(f"sweep names {name}, which is not one of the compared systems")
        for name in ("p_target", "prior"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        for name in ("c_miss", "c_fa"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive and finite")
        if self.bootstrap < 0:
            raise ValueError(f"bootstrap is {self.bootstrap}; it must not be negative")
        edges = self.duration_edges
        if any(low >= high for low, high in zip((0.0, *edges), edges)):
            raise ValueError(f"duration_edges are {', '.join(map(str, edges))}; they must rise from above 0")

    @property
    def parsed(self) -> list[System]:
        return [System.parse(text) for text in self.systems]
