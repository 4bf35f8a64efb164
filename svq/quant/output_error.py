"""Codes and levels of one layer for the least error of its output, given the moments of its inputs.

Let W be the float weights, and X and Y the inputs in the float and in the quantized network. The squared error of the
output of weights Q is, up to a constant, tr((Q - T) S (Q - T)^T), with S = E[Y Y^T] and T = W E[X Y^T] S^-1. T are the
weights that best give the float network's output from the quantized network's inputs. Q is found in three steps:

1. levels by k-means, each weight weighed by its entry on the diagonal of S;
2. codes column after column, the error of each carried to the columns that are not quantized yet (Frantar et al.,
   "GPTQ: accurate post-training quantization for generative pre-trained transformers", ICLR 2023, algorithm 1);
3. in turn, the levels of least error for these codes, and each column's codes for those of all others.

Steps 2 and 3 never raise the error; for step 2 this is checked.

The moments of the inputs are measured in both networks. A weight (O, I / G, ...) of G groups is seen as (G, O / G, N):
each group has rows of N numbers, and a row times a column of N inputs is an output. A convolution's columns are the
patches that it slides over.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

DAMPING = 0.01  # this share of the mean of the diagonal of S is added to the diagonal
ROUNDS, BLOCK = 4, 128
FEW = 32  # levels
ENOUGH = 1e-3  # a round that lowers the error by less than this share of it is the last


@dataclasses.dataclass
class Fit:
    """T (G, O, N) and S (G, N, N) of one layer, and the levels (G, O, K) of each row.

    shared: whether all rows have one codebook. free: whether each level is fitted, or only a common scale of them.
    """

    target: torch.Tensor
    square: torch.Tensor
    levels: torch.Tensor
    shared: bool
    free: bool

    def error(self, values: torch.Tensor) -> float:
        """Computes the squared output error of quantized weights (G, O, N), up to a constant, summed over outputs."""
        off = (values - self.target).double()
        return float(((off @ self.square.double()) * off).sum())


def prepare(weight: torch.Tensor, moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes T (G, O, N) and S (G, N, N), shrunk and damped, of weights W (G, O, N), all in float32.

    Inputs that never change have zeros on the diagonal. Only the damping is left of them: their weights stay as they
    are.
    """
    size = moments.square.shape[-1]
    diagonal = moments.square.diagonal(dim1=-2, dim2=-1)
    damping = DAMPING * diagonal.mean(-1)
    damping = torch.where(damping > 0, damping, torch.ones_like(damping))[:, None, None]
    ridge = damping * torch.eye(size, dtype=torch.float64, device=weight.device)
    share = shrinkage(moments)[:, None, None]
    alone = (torch.diag_embed(x.diagonal(dim1=-2, dim2=-1)) for x in (moments.square, moments.cross))
    square, cross = (x.lerp(y, share) for x, y in zip((moments.square, moments.cross), alone))
    square = square + ridge
    # Where the data say nothing, the ridge keeps W.
    wanted = weight.double() @ (cross + ridge)
    factor = torch.linalg.cholesky(square)
    return torch.cholesky_solve(wanted.mT, factor).mT.float(), square.float()


def shrinkage(moments: Moments) -> torch.Tensor:
    """Computes the share (G,), from 0 to 1, by which correlations measured on few columns are best made smaller.

    Without shrinkage, codes are fitted to chance: with half as many columns as inputs, the output error on other data
    is twice that of the nearest levels. Chen et al., "Shrinkage algorithms for MMSE covariance estimation", IEEE Trans.
    Signal Processing 2010, eq. 23, here with the diagonal as the target of the shrinkage.
    """
    diagonal = moments.square.diagonal(dim1=-2, dim2=-1)
    unit = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    squares = (moments.square * unit[:, :, None] * unit[:, None, :]).square().sum((-2, -1))
    size = diagonal.shape[-1]
    within = (1 - 2 / size) * squares + size**2
    between = (moments.columns + 1 - 2 / size) * (squares - size)
    return (within / between.clamp(min=1e-30)).clamp(max=1.0)


