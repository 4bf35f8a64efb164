"""The sensitivity of each layer to quantization: the average trace of its block of the loss's Hessian.

Dong et al., "HAWQ-V2: Hessian aware trace-weighted quantization of neural networks", NeurIPS 2020; in Liu et
al., "Towards lightweight speaker verification via adaptive neural network quantization", section IV step 2.
`sensitivity.tsv` holds the result: tab separated, header `layer shape trace std_error samples`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from svq.atomic import atomic_write
from svq.bits.table import format_shape, parse_shape, table_rows
from svq.errors import UserError, located
from svq.numbers import number
from svq.quant.api import quantizable
from svq.quant.base import parametrization

COLUMNS = ("layer", "shape", "trace", "std_error", "samples")
# These keep the random streams of signs apart from those of crops and batch orders (svq.data.dataset).
_SIGNS, _OUTPUT_SIGNS = 3, 4


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """A row of sensitivity.tsv: layer, shape of its weight, average trace of its Hessian block, standard error, probes.

    trace: the block's trace over the number of weights; being an estimate, it can come out below zero.
    """

    layer: str
    shape: tuple[int, ...]
    trace: float
    std_error: float
    samples: int

    @property
    def relative_error(self) -> float:
        """The standard error of the trace, over the trace."""
        return relative(self.std_error, self.trace)


@dataclasses.dataclass(frozen=True)
class StoppingRule:
    """The rule that says when a layer has been probed enough.

    That is at a standard error of at most `tolerance` times its trace, but not before `min_probes` (a few samples may
    agree by chance), and at the latest after `max_probes`. Raises ValueError for values out of range.
    """

    min_probes: int = 20
    max_probes: int = 200
    tolerance: float = 0.05

    def __post_init__(self):
        if self.min_probes < 2:
            raise ValueError(f"min_probes is {self.min_probes}; a standard error needs at least 2")
        if self.max_probes < self.min_probes:
            raise ValueError(f"max_probes is {self.max_probes}; it must be at least min_probes ({self.min_probes})")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance is {self.tolerance}; it must not be negative")

    def done(self, samples: Sequence[float]) -> bool:
        """Says whether these samples of a trace are enough: as many as allowed, or within the tolerance."""
        if len(samples) < self.min_probes:
            return False
        trace, std_error = mean_and_error(samples)
        return len(samples) >= self.max_probes or relative(std_error, trace) <= self.tolerance


def relative(std_error: float, trace: float) -> float:
    """Divides the standard error by the size of the trace; gives 0 where there is no error at all."""
    if std_error == 0:
        return 0.0
    return std_error / abs(trace) if trace else math.inf


def mean_and_error(samples: Sequence[float]) -> tuple[float, float]:
    """Computes the mean of samples (n,) and its standard error; n is at least 2."""
    return float(np.mean(samples)), float(np.std(samples, ddof=1) / math.sqrt(len(samples)))


class TraceEstimator:
    """Hutchinson's estimator of the average Hessian trace of every quantizable layer.

    With signs v of probability 1/2 each, v^T H v has the mean tr(H) and the variance 2 * sum of H_ab^2 over a != b.
    A probe takes one batch of data and, layer by layer, one draw of v, so that the standard error covers data
    and signs together. The batch may be small: signs that are drawn anew for every few samples average out
    faster than signs that all samples of a large batch share.

    One v over all layers would give all traces from one product with H, but its cross terms v_i^T H_ij v_j add the sum
    of ||H_ij||^2 over the other layers j to the variance. They are zero on average, yet large: a network with ReLU is
    piecewise linear in the weights of any one layer, so most of its curvature (that of the loss itself apart) lies in
    the blocks between layers. On a trained ResNet18 the samples of most layers spread 2 to 6 times as wide that way,
    for a third of the time. So each layer gets a product of its own, from one graph of gradients.

    Kinks (of a ReLU, or where a pooled deviation is nearly zero) make the samples of some layers heavy-tailed:
    a single sample may dominate the mean for long. The standard error shows this.

    Args:
        net: a float network; set to eval mode. Batch norm then works with its fixed statistics, as in the
            network that will be quantized. With statistics of the batch, a loss would not be a mean over
            recordings, and traces would depend on the batch size.
        loss: a batch -> its mean loss (scalar), computed with `net`.
        rule: says when to stop, for each layer by itself.
        seed: signs depend on it and on the numbers of probe and layer.
        samples: those taken so far, by layer, to go on from there.

    Raises UserError for a quantized network.
    """

    def __init__(self, net: nn.Module, loss: Callable[..., torch.Tensor], rule: StoppingRule = StoppingRule(),
                 seed: int = 0, samples: dict[str, list[float]] | None = None):
        self.loss, self.rule, self.seed = loss, rule, seed
        layers = dict(quantizable(net.eval()))
        for name, layer in layers.items():
            if parametrization(layer) is not None:
                raise UserError(f"layer {name} is quantized; the Hessian is that of the float network")
        self.weights = {name: layer.weight for name, layer in layers.items()}
        self.recurrent = any(isinstance(module, nn.RNNBase) for module in net.modules())
        self.samples = samples or {name: [] for name in self.weights}

    @property
    def probes(self) -> int:
        """The number of batches used so far."""
        return max(map(len, self.samples.values()), default=0)

    def unfinished(self) -> list[str]:
        """Lists the layers that need another probe, in the order of the network."""
        return [name for name in self.weights if not self.rule.done(self.samples[name])]

    def run(self, batches: Iterable):
        """Probes with one batch after the other until every layer is done or batches end; yields after each probe.

        The first of `batches` is that of probe number `self.probes`.
        """
        batches = iter(batches)
        while self.unfinished():
            try:
                batch = next(batches)
            except StopIteration:
                return
            with self._differentiable():
                self.probe(batch)
            yield

    def _differentiable(self):
        """Turns cuDNN off for recurrent modules: it gives no gradient in eval mode, and never a second one."""
        return torch.backends.cudnn.flags(enabled=False) if self.recurrent else contextlib.nullcontext()

    def probe(self, batch) -> None:
        """Takes one sample for each unfinished layer. Raises UserError if one is not finite."""
        number, names = self.probes, self.unfinished()
        weights = [self.weights[name] for name in names]
        gradients = torch.autograd.grad(self.loss(batch), weights, create_graph=True)
        found = []
        for name, weight, gradient in zip(names, weights, gradients):
            signs = self._signs(name, number)
            (product,) = torch.autograd.grad(gradient, weight, signs, retain_graph=True)
            found.append((signs * product).sum(dtype=torch.float64).item() / weight.numel())
        self._add(names, found)

    def _add(self, names: list[str], found: list[float]) -> None:
        """Adds the samples of a probe. Raises UserError if one is not finite."""
        for name, value in zip(names, found):
            if not math.isfinite(value):
                raise UserError(f"layer {name}: the curvature of the loss is {value} in probe {self.probes + 1}; "
                                "look at the training of this network, and at its features")
        for name, value in zip(names, found):
            self.samples[name].append(value)

    def _signs(self, name: str, number: int) -> torch.Tensor:
        """Draws -1 and 1 in the shape of the layer's weight, whichever other layers are still probed."""
        weight = self.weights[name]
        rng = np.random.default_rng([_SIGNS, self.seed, number, list(self.weights).index(name)])
        signs = 2 * rng.integers(0, 2, tuple(weight.shape), dtype=np.int8) - 1
        return torch.from_numpy(signs).to(weight)

    def results(self) -> list[LayerSensitivity]:
        """Lists the estimates, in the order of the network; each layer needs 2 samples."""
        return [
            LayerSensitivity(name, tuple(weight.shape), *mean_and_error(self.samples[name]), len(self.samples[name]))
            for name, weight in self.weights.items()
        ]


