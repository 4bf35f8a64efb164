"""Weights on an integer grid, as integer kernels take them: a scale and, in scheme affine, a zero point.

The grid is that of Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", CVPR 2018, eq. 1; its learned scale that of Esser et al., "Learned step size quantization", ICLR 2020,
eq. 3.

A grid is `scale * (code - zero)` for the codes 0 ... count - 1. `zero` is a code, so that a weight of 0 stays 0. The
ends of the grid are fitted to each weight tensor or each of its channels. Rows are (R, N): all weights of a layer, or
those of each output channel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from svq.quant.base import Quantizer, along, scale_of, sum_to
from svq.quant.nearest import FEW, PIECE, SOME


class IntegerQuantizer(Quantizer):
    """Rounds weights to scale * (code - zero), code = round(w / scale) + zero clipped to 0 ... count - 1.

    Ties go to the even multiple of the scale. weight: the grid is fitted to it. scheme, rule, percentile, per_channel:
    see `svq.quant.integer.fit_grid`. The learned parameter is `alpha` = scale * (count - 1) / 2, half the width of the
    grid, () or (C,). It is of the size of the largest weights whatever the bits, so that one learning rate suits all
    bits. The zero of an affine grid is an integer and stays where it was put. Gradients pass unchanged to the weights,
    clipped ones included.
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
        """Gives the scale of the grid, above zero: () or (C,)."""
        return scale_of(self.alpha) / self._half

    def zero(self) -> torch.Tensor:
        """Gives the code of the weight 0, a whole number in the type of the scale: () or (C,)."""
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
    """Rounds weight / scale to the nearest codes less zero (float, shape of the weight)."""
    low = -along(zero, weight)
    return (weight / along(scale, weight)).round_().clamp_(low, low + (count - 1))


class _ToGrid(torch.autograd.Function):
    """Rounds the weight to the grid.

    With v = w / scale, the gradient of the scale is round(v) - v; where v is clipped, it is the end of the grid.
    """

    @staticmethod
    def forward(ctx, w, scale, zero, count):
        quantized = on_grid(w, scale, zero, count).mul_(along(scale, w))
        ctx.count = count
        # The convolution keeps the quantized weight anyway, so that saving it costs no memory; saving steps would.
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


KL_BINS = 2048
KL_TRIES = 64  # clipping thresholds that are compared
SHRINK, TILT, ROUNDS = 8, 3, 3  # the search of the least squared error tries so many widths, cuts of each, and rounds


def grid_size(bits: int, scheme: str) -> int:
    """Counts the values of an integer grid: 2^bits, or 2^bits - 1 where it is symmetric.

    A symmetric grid goes from -(2^(bits-1) - 1) to 2^(bits-1) - 1. It leaves one code unused (-128 of 8 bits), which
    would make it lopsided: integer kernels want symmetric weights from -127 to 127.
    """
    return 2**bits - (scheme == "symmetric")


