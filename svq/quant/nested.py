"""Codes within codes: one set of weights that is used at several precisions.

A weight's code of few bits is the beginning of its code of many. Of the sorted thresholds between the levels of the
highest precision, a lower precision keeps only every second, fourth, ... one. KMQAT's levels suit this: they are the
means of equal intervals (Liu et al., "Towards lightweight speaker verification via adaptive neural network
quantization", III-B), and the intervals of 4 bits cut those of 2 bits in four.

One network is trained jointly for all its precisions (Yu et al., "Any-precision deep neural networks", AAAI 2021,
section 3). Each precision has batch norms of its own, because weights of other levels give activations of other
statistics. The paper quantizes the activations too, and its levels are even; here each precision has its own levels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.errors import UserError
from svq.quant.base import Quantizer, sum_to
from svq.quant.nearest import count_below, look_up


class _ToCells(torch.autograd.Function):
    """Looks up levels[codes].

    The gradient passes unchanged to the weights. That of a level is the sum over the weights that have it; it is exact,
    because the codes do not depend on the levels.
    """

    @staticmethod
    def forward(ctx, weight, levels, codes):
        ctx.save_for_backward(levels, codes.to(torch.uint8))
        return look_up(levels, codes)

    @staticmethod
    def backward(ctx, grad):
        levels, codes = ctx.saved_tensors
        found = None
        if ctx.needs_input_grad[1]:
            found = torch.stack([sum_to(grad * (codes == k), level) for k, level in enumerate(levels.unbind(-1))], -1)
        return grad, found, None


class NestedQuantizer(Quantizer):
    """The quantizer `top` of the highest precision, and levels for the beginnings of its codes.

    weight: the weight to be quantized. precisions: ascending, the last one the bits of `top`. `precision` is the one
    in use, the highest until `set_precision_` sets another.

    At the highest precision this is `top`. Each level of a lower precision, (2^bits,) or per channel (C, 2^bits), is
    learned by itself: the thresholds are those of `top`, so that a single scale would have nothing to learn where a
    batch norm follows. Levels start as the means of the weights that have them, where the squared error is least; a
    level that no weight has starts as the mean of the levels of `top` that it stands for. Levels are used sorted, in
    whatever order learning puts them.
    """

    def __init__(self, weight: torch.Tensor, precisions: Sequence[int], top: Quantizer):
        super().__init__(precisions[-1])
        self.precisions, self.precision = tuple(precisions), precisions[-1]
        self.top = top
        codes = top.codes(weight)
        self.lower = nn.ParameterDict({str(bits): nn.Parameter(_cell_means(weight, codes, top.codebook(), bits))
                                       for bits in self.precisions[:-1]})

    def codebook(self) -> torch.Tensor:
        """Returns the levels of the present precision, ascending: (K,) or (C, K)."""
        return self.top.codebook() if self.precision == self.bits else self._levels().detach()

    def thresholds(self) -> torch.Tensor:
        step = 2 ** (self.bits - self.precision)
        return self.top.thresholds()[..., step - 1 :: step]

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.precision == self.bits:
            return self.top(weight)
        return _ToCells.apply(weight, self._levels(), count_below(weight, self.thresholds()))

    def _levels(self) -> torch.Tensor:
        return self.lower[str(self.precision)].sort(-1).values


def _cell_means(weight: torch.Tensor, codes: torch.Tensor, codebook: torch.Tensor, bits: int) -> torch.Tensor:
    """Averages the weights whose codes begin alike, or the levels where there are none: (2^bits,) or (C, 2^bits)."""
    shape = (*codebook.shape[:-1], 2**bits)
    cells = codebook.view(*shape, -1)
    rows = len(weight) if codebook.dim() == 2 else 1
    begin = (codes.long() // cells.shape[-1]).reshape(rows, -1)
    sums = torch.zeros(rows, 2**bits, dtype=torch.float64, device=weight.device)
    counts = sums.scatter_add(1, begin, torch.ones_like(begin, dtype=torch.float64)).view(shape)
    sums = sums.scatter_add(1, begin, weight.detach().reshape(rows, -1).double()).view(shape)
    return torch.where(counts > 0, sums / counts.clamp(min=1), cells.double().mean(-1)).to(weight)


class PrecisionNorms(nn.ModuleDict):
    """A batch norm for each precision, by its bits; all start as copies of `norm`. `precision` is the one in use.

    Yu et al., "Slimmable neural networks", ICLR 2019, section 3.3: switchable batch normalization.
    """

    def __init__(self, norm: _BatchNorm, precisions: Sequence[int]):
        super().__init__({str(bits): copy.deepcopy(norm) for bits in precisions})
        self.precisions, self.precision = tuple(precisions), precisions[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[str(self.precision)](x)

    def lower_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters of the batch norms of all precisions but the highest."""
        return (parameter for bits in self.precisions[:-1] for parameter in self[str(bits)].parameters())


def switch_norms_(net: nn.Module, precisions: Sequence[int]) -> nn.Module:
    """Replaces every batch norm of `net` by one for each precision, where that is not done already; returns `net`."""
    made = {}  # a norm that two modules share stays shared
    for parent in [module for module in net.modules() if not isinstance(module, PrecisionNorms)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, made.setdefault(child, PrecisionNorms(child, precisions)))
    return net


def precisions_of(net: nn.Module) -> tuple[int, ...]:
    """Gives the precisions at which `net` can be used, ascending; none where it is not a nested network."""
    return next((module.precisions for module in net.modules() if isinstance(module, NestedQuantizer)), ())


def set_precision_(net: nn.Module, precision: int) -> nn.Module:
    """Sets `net` to work at a precision, in training and in eval mode, from now on; returns `net`.

    Raises UserError for a precision that `net` was not made for.
    """
    if precision not in precisions_of(net):
        raise UserError(no_such_precision("the network", precisions_of(net), precision))
    for module in net.modules():
        if isinstance(module, (NestedQuantizer, PrecisionNorms)):
            module.precision = precision
    return net


def no_such_precision(where, precisions: Sequence[int], precision: int) -> str:
    """Returns the message, in one line, for a precision that `where` lacks; no precisions: it is not a nested model."""
    if not precisions:
        return f"{where}: not a nested model, so there is no precision to choose; leave precision {precision} out"
    return f"{where}: has the precisions {', '.join(map(str, precisions))}; {precision} is none of them"
