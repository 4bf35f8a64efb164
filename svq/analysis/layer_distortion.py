"""How far quantization moves a network: its weights, and the outputs of its parts.

Weights: relative error, signal to noise, cosine. Outputs: how far they move when other weights are quantized.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Distortion:
    """Of weights w that became q. weights: their number. error: sum of (q - w)^2. energy: sum of w^2, quantized: of
    q^2, product: of w q."""

    weights: int = 0
    error: float = 0.0
    energy: float = 0.0
    quantized: float = 0.0
    product: float = 0.0

    def __add__(self, other: Distortion) -> Distortion:
        """That of the weights of both together."""
        return Distortion(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other))))

    @property
    def relative_mse(self) -> float:
        """Mean squared error over the mean square of the weights; nan where these are all zero."""
        return self.error / self.energy if self.energy else math.nan

    @property
    def sqnr(self) -> float:
        """Signal to quantization noise ratio in dB, -10 log10 of relative_mse; infinite without an error."""
        if not self.energy:
            return math.nan
        return -10 * math.log10(self.relative_mse) if self.error else math.inf

    @property
    def cosine(self) -> float:
        """Between the weights as two vectors; it does not see a wrong scale. nan where either is all zero."""
        norms = math.sqrt(self.energy) * math.sqrt(self.quantized)
        return self.product / norms if norms else math.nan


def distortion(weight: torch.Tensor, quantized: torch.Tensor) -> Distortion:
    """That of one tensor, with sums in float64."""
    w, q = weight.detach().double(), quantized.detach().double()
    return Distortion(w.numel(), *(float(x.sum()) for x in ((q - w).square(), w.square(), q.square(), w * q)))


def pooled(parts: Iterable[Distortion]) -> Distortion:
    """That of the weights of all of them."""
    return sum(parts, Distortion())


_BATCH = 8  # utterances held at a time: a deep network's outputs are large


@dataclasses.dataclass(frozen=True)
class Moved:
    """How far an output y moved to y', means over utterances. relative_mse: ||y' - y||^2 / ||y||^2. cosine: of both."""

    relative_mse: float
    cosine: float


@contextlib.contextmanager
def recorded(net: nn.Module, names: Sequence[str]):
    """Yields name of a module -> list that every output of it is added to, one for each time that it runs.

    Of a recurrent module it is the first of its outputs, the sequence (B, T, H) or, of a cell, the state (B, H).
    """
    found = {name: [] for name in names}

    def keep(name):
        def hook(module, inputs, output):
            output = output if isinstance(output, torch.Tensor) else output[0]
            time_first = isinstance(module, nn.RNNBase) and not module.batch_first and output.dim() == 3
            found[name].append(output.transpose(0, 1) if time_first else output)
        return hook

    hooks = [net.get_submodule(name).register_forward_hook(keep(name)) for name in found]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def movements(before: nn.Module, after: nn.Module, feats: torch.Tensor, names: Sequence[str]) -> dict[str, Moved]:
    """How far the output of each module in `names` is in network `after` from what it is in `before`.

    feats: (B, T, F). An output that is zero throughout in `before`, as of a dead layer, counts in no mean.
    """
    rows = {name: [] for name in names}
    for batch in feats.split(_BATCH):
        with recorded(before, names) as old, recorded(after, names) as new:
            before(batch)
            after(batch)
        for name in names:
            rows[name].append(_compared(_flat(old[name]), _flat(new[name])))
    return {name: Moved(*_means(np.concatenate(found))) for name, found in rows.items()}


def _flat(outputs: list[torch.Tensor]) -> torch.Tensor:
    """(B, n) float64 from outputs that each begin with the batch."""
    return torch.cat([output.double().flatten(1) for output in outputs], dim=1)


def _compared(old: torch.Tensor, new: torch.Tensor) -> np.ndarray:
    """(B, 2): relative squared error and cosine of each row; nan where they are not defined."""
    energy = old.square().sum(1)
    error = (new - old).square().sum(1) / energy
    cosine = (new * old).sum(1) / (energy.sqrt() * new.square().sum(1).sqrt())
    values = torch.stack([error, cosine], dim=1).cpu().numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _means(values: np.ndarray) -> list[float]:
    """The mean of each column over the rows where it is known; nan where it is nowhere."""
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0).sum(axis=0)
    return [float(total / count) if count else np.nan for total, count in zip(sums, counts)]
