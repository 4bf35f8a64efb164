"""Allocation of bits to layers: the least total sensitivity that fits a size.

Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization", section IV,
step 2. Total sensitivity is eq. 8: over all layers, the sum of the average Hessian trace times ||W - Q||^2, with Q the
quantized weights before any finetuning. Under a limit of the model's size (eq. 9), the paper searches among layers
sorted by trace and cut into four sections of one bit width each. Eq. 9 is a multiple-choice knapsack. An integer
program solves it in a fraction of a second, with each layer by itself; for sections the tables of their layers are
added up.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from svq.bits.config import AllocateConfig
from svq.bits.table import LayerBits, check_bits
from svq.errors import UserError
from svq.pack.file import packed_bytes
from svq.pack.format import packed_size
from svq.pack.writing import value_bytes
from svq.quant.api import FLOAT_BITS, QuantConfig, float_weight, quantizable
from svq.quant.quantizers import make_quantizer

FRONTIER_COLUMNS = ("bytes", "average_bits", "objective")


def calibration_bytes(embed_dim: int) -> int:
    """Computes the most bytes that the calibration of svq.bin.calibrate takes in a packed file.

    embed_dim: size of the network's embeddings. The calibration is JSON inside a JSON string (keys, floats of the most
    digits, the mean embedding as float32 in base64), in a header that is padded to a multiple of eight bytes.
    """
    longest = {"offset": -2.2250738585072014e-308, "prior": 2.2250738585072014e-308, "score": "cosine_none",
               "slope": 2.2250738585072014e-308, "mean": "A" * (4 * -(-4 * embed_dim // 3))}
    return len(json.dumps(json.dumps(longest, separators=(",", ":")))) + 8


@dataclasses.dataclass(frozen=True)
class Problem:
    """Tables for L layers, in the order of the network, and C candidates in ascending order.

    perturbation: (L, C) float64, ||W - Q||^2. data: (L, C) int64, bytes of the packed file that belong to the layer
    alone. weights: (L,) int64, numbers of weights. traces: (L,) float64, as estimated.
    file_bytes: computes the size of the packed file, without its calibration, for bits (L,) of the layers.
    calibration: the most bytes that the calibration takes.
    """

    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    candidates: tuple[int, ...]
    perturbation: np.ndarray
    data: np.ndarray
    weights: np.ndarray
    traces: np.ndarray
    file_bytes: Callable[[Sequence[int]], int]
    calibration: int = 0

    def bits(self, choice: np.ndarray) -> list[int]:
        """Lists the bits (L,) of a choice (L,) of columns."""
        return [self.candidates[k] for k in choice]

    def sensitivity(self) -> np.ndarray:
        """Computes the terms (L, C) of eq. 8. A trace estimated to be below zero counts as zero."""
        return np.maximum(self.traces, 0.0)[:, None] * self.perturbation

    def objective(self, choice: np.ndarray) -> float:
        """Computes the total sensitivity (eq. 8) of a choice (L,) of columns."""
        return float(at(self.sensitivity(), choice).sum())

    def data_bytes(self, choice: np.ndarray) -> int:
        """Adds up the bytes of the packed file that belong to single layers, for a choice (L,) of columns."""
        return int(at(self.data, choice).sum())

    def size(self, choice: np.ndarray) -> int:
        """Computes the bytes of the packed file, without its calibration, for a choice (L,) of columns."""
        return self.file_bytes(self.bits(choice))

    def average_bits(self, choice: np.ndarray) -> float:
        """Averages the bits per weight over all layers, for a choice (L,) of columns."""
        return float(np.dot(self.bits(choice), self.weights) / self.weights.sum())


def make_problem(net: nn.Module, quant: QuantConfig, model, sensitivities, candidates: Sequence[int], path) -> Problem:
    """Makes the Problem of float `net`, to be quantized with `quant` and packed with config `model` (a ModelConfig).

    sensitivities: rows with layer, shape and trace (average Hessian trace). path: the table that has them, named in
    errors. Raises UserError where they are not of this network, when `quant` gives single layers their bits, and when
    the method of `quant` does not have the candidates.
    """
    if quant.layers:
        raise UserError("quant.layers gives layers their bits, and so does the allocation; drop one of them")
    rows = [LayerBits(row.layer, tuple(row.shape), row.trace, FLOAT_BITS) for row in sensitivities]
    check_bits(rows, net, path)
    trace_of = {row.layer: row.trace for row in rows}
    candidates = tuple(sorted(set(candidates)))
    layers = dict(quantizable(net))
    try:
        for bits in candidates:
            dataclasses.replace(quant, layers=dict.fromkeys(layers, bits))
    except ValueError as error:
        raise UserError(f"candidates {', '.join(map(str, candidates))} do not go with `quant`: {error}") from None
    tables = [layer_tables(float_weight(layer), quant, candidates) for layer in layers.values()]

    def file_bytes(bits: Sequence[int]) -> int:
        by_name = dict(zip(layers, map(int, bits)))
        return packed_bytes(net, dataclasses.replace(quant, layers=by_name), model)

    return Problem(
        layers=tuple(layers),
        shapes=tuple(tuple(float_weight(layer).shape) for layer in layers.values()),
        candidates=candidates,
        perturbation=np.array([table[0] for table in tables]),
        data=with_float_header(np.array([table[1] for table in tables]), candidates, file_bytes),
        weights=np.array([float_weight(layer).numel() for layer in layers.values()]),
        traces=np.array([trace_of[name] for name in layers]),
        file_bytes=file_bytes,
        calibration=calibration_bytes(model.embed_dim),
    )


@torch.no_grad()
def layer_tables(weight: torch.Tensor, quant: QuantConfig, candidates: Sequence[int]) -> tuple[list, list]:
    """Computes, for each of the candidates, ||W - Q||^2 in float64 and the bytes of a layer in the packed file.

    The bytes are those of codes and codebook (or scale and zero point), or of the float weight.
    """
    perturbation, data = [], []
    for bits in candidates:
        if bits == FLOAT_BITS:
            perturbation.append(0.0)
            data.append(weight.numel() * weight.element_size())
            continue
        quantizer = make_quantizer(weight, quant, bits).eval()
        perturbation.append(float((weight.double() - quantizer(weight).double()).square().sum()))
        data.append(packed_size(weight.numel(), bits) + value_bytes(quantizer))
    return perturbation, data


def with_float_header(data: np.ndarray, candidates: tuple[int, ...], file_bytes) -> np.ndarray:
    """Returns `data` (L, C) with the bytes of layers in float corrected by what they save in the file's header."""
    if FLOAT_BITS not in candidates or len(data) == 1:
        return data
    data = data.copy()
    plain = [candidates[0]] * len(data)
    before = file_bytes(plain)
    for i in range(len(data)):
        difference = file_bytes([*plain[:i], FLOAT_BITS, *plain[i + 1:]]) - before
        data[i, -1] = data[i, 0] + difference
    return data