def quantize_layer(fit: Fit) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds codes (G, O, N) int64 and levels (G, O, K) of a layer by steps 2 and 3 of svq.quant.output_error."""
    plain = nearest(fit.target, fit.levels)
    codes = with_feedback(fit)
    best = fit.error(values_of(codes, fit.levels))
    before = fit.error(values_of(plain, fit.levels))
    if before < best:
        codes, best = plain, before
    for _ in range(ROUNDS):
        levels = refit(fit, codes)
        fit = dataclasses.replace(fit, levels=levels)
        codes = improve(fit, codes)
        error = fit.error(values_of(codes, levels))
        if error > (1 - ENOUGH) * best:
            break
        best = error
    return codes, fit.levels


def values_of(codes: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Looks up codes (G, O, N) in the levels (G, O, K) of their rows: quantized weights (G, O, N)."""
    return levels.gather(-1, codes)


def nearest(weight: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Finds the codes of the levels (G, O, K) nearest to weights (G, O, N); a tie takes the lower one."""
    middles = ((levels[..., 1:] + levels[..., :-1]) / 2).contiguous()
    return torch.searchsorted(middles, weight.contiguous())


class _Nearest:
    """Finds the codes of one column of weights (G, O) at a time, by the quickest way to count the middles below."""

    def __init__(self, fit: Fit):
        self.middles = ((fit.levels[..., 1:] + fit.levels[..., :-1]) / 2).contiguous()
        self.shared = self.middles[0, 0] if fit.shared else None

    def __call__(self, column: torch.Tensor) -> torch.Tensor:
        if self.shared is not None:
            return torch.bucketize(column.contiguous(), self.shared)
        if self.middles.shape[-1] < FEW:
            return (column[..., None] > self.middles).sum(-1)
        return torch.searchsorted(self.middles, column[..., None].contiguous())[..., 0]


def with_feedback(fit: Fit) -> torch.Tensor:
    """Finds codes (G, O, N) column after column, each one's error carried to the columns left (GPTQ, algorithm 1).

    Columns of much input power come first, because many others can then make up for their errors.
    """
    order = fit.square.diagonal(dim1=-2, dim2=-1).mean(0).argsort(descending=True, stable=True)
    square = fit.square[:, order][:, :, order].double()
    upper = torch.linalg.cholesky(torch.linalg.inv(square), upper=True).float()
    left, codes = fit.target[..., order].clone(), torch.empty_like(fit.target, dtype=torch.int64)
    codes_of = _Nearest(fit)
    size = left.shape[-1]
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        errors = left.new_empty(*left.shape[:-1], end - start)
        for i in range(start, end):
            found = codes_of(left[..., i])
            codes[..., i] = found
            value = fit.levels.gather(-1, found[..., None])[..., 0]
            error = (left[..., i] - value) / upper[:, None, i, i]
            errors[..., i - start] = error
            left[..., i:end] -= error[..., None] * upper[:, None, i, i:end]
        left[..., end:] -= errors @ upper[:, start:end, end:]
    return codes[..., order.argsort()]


def improve(fit: Fit, codes: torch.Tensor) -> torch.Tensor:
    """Gives each column in turn the codes of least error while all other columns stay; returns codes (G, O, N)."""
    codes, values = codes.clone(), values_of(codes, fit.levels)
    codes_of = _Nearest(fit)
    slope = (values - fit.target) @ fit.square
    diagonal = fit.square.diagonal(dim1=-2, dim2=-1)
    for start in range(0, codes.shape[-1], BLOCK):
        end = min(start + BLOCK, codes.shape[-1])
        moved = values.new_zeros(*codes.shape[:-1], end - start)
        for i in range(start, end):
            found = codes_of(values[..., i] - slope[..., i] / diagonal[:, None, i])
            value = fit.levels.gather(-1, found[..., None])[..., 0]
            moved[..., i - start] = value - values[..., i]
            codes[..., i] = found
            slope[..., i + 1 : end] += moved[..., i - start, None] * fit.square[:, None, i, i + 1 : end]
        slope[..., end:] += moved @ fit.square[:, start:end, end:]
    return codes


def refit(fit: Fit, codes: torch.Tensor) -> torch.Tensor:
    """Fits the levels (G, O, K), ascending, that leave the least error for codes (G, O, N), by linear least squares.

    Levels that would lose their order stay as they are. Of more than FEW levels only the scale is fitted: many levels
    have little to gain, and the time grows with their number.
    """
    if not fit.free or fit.levels.shape[-1] > FEW:
        return _rescaled(fit, codes)
    count, wanted = fit.levels.shape[-1], (fit.target @ fit.square).double()
    products = wanted.new_zeros(*codes.shape[:2], count, count)
    sides = wanted.new_zeros(*codes.shape[:2], count)
    sides.scatter_add_(-1, codes, wanted)
    for group, row in ((g, o) for g in range(codes.shape[0]) for o in range(codes.shape[1])):
        ones = torch.nn.functional.one_hot(codes[group, row], count).float()
        products[group, row] = (ones.mT @ (fit.square[group] @ ones)).double()
    if fit.shared:
        products, sides = products.sum((0, 1)), sides.sum((0, 1))
        levels = _solve(products[None], sides[None], fit.levels[:1, 0].double()).expand_as(fit.levels)
    else:
        levels = _solve(products.flatten(0, 1), sides.flatten(0, 1), fit.levels.flatten(0, 1).double())
    levels = levels.reshape(fit.levels.shape).float()
    ordered = (levels.diff(dim=-1) >= 0).all(-1, keepdim=True)
    return torch.where(ordered, levels, fit.levels)


def _solve(products: torch.Tensor, sides: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Solves R least squares problems of K levels: (R, K), drawn a little to the present levels.

    The pull keeps a level that no code refers to.
    """
    diagonal = products.diagonal(dim1=-2, dim2=-1)
    ridge = 1e-4 * diagonal.mean(-1, keepdim=True).clamp(min=1e-30)
    return torch.linalg.solve(products + torch.diag_embed(ridge.expand_as(diagonal)), sides + ridge * present)


def _rescaled(fit: Fit, codes: torch.Tensor) -> torch.Tensor:
    """Multiplies the levels by the factor of least error, one for all rows or one for each."""
    values = values_of(codes, fit.levels).double()
    toward = values @ fit.square.double()
    product, square = (toward * fit.target).sum(-1, keepdim=True), (toward * values).sum(-1, keepdim=True)
    if fit.shared:
        product, square = product.sum((0, 1), keepdim=True), square.sum((0, 1), keepdim=True)
    factor = torch.where((square > 0) & (product > 0), product / square, 1.0)
    return (fit.levels * factor).float()


# A layer is measured on at least so many columns (where it has as many), and on so many times the length of a column.
LEAST_COLUMNS = 16384
COLUMNS_PER_INPUT = 4
PART = 8  # utterances whose patches are held at a time


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of a layer's inputs, from which the error of its output is computed; float64.

    square: (G, N, N), the mean products of the quantized network's inputs with each other. cross: (G, N, N), those of
    the float network's inputs with the quantized network's. Both are of inputs less their means where that was asked
    for (`MomentSums.moments`). means: (G, N), of the float and of the quantized network. columns: how many were
    measured.
    """

    square: torch.Tensor
    cross: torch.Tensor
    means: tuple[torch.Tensor, torch.Tensor]
    columns: int


def as_rows(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Reshapes a weight (O, I / G, ...) of G groups to rows (G, O / G, N)."""
    return weight.reshape(groups, len(weight) // groups, -1)


def places(module: nn.Module, x: torch.Tensor) -> int:
    """Counts the columns that one input x[0] of a convolution or linear layer has."""
    if isinstance(module, nn.Linear):
        return x[0].numel() // x.shape[-1]
    return math.prod(_output_size(module, x))


def patches(module: nn.Module, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Takes the columns at places `chosen` (P,) of a convolution's or linear layer's input: (B, ...) -> (B, G, N, P).

    `as_rows(weight)` times a column is the output, without bias, at that place of the flattened output.
    """
    if isinstance(module, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1])[:, chosen].transpose(1, 2)[:, None]
    size = _output_size(module, x)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    kernel = math.prod(module.kernel_size)
    at = torch.zeros(len(chosen), kernel, dtype=torch.int64)
    axes = zip(x.shape[2:], _coordinates(chosen, size), _coordinates(torch.arange(kernel), module.kernel_size),
               module.stride, module.dilation)
    for length, place, offset, stride, dilation in axes:
        at = at * length + place[:, None] * stride + offset * dilation
    columns = x.flatten(2)[:, :, at.view(-1).to(x.device)].view(*x.shape[:2], len(chosen), kernel).transpose(2, 3)
    return columns.reshape(len(x), module.groups, -1, len(chosen))


def _output_size(module: nn.Module, x: torch.Tensor) -> list[int]:
    padding = module._reversed_padding_repeated_twice
    axes = range(len(module.kernel_size))
    padded = [x.shape[2 + i] + padding[-2 - 2 * i] + padding[-1 - 2 * i] for i in axes]
    return [(padded[i] - module.dilation[i] * (module.kernel_size[i] - 1) - 1) // module.stride[i] + 1 for i in axes]


def _coordinates(flat: torch.Tensor, size) -> list[torch.Tensor]:
    """Gives the coordinates, one tensor for each axis, of places in a flattened array of the given size."""
    found = []
    for length in reversed(size):
        found.insert(0, flat % length)
        flat = flat // length
    return found


class MomentSums:
    """Adds up columns of both networks, less the means of the first ones so that sums of squares keep their digits."""

    def __init__(self):
        self.shifts = None
        self.square = self.cross = self.first = self.second = 0.0
        self.columns = 0

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Adds columns (B, G, N, P): `before` of the float network, `after` of the quantized one."""
        before, after = (x.permute(1, 2, 0, 3).flatten(2) for x in (before, after))
        if self.shifts is None:
            self.shifts = before.mean(-1), after.mean(-1)
        before, after = (x - shift[..., None] for x, shift in zip((before, after), self.shifts))
        self.square = self.square + (after @ after.mT).double()
        self.cross = self.cross + (before @ after.mT).double()
        self.first = self.first + before.sum(-1, dtype=torch.float64)
        self.second = self.second + after.sum(-1, dtype=torch.float64)
        self.columns += after.shape[-1]

    def moments(self, centred: bool) -> Moments:
        """Computes the moments of all columns so far; centred: around the means."""
        square, cross = self.square / self.columns, self.cross / self.columns
        first, second = self.first / self.columns, self.second / self.columns
        means = first + self.shifts[0], second + self.shifts[1]
        square = square - second[..., :, None] * second[..., None, :]
        cross = cross - first[..., :, None] * second[..., None, :]
        if not centred:
            square = square + means[1][..., :, None] * means[1][..., None, :]
            cross = cross + means[0][..., :, None] * means[1][..., None, :]
        return Moments(square, cross, means, self.columns)


def moments_of(module: nn.Module, before: torch.Tensor, after: torch.Tensor, centred: bool) -> Moments:
    """Measures a layer's moments on its inputs in the float and in the quantized network, (B, ...) both.

    Where there are more columns than needed, equally many of each item of the batch are drawn, in every run the same.
    centred: whether products are of inputs less their means.
    """
    if before.dim() == 2:  # rows for a linear layer, of an utterance or a frame each
        before, after = before[None], after[None]
    there, length = places(module, before), math.prod(module.weight.shape[1:])
    wanted = -(-max(LEAST_COLUMNS, COLUMNS_PER_INPUT * length) // len(before))
    draw, sums = torch.Generator().manual_seed(0), MomentSums()
    for one, other in zip(before.split(PART), after.split(PART)):
        # Each part has its own places.
        chosen = torch.randperm(there, generator=draw)[:wanted] if wanted < there else torch.arange(there)
        sums.add(patches(module, one, chosen), patches(module, other, chosen))
    return sums.moments(centred)


def sequence_moments(before: torch.Tensor, after: torch.Tensor, centred: bool) -> Moments:
    """Measures the moments of inputs (B, T, N), of both networks, to a matrix that is applied at every step."""
    sums = MomentSums()
    for one, other in zip(before.split(PART), after.split(PART)):
        sums.add(*(x.transpose(1, 2)[:, None] for x in (one, other)))
    return sums.moments(centred)
