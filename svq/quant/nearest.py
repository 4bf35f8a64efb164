"""The nearest of a few values for each of many weights, and the scale that brings levels nearest to them.

Thresholds and tables are vectors, (K-1,) and (K,), or have a row for each output channel (dimension 0 of
the weight): (C, K-1) and (C, K).
"""

from __future__ import annotations

import torch

PIECE = 1 << 16
TRIES, STEPS = 8, 3
# Samples of weights, of all rows together and at least of each row. Primes, so that weights at even distances visit
# every position in a kernel.
FEW, FEW_OF_ROW = 16381, 509
SOME, SOME_OF_ROW = 262139, 1021


def midpoints(table: torch.Tensor) -> torch.Tensor:
    """Computes the thresholds (..., K-1) midway between the ascending values (..., K) of a table."""
    return (table[..., 1:] + table[..., :-1]) / 2


@torch.no_grad()
def count_below(w: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Counts the thresholds below each weight: its code (int32, shape of w). A tie takes the lower code."""
    rows = thresholds.dim() == 2
    return _in_memory_order(w, lambda x: bucketize(x, thresholds if rows else thresholds[None]), rows)


@torch.no_grad()
def look_up(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Looks up table[codes], or table[c, codes[c]] with a row for each channel; in the memory layout of `codes`."""
    return _in_memory_order(codes, lambda x: table.view(-1).index_select(0, _in_rows(x, table)), table.dim() == 2)


def _in_rows(codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Turns codes (R, N) into indices (R * N,) into the flattened table (K,) or (R, K)."""
    if table.dim() == 2:
        codes = codes + torch.arange(0, table.numel(), table.shape[1], dtype=codes.dtype, device=codes.device)[:, None]
    return codes.reshape(-1)


def bucketize(x: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Counts, for each element of `x` (R, N), the ascending `thresholds` (R, K-1) of its row below it: int32 (R, N).

    The result is that of torch.searchsorted, but several times as fast on a CPU, since the binary search there
    mispredicts branches. Few thresholds are compared one by one. More are counted by cells: a cell's number is computed
    without a branch, a table holds the number of thresholds in lower cells, and one comparison settles the threshold in
    the same cell. This is exact, because a cell's number never falls as x grows, not even in floating point. Cells have
    equal width; where two thresholds would share a cell, cells are an eighth of an octave; where they share that, too,
    torch searches.
    """
    search = _search(x, thresholds)
    if search is None:
        return torch.searchsorted(thresholds.contiguous(), x.contiguous(), out_int32=True)
    codes = torch.empty(x.shape, dtype=torch.int32)
    # Pieces (some rows, or a part of a row) that stay in the cache between the passes.
    height = max(1, PIECE // max(1, x.shape[1]))
    for row in range(0, len(x), height):
        rows = slice(row, row + height)
        for values, out in zip(x[rows].split(PIECE, dim=1), codes[rows].split(PIECE, dim=1)):
            search(values, rows, out)
    return codes


def _search(x: torch.Tensor, thresholds: torch.Tensor):
    """Chooses a callable that counts thresholds faster than torch.searchsorted; None where none does."""
    if x.device.type != "cpu" or x.shape[1] < thresholds.shape[1]:
        return None
    if thresholds.shape[1] <= 3:
        return _Comparisons(thresholds)
    grids = [_Grid]
    if len(thresholds) == 1 and x.dtype == thresholds.dtype == torch.float32 and x.shape[1] >= _Octaves.cells:
        grids.append(_Octaves)
    return next((search for search in (grid(thresholds) for grid in grids) if search.exact), None)


class _Comparisons:
    """Counts the thresholds below values by comparing with each threshold."""

    def __init__(self, thresholds: torch.Tensor):
        self.columns = thresholds.split(1, dim=1)

    def __call__(self, values, rows, out):
        torch.gt(values, self.columns[0][rows], out=out)
        for column in self.columns[1:]:
            out.add_(values > column[rows])


class _Cells:
    """Counts the thresholds below a value by the cell that it is in; `exact` if no two thresholds share a cell.

    cells: how many cells there are. `_cell` gives the cells of values (R, N) as int32 numbers, from the lowest on.
    """

    cells: int

    def _count(self, thresholds: torch.Tensor) -> None:
        taken = self._cell(thresholds, slice(None))
        self.exact = self.exact and bool((taken[:, 1:] > taken[:, :-1]).all())
        if self.exact:
            numbers = torch.arange(self.cells, dtype=torch.int32).repeat(len(taken), 1)
            below = torch.searchsorted(taken, numbers, out_int32=True)
            padded = torch.cat([thresholds, torch.full_like(thresholds[:, :1], float("inf"))], 1)
            self.below, self.within = below, look_up(padded, below)

    def __call__(self, values, rows, out):
        below, within = self.below[rows], self.within[rows]
        at = _in_rows(self._cell(values, rows), below)
        greater = values > within.view(-1).index_select(0, at).view(values.shape)
        torch.add(below.view(-1).index_select(0, at).view(values.shape), greater, out=out)


class _Grid(_Cells):
    """Cells of equal width."""

    def __init__(self, thresholds: torch.Tensor):
        self.cells = 8 * (thresholds.shape[1] + 1)
        # The margin puts the outermost thresholds inside the grid.
        span = thresholds[:, -1:] - thresholds[:, :1]
        margin = (span + thresholds.abs().amax(1, keepdim=True)) / self.cells
        self.scale = self.cells / (span + 2 * margin)
        self.shift = (margin - thresholds[:, :1]) * self.scale
        self.exact = bool(self.scale.isfinite().all())
        self._count(thresholds)

    def _cell(self, values, rows):
        # Product and sum are separate operations. Fused in a loop's body but not in its tail, they could swap cells.
        number = torch.mul(values, self.scale[rows]).add_(self.shift[rows]).clamp_(0, self.cells - 1).to(torch.int32)
        return number.clamp_(0, self.cells - 1)  # NaN became some integer: it must not index outside


class _Octaves(_Cells):
    """Cells of an eighth of an octave, numbered by the leading bits of single precision: for powers of two."""

    cells = 1 << 12

    def __init__(self, thresholds: torch.Tensor):
        self.exact = True
        self._count(thresholds + 0.0)  # -0.0 lies with 0.0

    def _cell(self, values, rows):
        bits = values.contiguous().view(torch.int32)
        ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # a larger negative number has a smaller magnitude
        return (ordered >> 20) + self.cells // 2


def _in_memory_order(x: torch.Tensor, function, rows: bool) -> torch.Tensor:
    """Applies a function of matrices to `x` in the order in which it lies in memory: as one row, or x[0], x[1], ...

    So a channels-last weight is not copied to another layout, and the result keeps the layout: otherwise the
    convolution would convert it again at every step.
    """
    order = sorted(range(x.dim()), key=lambda d: (rows and d > 0, -x.stride(d), d))
    back = sorted(range(x.dim()), key=order.__getitem__)
    dense = x.permute(order)
    return function(dense.reshape(len(x) if rows else 1, -1)).view(dense.shape).permute(back)


@torch.no_grad()
def least_squares_scale(w: torch.Tensor, levels: torch.Tensor, per_channel: bool = False,
                        first: torch.Tensor | None = None) -> torch.Tensor:
    """Finds the alpha > 0, () or (C,), for which the nearest of alpha * levels leave little squared error of w.

    levels: ascending, (K,), or with per_channel (C, K). first: a scale, () or (C,), that is tried as well, so that the
    result is no worse.

    For given codes q the best scale is <w, q> / <q, q>, and it leaves the error ||w||^2 - <w, q>^2 / <q, q>. A few
    scales from half the root mean square to the largest weight are tried, then a few around the best of these (on a
    sample of FEW weights). From there codes and scale are improved in turn (on SOME weights, at the end on all).
    Weights that are all zero get 1.
    """
    rows = w.reshape(len(w) if per_channel else 1, -1)

    def sample(most, of_row):
        size, most = rows.shape[1], max(of_row, most // max(1, len(rows)))
        return rows if size <= most else rows[:, torch.arange(most, device=w.device) * size // most]

    few, some = sample(FEW, FEW_OF_ROW), sample(SOME, SOME_OF_ROW)

    def refit(rows, scale):
        """Computes the best scales (R,) for the codes of `scale`, and by how much they lower the error."""
        if levels.dim() == 1:  # one table for all rows, once each is divided by its scale
            units = (rows / scale[:, None].to(w.dtype)).view(1, -1)
            q = look_up(levels, bucketize(units, midpoints(levels)[None].to(w.dtype))).view(rows.shape)
        else:
            table = levels.repeat(len(rows) // len(levels), 1)
            q = look_up(table, bucketize(rows, (midpoints(table) * scale[:, None]).to(w.dtype)))
        product = (rows * q).sum(1, dtype=torch.float64)
        square = q.square_().sum(1, dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)
        return product / square, product.square() / square

    def best_of(low, high):
        """Finds the best of TRIES scales (R,) at even ratios from `low` to `high`."""
        scales = torch.stack([low * (high / low) ** (i / (TRIES - 1)) for i in range(TRIES)])
        gains = refit(few.repeat(TRIES, 1), scales.view(-1))[1].view(scales.shape)
        return scales.gather(0, gains.argmax(0, keepdim=True))[0]

    largest = rows.abs().amax(1).double().clamp(min=torch.finfo(w.dtype).tiny)
    smallest = torch.maximum(rows.square().mean(1).double().sqrt() / 2, largest / 1000)
    scale, step = best_of(smallest, largest), (largest / smallest) ** (1 / (TRIES - 1))
    scale = best_of(scale / step, scale * step)
    if first is not None:
        other = first.reshape(-1).double()
        scale = torch.where(refit(rows, other)[1] > refit(rows, scale)[1], other, scale)
    for part in [some] * (STEPS - 1) + [rows]:
        fitted, gain = refit(part, scale)
        scale = torch.where(gain > 0, fitted, 1.0)
    return (scale if per_channel else scale[0]).to(w.dtype)