@torch.no_grad()
def fit_grid(weight: torch.Tensor, bits: int, scheme: str = "symmetric", rule: str = "mse",
             percentile: float = 99.9, per_channel: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Fits the integer grid for `weight`; returns scale (> 0) and zero: () both, or (C,) `per_channel`, in its type.

    rule: `minmax`, from the smallest to the largest weight; `percentile`, the range that holds so many per cent of the
    weights; `mse`, the range of the least squared error; `kl`, see `kl_threshold`. A symmetric range reaches
    as far below zero as above it; any range holds zero. Weights that are all zero get the scale 1.
    """
    rows = weight.reshape(len(weight) if per_channel else 1, -1)
    if rule == "mse":
        # As many rows at a time as stay in the cache while ranges are compared.
        pieces = rows.split(max(1, PIECE // max(1, rows.shape[1])))
        scale, zero = (torch.cat(found) for found in zip(*(_least_squares(piece, bits, scheme) for piece in pieces)))
    else:
        scale, zero = to_grid(*RULES[rule](rows, bits, scheme, percentile), bits, scheme)
    scale, zero = scale.to(weight), zero.to(weight)
    return (scale, zero) if per_channel else (scale[0], zero[0])


def to_grid(low: torch.Tensor, high: torch.Tensor, bits: int, scheme: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes scale and zero (R,) of the grids from `low` (<= 0) to `high` (>= 0), each (R,)."""
    count = grid_size(bits, scheme)
    if scheme == "symmetric":
        scale, zero = torch.maximum(-low, high) / (count // 2), torch.full_like(low, count // 2)
    else:
        scale = (high - low) / (count - 1)
        zero = (-low / torch.where(scale > 0, scale, 1.0)).round().clamp(0, count - 1)
    # Weights too small to be divided by in their type count as zero.
    return torch.where(scale > torch.finfo(scale.dtype).tiny * count, scale, 1.0), zero


def _minmax(rows, bits, scheme, percentile):
    return rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)


def _percentile(rows, bits, scheme, percentile):
    """Gives the range up to a percentile of the magnitudes; an affine one leaves out as many weights at either end."""
    values = rows.cpu().numpy()
    if scheme == "symmetric":
        high = np.percentile(np.abs(values), percentile, axis=1)
        low = -high
    else:
        low, high = np.percentile(values, [(100 - percentile) / 2, (100 + percentile) / 2], axis=1)
    return torch.from_numpy(low).to(rows).clamp(max=0), torch.from_numpy(high).to(rows).clamp(min=0)


def _kl(rows, bits, scheme, percentile):
    """Gives the range between the thresholds of `kl_threshold`; affine ranges reach no further than the weights."""
    levels = grid_size(bits, "symmetric") // 2 + 1
    few = max(1, (1 << 20) // max(KL_BINS, rows.shape[1]))  # rows, so that their histograms stay small
    high = torch.cat([kl_threshold(piece.abs(), levels) for piece in rows.split(few)])
    if scheme == "symmetric":
        return -high, high
    low, largest = _minmax(rows, bits, scheme, percentile)
    return torch.maximum(low, -high), torch.minimum(largest, high)


RULES = {"minmax": _minmax, "percentile": _percentile, "kl": _kl}


def kl_threshold(magnitudes: torch.Tensor, levels: int, bins: int = KL_BINS, tries: int = KL_TRIES) -> torch.Tensor:
    """Finds where to clip magnitudes (R, N) so that `levels` values keep most of their distribution: (R,).

    Migacz, "8-bit inference with TensorRT", GTC 2017. Each row has a histogram of `bins` bins. P is its first i bins
    with all that lies beyond added to the last of them. Q is the first i bins merged into `levels` even groups, each
    spread again over those of its bins that P does not leave empty. `tries` thresholds are compared, at even distances
    from `levels` bins to all bins; the one of the least Kullback-Leibler divergence of Q from P is taken, the widest of
    equal ones. Sums of groups come from running sums, so that all rows are computed together.
    """
    largest = magnitudes.amax(1, keepdim=True).double()
    step = torch.where(largest > 0, largest, 1.0) / bins
    index = (magnitudes.double() / step).long().clamp_(max=bins - 1)
    index += torch.arange(len(index), device=index.device)[:, None] * bins
    counts = torch.bincount(index.view(-1), minlength=len(index) * bins).view(-1, bins).double()

    def running(values):
        return torch.nn.functional.pad(values.cumsum(1), (1, 0))

    mass, filled = running(counts), running((counts > 0).double())
    spread = running(torch.special.xlogy(counts, counts))
    total = mass[:, -1:]
    best, chosen = torch.full_like(largest, float("inf")), largest.clone()
    for i in np.unique(np.linspace(min(levels, bins), bins, tries).round().astype(int))[::-1]:
        edges = torch.arange(levels + 1, device=mass.device) * int(i) // levels
        groups, members = mass[:, edges].diff(dim=1), filled[:, edges].diff(dim=1)
        inside, beyond = mass[:, [i]], total - mass[:, [i]]
        last = counts[:, [i - 1]]
        # P's last bin also holds what lies beyond, Q's does not; but Q counts it as a filled one.
        members[:, -1:] += (beyond > 0) & (last == 0)
        reference = groups.clone()
        reference[:, -1:] += beyond
        entropy = spread[:, [i]] - torch.special.xlogy(last, last) + torch.special.xlogy(last + beyond, last + beyond)
        # Sum of P log(P / Q), all terms times the row's total: P = counts / total, Q = group / members / inside.
        crossed = torch.special.xlogy(reference, groups / members.clamp(min=1) / inside).sum(1, keepdim=True)
        divergence = (entropy - torch.special.xlogy(total, total) - crossed) / total
        better = divergence < best - 1e-12
        best, chosen = torch.where(better, divergence, best), torch.where(better, step * int(i), chosen)
    return chosen[:, 0].to(magnitudes)


def _least_squares(rows: torch.Tensor, bits: int, scheme: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds scale and zero (R,) of a grid whose nearest values leave a small squared error of rows (R, N).

    The search compares ranges narrower than that from the smallest to the largest weight: by how much, and, if affine,
    how much of that is cut off at the lower end. Two more rounds look closer around the best. The last steps improve
    codes and scale in turn. The rounds look at FEW weights only.
    """
    count = grid_size(bits, scheme)

    def sample(most):
        size = rows.shape[1]
        return rows if size <= most else rows[:, torch.arange(most, device=rows.device) * size // most]

    few, some = sample(FEW), sample(SOME)
    low, high = _minmax(rows, bits, scheme, None)
    if scheme == "symmetric":
        high = torch.maximum(-low, high)
        low = -high
    span = (high - low).clamp(min=torch.finfo(rows.dtype).tiny * count)
    least = (rows.square().mean(1).sqrt() / span).clamp(1e-3, 1.0)  # the best range of many similar weights is no less
    width, tilt = least.sqrt(), torch.full_like(least, 0.5)
    ratio, lean = least.rsqrt(), 0.5  # how far the candidates reach about these
    best = torch.full_like(least, float("inf"))
    scale, zero = to_grid(low, high, bits, scheme)
    for _ in range(ROUNDS):
        centre, middle = width, tilt
        for shrink in np.linspace(-1, 1, SHRINK):
            for side in np.linspace(-1, 1, TILT) if scheme == "affine" else (0.0,):
                kept, left = (centre * ratio**shrink).clamp(max=1.0), (middle + lean * side).clamp(0, 1)
                cut = (1 - kept) * span
                tried = to_grid((low + left * cut).clamp(max=0), (high - (1 - left) * cut).clamp(min=0), bits, scheme)
                error = _error(few, *tried, count)
                better = error < best
                best, width, tilt, scale, zero = (
                    torch.where(better, new, old) for new, old in
                    ((error, best), (kept, width), (left, tilt), (tried[0], scale), (tried[1], zero)))
        ratio, lean = ratio ** (2 / (SHRINK - 1)), lean / (TILT - 1)
    for part in [some] * 2 + [rows]:
        scale = _refit(part, scale, zero, count)
    return scale, zero


def _steps(rows, scale, zero, count):
    """Rounds rows (R, N) / scale (R,) to the nearest codes less zero."""
    low = -zero[:, None]
    return (rows / scale[:, None]).round_().clamp_(low, low + (count - 1))


def _error(rows, scale, zero, count):
    """Computes the root of the squared error of each row: (R,)."""
    q = _steps(rows, scale, zero, count)
    return torch.linalg.vector_norm(torch.addcmul(rows, q, scale[:, None], value=-1, out=q), dim=1)


def _refit(rows, scale, zero, count):
    """Computes the best scales (R,) for the codes of `scale` and `zero`: <w, q> / <q, q>, q = the codes less zero."""
    q = _steps(rows, scale, zero, count)
    product = (rows * q).sum(1, dtype=torch.float64)
    square = q.square_().sum(1, dtype=torch.float64)
    return torch.where(product > 0, product / square, scale.double()).to(scale)
