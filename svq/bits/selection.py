"""Selection of the blocks to quantize, the others staying in float, by the measured loss of quantizing each alone.

Losses are assumed to add up: quantizing several blocks costs the sum of what each costs alone. Errors of one block may
in fact hide or feed those of another, so the chosen set should be measured jointly. A loss below zero, which comes
from the noise of a small list, counts as zero. The quantization has one number of bits; the choice is between that and
float.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from svq.config import check_choices
from svq.errors import UserError

_HEADER_SLACK = 64  # bytes for each block by which the header's length may differ from the sum of its parts
_MAX_CUTS = 200
COSTS = {"eer": "eer_delta", "mindcf": "mindcf_delta", "drift": "drift"}  # cost -> column of blocks.tsv


@dataclasses.dataclass(frozen=True)
class Preset:
    """A choice of blocks that a paper recommends.

    bits: bits of all layers that are quantized. left_in_float: a network -> names of the blocks that stay in float;
    empty where the preset is not for that network. networks: the networks it is for, in words. source: the paper.
    """

    bits: int
    left_in_float: Callable[..., list[str]]
    networks: str
    source: str


def _later_se_res2_blocks(net) -> list[str]:
    # Imported here, so that looking up presets and their names needs no torch.
    from svq.nets.blocks import blocks_of
    from svq.nets.ecapa import SERes2Block

    blocks = [name for name in blocks_of(net) if isinstance(net.get_submodule(name), SERes2Block)]
    return blocks[1:3] if len(blocks) == 3 else []


PRESETS = {
    "ecapa-selective": Preset(
        8, _later_se_res2_blocks, "ECAPA-TDNN",
        "all but the second and third SE-Res2Block at 8 bits: Optimization of DNN-based speaker verification model "
        "through efficient quantization technique, arXiv 2407.08991"),
}


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """Settings (`select` of a config) of how svq.bin.select chooses the blocks left in float; exactly one goal.

    The goals are preset, max_eer_loss, bytes and megabytes. preset: a paper's recommendation, by its name in PRESETS.
    max_eer_loss: the smallest file whose EER rises by at most so many absolute per cent. bytes, megabytes (10^6 bytes):
    the least loss in a packed file of at most that size. search: `exact` (0-1 knapsack) or `greedy` (by loss per byte,
    measured jointly after every step). cost: the loss that is kept low for a size: `eer`, `mindcf` or `drift`.
    Raises ValueError for no goal or several, for values out of range, and for max_eer_loss with another cost than eer.
    """

    preset: str | None = None
    max_eer_loss: float | None = None
    bytes: int | None = None
    megabytes: float | None = None
    search: Literal["exact", "greedy"] = "exact"
    cost: Literal[tuple(COSTS)] = "eer"

    def __post_init__(self):
        check_choices(self)
        goals = [name for name in ("preset", "max_eer_loss", "bytes", "megabytes") if getattr(self, name) is not None]
        if len(goals) != 1:
            raise ValueError(f"{' and '.join(goals) or 'no goal'} given; give one of preset, max_eer_loss, bytes and "
                             "megabytes")
        if goals != ["preset"] and not 0 <= getattr(self, goals[0]) < float("inf"):
            raise ValueError(f"{goals[0]} is {getattr(self, goals[0])}; it must not be negative")
        if goals == ["max_eer_loss"] and self.cost != "eer":
            raise ValueError(f"a budget of EER goes with cost eer, not {self.cost}")


@dataclasses.dataclass(frozen=True)
class Selection:
    """The problem of choosing among B blocks.

    loss: (B,) float64, of quantizing each block alone. file_bytes: computes the size of the packed file for a mask
    (B,), True for a quantized block. quantized: its size with all blocks quantized. saved: (B,) int64, the bytes that
    quantizing each block takes off that file. smallest: its size with just the blocks quantized that make it smaller.
    """

    blocks: tuple[str, ...]
    loss: np.ndarray
    file_bytes: Callable[[np.ndarray], int]

    def __post_init__(self):
        object.__setattr__(self, "loss", np.maximum(np.asarray(self.loss, dtype=np.float64), 0.0))
        everything = np.ones(len(self.blocks), dtype=bool)
        quantized = self.file_bytes(everything)
        saved = [self.file_bytes(_without(everything, i)) - quantized for i in range(len(self.blocks))]
        object.__setattr__(self, "quantized", quantized)
        object.__setattr__(self, "saved", np.array(saved, dtype=np.int64))
        # Some blocks save nothing: a codebook may be larger than a small layer's weights.
        object.__setattr__(self, "smallest", self.file_bytes(self.saved > 0))

    def names(self, mask: np.ndarray) -> list[str]:
        """Names the blocks that `mask`, (blocks,) bool, chooses."""
        return [name for name, chosen in zip(self.blocks, mask) if chosen]

    def total(self, mask: np.ndarray) -> float:
        """Adds up the losses of the blocks quantized in a mask (B,)."""
        return float(self.loss[mask].sum())

    def order(self) -> list[int]:
        """Lists the blocks that quantization makes smaller, by rising loss per byte saved.

        Of blocks with equal loss per byte the one that saves more comes first.
        """
        gains = [i for i in range(len(self.blocks)) if self.saved[i] > 0]
        return sorted(gains, key=lambda i: (self.loss[i] / self.saved[i], -self.saved[i], i))


def _without(mask: np.ndarray, index: int) -> np.ndarray:
    mask = mask.copy()
    mask[index] = False
    return mask


def _with(mask: np.ndarray, index: int) -> np.ndarray:
    mask = mask.copy()
    mask[index] = True
    return mask


def exact_within_loss(problem: Selection, most: float) -> np.ndarray:
    """Finds the mask (B,) of quantized blocks that saves the most bytes with a total loss of at most `most`.

    This is a 0-1 knapsack. The bytes that a block saves include its part of the header, which hardly depends on the
    other blocks. Raises UserError where every block stays in float.
    """
    return _checked(knapsack(problem.saved, problem.loss, most), most)


def exact_within_bytes(problem: Selection, target: int) -> np.ndarray:
    """Finds the mask (B,) of quantized blocks of least total loss whose packed file has at most `target` bytes.

    This is a 0-1 knapsack of the blocks to leave in float, exact to the byte: the solver is allowed a little more, and
    solutions whose file is larger than `target` are ruled out until one fits. Raises UserError where the target cannot
    be met, and where it has room for every block in float.
    """
    _check_target(problem, target)
    slack = _HEADER_SLACK * len(problem.blocks)
    left = knapsack(problem.loss, problem.saved, target - problem.quantized, slack,
                    lambda mask: problem.file_bytes(~mask) <= target)
    return _not_all_in_float(~left, target)


def greedy_within_loss(problem: Selection, most: float,
                       measured: Callable[[np.ndarray], float] | None = None) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Quantizes block after block, by rising loss per byte, and keeps those with which the loss is at most `most`.

    measured: measures the loss of a mask of quantized blocks jointly; None: the sum of the single losses is taken.
    Yields (block, whether it is quantized, mask so far (B,)) for every block tried. Raises UserError where none is
    quantized in the end.
    """
    mask = np.zeros(len(problem.blocks), dtype=bool)
    loss = measured or problem.total
    for i in problem.order():
        tried = _with(mask, i)
        taken = loss(tried) <= most + 1e-9
        mask = tried if taken else mask
        yield i, taken, mask
    _checked(mask, most)


