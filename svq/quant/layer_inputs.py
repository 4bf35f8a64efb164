"""What goes into a layer's weights: second moments of its inputs, in float and in the quantized network.

A weight (O, I / G, ...) of G groups is seen as (G, O / G, N): in each group rows of N numbers, each row the product of
which with a column of N inputs is an output. A convolution's columns are the patches that it slides over.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

LEAST_COLUMNS = 16384  # looked at of a layer at least (where there are as many), and
COLUMNS_PER_INPUT = 4  # so many times the length of a column
PART = 8  # utterances whose patches are held at a time


@dataclasses.dataclass(frozen=True)
class Moments:
    """What the error of a layer's output is computed from; float64, of columns less their means where `centred`.

    square: (G, N, N) the mean product of the quantized network's inputs with each other. cross: (G, N, N) that of the
    float network's with the quantized one's. means: (G, N) of the one and of the other. columns: how many were looked at.
    """

    square: torch.Tensor
    cross: torch.Tensor
    means: tuple[torch.Tensor, torch.Tensor]
    columns: int


def as_rows(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """(O, I / G, ...) -> (G, O / G, N)."""
    return weight.reshape(groups, len(weight) // groups, -1)


def places(module: nn.Module, x: torch.Tensor) -> int:
    """Count the columns that one input x[0] of a convolution or linear layer has."""
    if isinstance(module, nn.Linear):
        return x[0].numel() // x.shape[-1]
    return math.prod(_output_size(module, x))


def patches(module: nn.Module, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Take the columns at places `chosen` (P,) of the input of a convolution or linear layer: (B, ...) -> (B, G, N, P).

    `as_rows(weight)` times a column is the output at that place, of the flattened output, without its bias.
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
    columns = x.flatten(2)[:, :, at.view(-1)].view(*x.shape[:2], len(chosen), kernel).transpose(2, 3)
    return columns.reshape(len(x), module.groups, -1, len(chosen))


def _output_size(module: nn.Module, x: torch.Tensor) -> list[int]:
    padding = module._reversed_padding_repeated_twice
    axes = range(len(module.kernel_size))
    padded = [x.shape[2 + i] + padding[-2 - 2 * i] + padding[-1 - 2 * i] for i in axes]
    return [(padded[i] - module.dilation[i] * (module.kernel_size[i] - 1) - 1) // module.stride[i] + 1 for i in axes]


def _coordinates(flat: torch.Tensor, size) -> list[torch.Tensor]:
    """Of places in a flattened array of that size, their coordinates."""
    found = []
    for length in reversed(size):
        found.insert(0, flat % length)
        flat = flat // length
    return found


class MomentSums:
    """Adds up columns of both networks, less the means of the first of them, so that sums of squares keep their digits."""

    def __init__(self):
        self.shifts = None
        self.square = self.cross = self.first = self.second = 0.0
        self.columns = 0

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """before, after: (B, G, N, P) of the float and of the quantized network."""
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
    """Measure a layer's moments on its inputs in the float network and in the quantized one, (B, ...) both.

    Where there are more columns than needed, as many of each of the batch are drawn, always the same ones.
    """
    if before.dim() == 2:  # rows for a linear layer, of an utterance or a frame each
        before, after = before[None], after[None]
    there, length = places(module, before), math.prod(module.weight.shape[1:])
    wanted = -(-max(LEAST_COLUMNS, COLUMNS_PER_INPUT * length) // len(before))
    draw, sums = torch.Generator().manual_seed(0), MomentSums()
    for one, other in zip(before.split(PART), after.split(PART)):
        # Not the same places of every part.
        chosen = torch.randperm(there, generator=draw)[:wanted] if wanted < there else torch.arange(there)
        sums.add(patches(module, one, chosen), patches(module, other, chosen))
    return sums.moments(centred)


def sequence_moments(before: torch.Tensor, after: torch.Tensor, centred: bool) -> Moments:
    """Measure the moments of inputs (B, T, N) to a matrix that is applied at every step."""
    sums = MomentSums()
    for one, other in zip(before.split(PART), after.split(PART)):
        sums.add(*(x.transpose(1, 2)[:, None] for x in (one, other)))
    return sums.moments(centred)
