"""The schema of bit allocation, without torch."""

from __future__ import annotations

import dataclasses

from svq.quant.methods import FLOAT_BITS


@dataclasses.dataclass(frozen=True)
class AllocateConfig:
    """Settings of the allocation of bits to layers, with exactly one of three targets (average_bits, bytes, megabytes).

    candidates: bits to choose from, 1 to 8, and 32 for layers that stay in float.
    average_bits: the most bits per weight. bytes, megabytes (10^6 bytes): the largest size of the packed file.
    reserve: bytes of the target kept free in the packed file; none: as many as its calibration can take.
    sections: layers are sorted by falling trace and cut into so many sections of one bit width each (the
        paper: 4), of equal numbers of layers where possible, the first ones one larger; none: every layer by itself.
    ordered: a layer of a smaller trace never gets more bits than one of a larger. Without `sections`, this allows all
        ways to cut the sorted layers into one section for each candidate: 10^4 to 10^6 for 37 to 180 layers and four
        candidates, as many as the paper searches (four equal sections leave 4^4).
    Raises ValueError for values out of range, and for no target or several.
    """

    candidates: tuple[int, ...] = (2, 3, 4)
    average_bits: float | None = None
    bytes: int | None = None
    megabytes: float | None = None
    reserve: int | None = None
    sections: int | None = None
    ordered: bool = False

    def __post_init__(self):
        if not set(self.candidates) <= {*range(1, 9), FLOAT_BITS} or not set(self.candidates) - {FLOAT_BITS}:
            raise ValueError(f"candidates are {list(self.candidates)}; they must be from 1 to 8; "
                             f"{FLOAT_BITS} for float may stand beside these")
        targets = [name for name in ("average_bits", "bytes", "megabytes") if getattr(self, name) is not None]
        if len(targets) != 1:
            raise ValueError(f"{' and '.join(targets) or 'no target'} given; "
                             "give one of average_bits, bytes and megabytes")
        if not 0 < getattr(self, targets[0]) < float("inf"):
            raise ValueError(f"{targets[0]} is {getattr(self, targets[0])}; it must be positive and finite")
        if self.reserve is not None and self.reserve < 0:
            raise ValueError(f"reserve is {self.reserve}; it must not be negative")
        if self.sections is not None and self.sections < 1:
            raise ValueError(f"sections is {self.sections}; it must be at least 1")