def greedy_within_bytes(problem: Selection, target: int) -> Iterator[tuple[int, bool, np.ndarray]]:
    """Quantizes block after block, by rising loss per byte, until the packed file has at most `target` bytes.

    Then it puts blocks back in float, by falling loss, as there is room for them. Yields (block, True for quantized or
    False for put back, mask so far (B,)). Raises UserError as `exact_within_bytes` does.
    """
    _check_target(problem, target)
    mask = np.zeros(len(problem.blocks), dtype=bool)
    for i in problem.order():
        if problem.file_bytes(mask) <= target:
            break
        mask = _with(mask, i)
        yield i, True, mask
    for i in sorted(np.flatnonzero(mask), key=lambda i: (-problem.loss[i], i)):
        if problem.loss[i] > 0 and problem.file_bytes(_without(mask, i)) <= target:
            mask = _without(mask, i)
            yield int(i), False, mask
    _not_all_in_float(mask, target)


def knapsack(values: Sequence[float], weights: Sequence[float], capacity: float, slack: float = 0.0,
             fits: Callable[[np.ndarray], bool] | None = None) -> np.ndarray:
    """Finds the mask (n,) of items of the largest total value whose total weight is within `capacity`.

    fits: decides in place of the sum of the weights, which may then exceed `capacity` by `slack`. Solutions that do not
    fit are excluded one by one; after 200 of them the slack is given up. Items that weigh nothing are taken; other
    items without value are not. Solved by scipy.optimize.milp.
    """
    values, weights = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    free = (weights <= 0) & (values >= 0)
    open_ = np.flatnonzero(~free & (values > 0))
    room = capacity - weights[free].sum()
    accept = fits or (lambda mask: weights[mask].sum() <= capacity + 1e-9)
    cuts: list[np.ndarray] = []
    while len(cuts) <= 2 * _MAX_CUTS:
        inside = _solve(values[open_], weights[open_], room + (slack if len(cuts) < _MAX_CUTS else 0.0), cuts)
        mask = free.copy()
        mask[open_[inside]] = True
        if accept(mask):
            return mask
        if not inside.any():
            break
        cuts.append(inside)
    return free


def _solve(values: np.ndarray, weights: np.ndarray, room: float, cuts: Sequence[np.ndarray]) -> np.ndarray:
    """Solves a knapsack of positive values and weights without the sets in `cuts`: (n,) bool; all false if none fit."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    none = np.zeros(len(values), dtype=bool)
    if not len(values) or room < 0:
        return none
    # In units of the largest value and weight the solver's absolute tolerances do no harm.
    constraints = [LinearConstraint((weights / weights.max())[None], -np.inf, room / weights.max())]
    for inside in cuts:  # at least one item must differ from each
        signs = np.where(inside, 1.0, -1.0)
        constraints.append(LinearConstraint(signs[None], -np.inf, inside.sum() - 1))
    found = milp(-values / values.max(), integrality=np.ones(len(values)), bounds=Bounds(0, 1), constraints=constraints,
                 options={"mip_rel_gap": 0})
    return none if found.x is None else found.x > 0.5


def _checked(mask: np.ndarray, most: float) -> np.ndarray:
    if not mask.any():
        raise UserError(f"a loss of at most {most:g} leaves every block in float: nothing is quantized; raise it, or "
                        "take more bits")
    return mask


def _check_target(problem: Selection, target: int) -> None:
    if problem.smallest > target:
        raise UserError(f"a file of {target} bytes cannot be met: with all blocks quantized it has {problem.smallest} "
                        "bytes; raise the target or take fewer bits")


def _not_all_in_float(mask: np.ndarray, target: int) -> np.ndarray:
    if not mask.any():
        raise UserError(f"a file of {target} bytes has room for every block in float: nothing is quantized; lower the "
                        "target")
    return mask