class GaussNewtonEstimator(TraceEstimator):
    """Trace estimator for half the mean squared distance of a network's outputs to those of its present weights.

    The gradient of this loss is zero where it is measured, so that its Hessian is J^T J, J the Jacobian of the outputs
    by the weights, averaged over the batch. With signs u over the outputs, ||J^T u||^2 has the mean tr(J^T J). So one
    backward pass samples all layers, where TraceEstimator takes a second derivative for each of them.

    outputs: a batch -> (B, D), computed with `net`. The other arguments are those of TraceEstimator.
    """

    def __init__(self, net: nn.Module, outputs: Callable[..., torch.Tensor], rule: StoppingRule = StoppingRule(),
                 seed: int = 0, samples: dict[str, list[float]] | None = None):
        super().__init__(net, outputs, rule, seed, samples)

    def probe(self, batch) -> None:
        """Takes one sample for each unfinished layer. Raises UserError if one is not finite."""
        number, names = self.probes, self.unfinished()
        outputs = self.loss(batch)
        rng = np.random.default_rng([_OUTPUT_SIGNS, self.seed, number])
        # Each output of each item of the batch has its own signs, so that the items' Jacobians do not mix on average.
        signs = torch.from_numpy(2 * rng.integers(0, 2, tuple(outputs.shape), dtype=np.int8) - 1).to(outputs)
        gradients = torch.autograd.grad((outputs * signs).sum(), [self.weights[name] for name in names])
        found = [gradient.square().sum(dtype=torch.float64).item() / (len(outputs) * gradient.numel())
                 for gradient in gradients]
        self._add(names, found)


def write_sensitivity(path, rows: Iterable[LayerSensitivity]) -> None:
    """Writes rows to a sensitivity.tsv, atomically."""
    with atomic_write(path) as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in rows:
            file.write(f"{row.layer}\t{format_shape(row.shape)}\t{row.trace:.6g}\t{row.std_error:.6g}\t{row.samples}\n")


def read_sensitivity(path) -> list[LayerSensitivity]:
    """Reads the rows of a sensitivity.tsv. Raises UserError that names file and line of the first wrong row."""
    rows, seen = [], {}
    for line, (layer, shape, trace, std_error, samples) in table_rows(path, COLUMNS):
        if layer in seen:
            raise UserError(located(path, line, f"layer {layer} is already on line {seen[layer]}; keep one of them"))
        seen[layer] = line
        try:
            row = LayerSensitivity(layer, parse_shape(shape), _number("trace", trace), _number("std_error", std_error),
                                   _count(samples))
            if row.std_error < 0:
                raise ValueError(f"std_error is {std_error}; it must not be negative")
        except ValueError as error:
            raise UserError(located(path, line, f"layer {layer}: {error}")) from None
        rows.append(row)
    return rows


def _number(column: str, text: str) -> float:
    try:
        return number(text)
    except ValueError:
        raise ValueError(f"{column} is '{text}'; it must be a number, as svq.bin.sensitivity writes it") from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"samples is '{text}'; it must be a positive integer, the number of probes")
    return int(text)
