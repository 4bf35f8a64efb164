"""Weights on an integer grid, as kernels for integers take them: a scale and, affine, a zero point.

The grid is that of Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", CVPR 2018, eq. 1; its learned scale that of Esser et al., "Learned step size quantization", ICLR 2020,
eq. 3.
"""

from __future__ import annotations

import torch
from torch import nn

from svq.quant.base import Quantizer, along, scale_of, sum_to
from svq.quant.ranges import fit_grid, grid_size


class IntegerQuantizer(Quantizer):
    """scale * (code - zero), code = round(w / scale) + zero clipped to 0 ... count - 1; ties go to the even code.

    weight: what the grid is fitted to. scheme, rule, percentile, per_channel: see `svq.quant.ranges.fit_grid`.
    What is learned is `alpha` = scale * (count - 1) / 2, half the width of the grid, () or (C,): of the size of the
    largest weights whatever the bits, so that one learning rate suits all of them. The zero of an affine
    grid is an integer and stays where it was put. Gradients pass to the weights unchanged, as with the
    other quantizers here, also where they are clipped.
    """

    def __init__(self, weight: torch.Tensor, bits: int, scheme: str, rule: str, percentile: float,
                 per_channel: bool = False):
        super().__init__(bits)
        self.scheme, self.count = scheme, grid_size(bits, scheme)
        scale, zero = fit_grid(weight, bits, scheme, rule, percentile, per_channel)
        self.alpha = nn.Parameter(scale * self._half)
        self.register_buffer("zero_code", zero if scheme == "affine" else None)

    @property
    def _half(self) -> float:
        return (self.count - 1) / 2

    def scale(self) -> torch.Tensor:
        """() or (C,), above zero."""
        return scale_of(self.alpha) / self._half

    def zero(self) -> torch.Tensor:
        """The code of the weight 0, a whole number: () or (C,), in the type of the scale."""
        return torch.full_like(self.alpha, self.count // 2) if self.zero_code is None else self.zero_code

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return _ToGrid.apply(weight, self.scale(), self.zero(), self.count)

    @torch.no_grad()
    def codebook(self) -> torch.Tensor:
        numbers = torch.arange(self.count, dtype=self.alpha.dtype, device=self.alpha.device)
        return (numbers - self.zero()[..., None]) * self.scale()[..., None]

    @torch.no_grad()
    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        steps = on_grid(weight, self.scale(), self.zero(), self.count)
        return steps.add_(along(self.zero(), weight)).to(torch.uint8)


def on_grid(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, count: int) -> torch.Tensor:
    """The codes less zero (float, shape of the weight) nearest to weight / scale."""
    low = -along(zero, weight)
    return (weight / along(scale, weight)).round_().clamp_(low, low + (count - 1))


class _ToGrid(torch.autograd.Function):
    """The weight on the grid. To the scale goes, with v = w / scale, round(v) - v; where v is clipped, that end."""

    @staticmethod
    def forward(ctx, w, scale, zero, count):
        quantized = on_grid(w, scale, zero, count).mul_(along(scale, w))
        ctx.count = count
        # The convolution keeps the quantized weight anyway: saving it costs no memory, steps would.
        ctx.save_for_backward(w, scale, zero, quantized)
        return quantized

    @staticmethod
    def backward(ctx, grad):
        w, scale, zero, quantized = ctx.saved_tensors
        grad_scale = None
        if ctx.needs_input_grad[1]:
            low = -zero * scale
            high = low + (ctx.count - 1) * scale
            clipped = (w < along(low, w)) | (w > along(high, w))
            difference = quantized - w.masked_fill(clipped, 0)
            grad_scale = sum_to(difference.mul_(grad), scale) / scale
        return grad, grad_scale, None, None
