"""How far quantized weights are from the float ones: relative error, signal to noise, cosine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import torch


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
