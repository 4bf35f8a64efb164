"""Weight quantizers as parametrizations: float weight in, quantized weight out, gradients straight through."""

from __future__ import annotations

import torch
from torch import nn

from svq.quant.levels import kmeans_levels, rescale_symmetric

PIECE = 1 << 16


class _ToLevels(torch.autograd.Function):
    """Q = alpha * q with q the level nearest to w / alpha (eq. 4), and its straight-through gradients.

    To w the gradient passes unchanged (eq. 5). For alpha the rounding counts as adding a constant,
    so that dQ/dalpha is q - w / alpha inside [-alpha, alpha] and q outside, where w is clipped.
    """

    @staticmethod
    def forward(ctx, w, alpha, levels):
        quantized = look_up(levels * alpha, nearest_codes(w, alpha, levels))
        # The convolution keeps the quantized weight anyway: saving it costs no memory, codes would.
        ctx.save_for_backward(w, alpha, quantized)
        return quantized

    @staticmethod
    def backward(ctx, grad):
        w, alpha, quantized = ctx.saved_tensors
        grad_alpha = None
        if ctx.needs_input_grad[1]:
            difference = quantized - w.masked_fill(w.abs() > alpha, 0)
            grad_alpha = (difference.mul_(grad).sum() / alpha).reshape(alpha.shape)
        return grad, grad_alpha, None


@torch.no_grad()
def nearest_codes(w: torch.Tensor, alpha: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Index (int32, shape of w) of the level nearest to w / alpha; a tie takes the lower level."""
    thresholds = (levels[1:] + levels[:-1]) / 2 * alpha
    return _in_memory_order(w, lambda flat: bucketize(flat, thresholds))


def bucketize(x: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """How many of the ascending `thresholds` (K,) lie below each element of `x` (N,); int32 (N,).

    The same as torch.bucketize, several times as fast on a CPU: the binary search there mispredicts
    branches, here equal cells are numbered without a branch. A table holds the thresholds in lower
    cells, one comparison settles the one in the same cell. A cell's number never falls as x grows,
    in floating point neither, so this is exact. Where two thresholds share a cell, torch searches.
    """
    cells = 8 * (len(thresholds) + 1)
    if x.device.type != "cpu" or x.numel() < cells:
        return torch.bucketize(x, thresholds, out_int32=True)
    # The two outermost thresholds fall inside the grid; with only one it sits in the middle of it.
    margin = (thresholds[-1] - thresholds[0]) / cells + thresholds.abs().max() / cells
    scale = float(cells / (thresholds[-1] - thresholds[0] + 2 * margin))
    shift = (margin - thresholds[0]) * scale
    if not 0 < scale < float("inf"):
        return torch.bucketize(x, thresholds, out_int32=True)

    def cell(values):
        number = torch.add(shift, values, alpha=scale).clamp_(0, cells - 1).to(torch.int32)
        return number.clamp_(0, cells - 1)  # NaN became some integer: it must not index outside

    taken = cell(thresholds)
    if (taken[1:] == taken[:-1]).any():
        return torch.bucketize(x, thresholds, out_int32=True)
    below = torch.bucketize(torch.arange(cells, dtype=torch.int32), taken, out_int32=True)
    within = torch.cat([thresholds, thresholds.new_full((1,), float("inf"))])[below]
    codes = torch.empty(x.shape, dtype=torch.int32)
    # Pieces that stay in the cache between the passes.
    for values, out in zip(x.split(PIECE), codes.split(PIECE)):
        at = cell(values)
        torch.add(below.index_select(0, at), values > within.index_select(0, at), out=out)
    return codes


def look_up(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """table[codes], in the memory layout of `codes`."""
    return _in_memory_order(codes, lambda flat: table.index_select(0, flat))


def _in_memory_order(x: torch.Tensor, function) -> torch.Tensor:
    """Applies a function of vectors to `x` in the order in which it lies in memory.

    So a channels-last weight is neither copied to another layout nor comes back in one, which would
    make the convolutions after it convert it again at every step.
    """
    order = sorted(range(x.dim()), key=lambda d: (-x.stride(d), d))
    back = sorted(range(x.dim()), key=order.__getitem__)
    dense = x.permute(order)
    return function(dense.reshape(-1)).view(dense.shape).permute(back)


class KMeansQuantizer(nn.Module):
    """Uniform-precision k-means quantizer of one layer (KMQAT, section III-B).

    Levels are fixed at the start from the float weights (see `kmeans_levels`), rescaled symmetrically
    to [-1, 1]; the scale alpha is learned. Parametrizes a weight of any shape.
    """

    def __init__(self, weight: torch.Tensor, bits: int, retention: float = 0.9):
        super().__init__()
        levels, alpha = rescale_symmetric(kmeans_levels(weight.detach().cpu().numpy(), bits, retention))
        self.bits = bits
        self.register_buffer("levels", torch.tensor(levels, dtype=weight.dtype, device=weight.device))
        self.alpha = nn.Parameter(torch.tensor(alpha, dtype=weight.dtype, device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return _ToLevels.apply(weight, self.alpha, self.levels)

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """Level indices (uint8) of the float weight."""
        return nearest_codes(weight, self.alpha, self.levels).to(torch.uint8)

    def codebook(self) -> torch.Tensor:
        """(2^bits,) the values that quantized weights take: alpha times the levels."""
        return (self.levels * self.alpha).detach()


def make_quantizer(weight: torch.Tensor, config, bits: int) -> nn.Module:
    """The quantizer that `config` (a QuantConfig) asks for, of `bits` bits, initialised from `weight`."""
    if config.method != "kmqat":
        raise NotImplementedError(config.method)
    return KMeansQuantizer(weight, bits, config.retention)