def at(table: np.ndarray, choice: np.ndarray) -> np.ndarray:
    """Takes the entries (L,) of a table (L, C) in the columns `choice` (L,)."""
    return np.take_along_axis(table, np.asarray(choice)[:, None], axis=1)[:, 0]


def choose(costs: np.ndarray, sizes: np.ndarray, budget: int, ordered: bool = False) -> np.ndarray | None:
    """Chooses a column for each row, for the least total cost whose total size is within `budget`.

    costs: (L, C), finite. sizes: (L, C) integers. ordered: columns never rise from row to row.
    Returns (L,) column indices, or None where no choice fits. Optimal within the solver's tolerance, about 1e-10 of the
    largest cost.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, kron

    rows, columns = costs.shape
    least = sizes.min(axis=1, keepdims=True)
    spare = budget - least.sum()
    if spare < 0:
        return None
    # Only differences within a row matter. Without the common parts, and in units of the largest difference, the
    # solver's absolute tolerances do no harm.
    loss = costs - costs.min(axis=1, keepdims=True)
    loss = loss * (1e6 / (loss.max() or 1.0))
    constraints = [
        LinearConstraint(kron(eye_array(rows), np.ones((1, columns))), 1, 1),
        LinearConstraint(csr_array((sizes - least).reshape(1, -1).astype(float)), -np.inf, float(spare)),
    ]
    if ordered and rows > 1 and columns > 1:
        falls = eye_array(rows - 1, rows) - eye_array(rows - 1, rows, k=1)
        # For every column c but the first: a row may choose c or a later column only if the row before does.
        constraints.append(LinearConstraint(kron(falls, np.triu(np.ones((columns, columns)))[1:]), 0, np.inf))
    found = milp(loss.ravel(), integrality=np.ones(loss.size), bounds=Bounds(0, 1), constraints=constraints,
                 options={"mip_rel_gap": 0})
    if found.status == 2:  # nothing is within the budget
        return None
    if found.x is None:
        raise RuntimeError(f"the solver failed: {found.message}")
    choice = found.x.reshape(rows, columns).argmax(axis=1)
    if ordered:
        return choice
    # Where more bytes buy nothing (a trace of zero), the solver takes any number; take the fewest.
    return np.where(costs <= at(costs, choice)[:, None], sizes, np.iinfo(np.int64).max).argmin(axis=1)


def sections_of(traces: np.ndarray, count: int | None) -> list[np.ndarray]:
    """Cuts layers into `count` sections, or one for each layer (None), and gives the indices of each one's layers.

    Sections, and layers in them, are in the order of falling trace; layers of the same trace stay in the order of the
    network. Where the number of layers is no multiple of `count`, the first sections get one layer more than the last.
    """
    order = np.argsort(-traces, kind="stable")
    return np.array_split(order, min(count or len(order), len(order)))


class Allocator:
    """Solves one Problem for any size, with layers by themselves or in sections."""

    def __init__(self, problem: Problem, sections: int | None = None, ordered: bool = False):
        self.problem, self.ordered = problem, ordered
        self.sections = sections_of(problem.traces, sections)
        self.costs = self._by_section(problem.sensitivity())
        sizes = self._by_section(problem.data)
        self.smallest = self._by_layer(choose(sizes, np.zeros_like(sizes), 0, ordered))

    def _by_section(self, table: np.ndarray) -> np.ndarray:
        return np.stack([table[rows].sum(axis=0) for rows in self.sections])

    def _by_layer(self, columns: np.ndarray) -> np.ndarray:
        choice = np.empty(len(self.problem.layers), dtype=np.int64)
        for rows, column in zip(self.sections, columns):
            choice[rows] = column
        return choice

    def within(self, sizes: np.ndarray, budget: int) -> np.ndarray | None:
        """Finds the choice (L,) of least sensitivity whose sizes, from a table (L, C), sum up to at most `budget`.

        Returns None where there is none.
        """
        columns = choose(self.costs, self._by_section(sizes), budget, self.ordered)
        return None if columns is None else self._by_layer(columns)

    def within_average(self, average_bits: float) -> np.ndarray:
        """Finds the choice (L,) of least sensitivity with at most `average_bits` bits per weight.

        Raises UserError where the fewest bits are more.
        """
        problem = self.problem
        bits = problem.weights[:, None] * np.array(problem.candidates)
        # In decimal: 2.3 bits for each of 10 weights are 23 bits, not 22.999...
        choice = self.within(bits, int(Fraction(str(average_bits)) * int(problem.weights.sum())))
        if choice is None:
            fewest = problem.average_bits(self.smallest)
            raise UserError(f"an average of {average_bits:g} bits cannot be met: the fewest are {fewest:g}, "
                            f"with {problem.candidates[0]} bits for every layer")
        return choice

    def within_bytes(self, target: int, reserve: int = 0) -> np.ndarray:
        """Finds the choice (L,) of least sensitivity whose packed file leaves `reserve` of `target` bytes free.

        The tables lack the header, whose length hardly depends on the bits. So its length in one solution is assumed
        for the next, until that changes nothing. Raises UserError where even the smallest file is too large.
        """
        problem = self.problem
        least = problem.size(self.smallest)
        if least + reserve > target:
            more = f" and needs {reserve} for the calibration" if reserve else ""
            raise UserError(f"a file of {target} bytes cannot be met: the smallest, with {problem.candidates[0]} bits "
                            f"for every layer, has {least} bytes{more}; raise the target to {least + reserve}")
        best = choice = self.smallest
        tried = set()
        while (budget := target - reserve - (problem.size(choice) - problem.data_bytes(choice))) not in tried:
            tried.add(budget)
            choice = self.within(problem.data, budget)
            if choice is None:
                break
            if problem.size(choice) <= target - reserve and problem.objective(choice) <= problem.objective(best):
                best = choice
        return best

    def frontier(self, points: int = 100) -> list[tuple[int, float, float]]:
        """Lists (bytes, average bits, objective) of the best allocations at sizes from the smallest to the largest.

        Bytes ascend and the objective falls: a point that is no better than a smaller one is left out.
        """
        problem = self.problem
        data = problem.data
        largest = self.within(data, int(data.max(axis=1).sum()))
        ends = [problem.data_bytes(choice) for choice in (self.smallest, largest)]
        found = {}
        for budget in np.linspace(*ends, points):
            choice = self.within(data, int(round(budget)))
            found[tuple(choice)] = (problem.size(choice), problem.average_bits(choice), problem.objective(choice))
        return pareto(found.values())


def pareto(points) -> list[tuple[int, float, float]]:
    """Keeps the points (bytes, average bits, objective) that no other one equals or beats in both size and objective.

    Returns them ascending in bytes.
    """
    kept = []
    for point in sorted(points, key=lambda point: (point[0], point[2])):
        if not kept or point[2] < kept[-1][2]:
            kept.append(point)
    return kept


def allocate(problem: Problem, config: AllocateConfig) -> np.ndarray:
    """Finds the choice (L,) of columns that `config` asks for.

    Raises UserError where its target is out of reach, or has room for every layer in float.
    """
    allocator = Allocator(problem, config.sections, config.ordered)
    if config.average_bits is not None:
        choice = allocator.within_average(config.average_bits)
    else:
        target = config.bytes if config.bytes is not None else int(Fraction(str(config.megabytes)) * 10**6)
        choice = allocator.within_bytes(target, problem.calibration if config.reserve is None else config.reserve)
    if set(problem.bits(choice)) == {FLOAT_BITS}:
        raise UserError("the target has room for every layer in float: nothing is quantized; lower the target")
    return choice


def uniform_choice(problem: Problem, size: int) -> np.ndarray:
    """Chooses the same quantized bits for every layer, those whose packed file is nearest to `size` bytes: (L,)."""
    columns = [k for k, bits in enumerate(problem.candidates) if bits != FLOAT_BITS]
    choices = [np.full(len(problem.layers), k) for k in columns]
    return min(choices, key=lambda choice: abs(problem.size(choice) - size))
