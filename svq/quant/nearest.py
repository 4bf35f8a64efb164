"""The nearest of a few values for each of many weights, and the scale that brings levels nearest to them.

Thresholds and tables are vectors, (K-1,) and (K,), or have a row for each output channel (dimension 0 of
the weight): (C, K-1) and (C, K).
"""

from __future__ import annotations

import torch

PIECE = 1 << 16
STARTS, STEPS = 12, 5


def midpoints(table: torch.Tensor) -> torch.Tensor:
    """The thresholds (..., K-1) between the ascending values (..., K) of a table."""
    return (table[..., 1:] + table[..., :-1]) / 2


@torch.no_grad()
def count_below(w: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """How many thresholds lie below each weight: its code (int32, shape of w). A tie takes the lower code."""
    if thresholds.dim() == 1:
        return _in_memory_order(w, lambda flat: bucketize(flat, thresholds))
    return _in_memory_order(w, lambda rows: torch.searchsorted(thresholds, rows, out_int32=True), rows=True)


@torch.no_grad()
def look_up(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """table[codes], with a row for each channel table[c, codes[c]]; in the memory layout of `codes`."""
    if table.dim() == 1:
        return _in_memory_order(codes, lambda flat: table.index_select(0, flat))
    start = torch.arange(len(table), dtype=codes.dtype, device=codes.device)[:, None] * table.shape[1]
    flat = table.reshape(-1)
    return _in_memory_order(codes, lambda rows: flat.index_select(0, (rows + start).view(-1)), rows=True)


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


def _in_memory_order(x: torch.Tensor, function, rows: bool = False) -> torch.Tensor:
    """Applies a function of vectors to `x` in the order in which it lies in memory; `rows`: of (C, N) matrices.

    So a channels-last weight is neither copied to another layout nor comes back in one, which would
    make the convolutions after it convert it again at every step.
    """
    order = sorted(range(x.dim()), key=lambda d: (rows and d > 0, -x.stride(d), d))
    back = sorted(range(x.dim()), key=order.__getitem__)
    dense = x.permute(order)
    return function(dense.reshape(len(x), -1) if rows else dense.reshape(-1)).view(dense.shape).permute(back)


@torch.no_grad()
def least_squares_scale(w: torch.Tensor, levels: torch.Tensor, per_channel: bool = False) -> torch.Tensor:
    """The alpha > 0, () or (C,), that makes the squared error of w by its nearest alpha * levels (K,) small.

    For given codes the best scale is <w, q> / <q, q>, and the error it leaves ||w||^2 - <w, q>^2 / <q, q>.
    That is tried with the codes of a few scales from half the root mean square to the largest weight,
    and from the best of them codes and scale are improved in turn. Weights that are all zero get 1.
    """
    rows = w.detach().reshape(len(w) if per_channel else 1, -1)
    thresholds = midpoints(levels)
    largest = rows.abs().amax(1)
    largest = torch.where(largest > 0, largest, 1).double()
    low = torch.clamp(rows.square().mean(1).double().sqrt() / 2, min=largest / 1000)

    best, least = largest, torch.zeros_like(largest)
    for step in range(STARTS + STEPS):
        scale = low * (largest / low) ** (step / (STARTS - 1)) if step < STARTS else best
        q = levels.index_select(0, bucketize((rows / scale[:, None].to(rows.dtype)).view(-1), thresholds)).view_as(rows)
        product = torch.mul(rows, q).sum(1, dtype=torch.float64)
        square = q.square().sum(1, dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)
        gain = product.square() / square
        best, least = torch.where(gain > least, product / square, best), torch.maximum(gain, least)
    return (best if per_channel else best[0]).to(w.dtype)
