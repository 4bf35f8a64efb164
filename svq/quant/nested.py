"""Codes within codes: one set of weights that is used at several precisions.

A weight's code of few bits is the beginning of its code of many: all thresholds between the levels of the highest
precision are sorted, and a lower precision leaves out all but every second, fourth, ... of them. KMQAT's levels are
made for this: they are the means of equal intervals (Liu et al., "Towards lightweight speaker verification via adaptive
neural network quantization", III-B), and the intervals of 4 bits cut those of 2 bits in four.

One network, trained jointly for all its precisions, with batch norms of each one's own, since weights of other levels
give activations of other statistics: Yu et al., "Any-precision deep neural networks", AAAI 2021, section 3. There the
activations are quantized too and levels are even; here each precision has levels of its own.
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
    """levels[codes]. To the weights the gradient passes unchanged; that of the levels is exact, as the codes do not
    depend on them: a level's is the sum over the weights that have it."""

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

    weight: what is to be quantized. precisions: ascending, the last one the bits of `top`. `precision` is the one
    in use, the highest until `set_precision_` says another.

    At the highest precision this is `top`. The levels of a lower one, (2^bits,) or per channel (C, 2^bits), are learned
    one by one: with thresholds that are not its own, a single scale would have nothing to learn where a batch norm
    follows. They start as the means of the weights that have them, which is where the squared error is least; one that
    no weight has starts amid the levels of `top` that it stands for. In whatever order learning puts them, they are
    used sorted.
    """

    def __init__(self, weight: torch.Tensor, precisions: Sequence[int], top: Quantizer):
        super().__init__(precisions[-1])
        self.precisions, self.precision = tuple(precisions), precisions[-1]
        self.top = top
        codes = top.codes(weight)
        self.lower = nn.ParameterDict({str(bits): nn.Parameter(_cell_means(weight, codes, top.codebook(), bits))
                                       for bits in self.precisions[:-1]})

    def codebook(self) -> torch.Tensor:
        """(K,) or (C, K): the levels of the present precision, ascending."""
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
    """(2^bits,) or (C, 2^bits): the means of the weights whose codes begin alike; without any, of the levels."""
    shape = (*codebook.shape[:-1], 2**bits)
    cells = codebook.view(*shape, -1)
    rows = len(weight) if codebook.dim() == 2 else 1
    begin = (codes.long() // cells.shape[-1]).reshape(rows, -1)
    sums = torch.zeros(rows, 2**bits, dtype=torch.float64, device=weight.device)
    counts = sums.scatter_add(1, begin, torch.ones_like(begin, dtype=torch.float64)).view(shape)
    sums = sums.scatter_add(1, begin, weight.detach().reshape(rows, -1).double()).view(shape)
    return torch.where(counts > 0, sums / counts.clamp(min=1), cells.double().mean(-1)).to(weight)


class PrecisionNorms(nn.ModuleDict):
    """A batch norm for each precision, by its bits; all start as `norm`. `precision` is the one in use.

    Yu et al., "Slimmable neural networks", ICLR 2019, section 3.3: switchable batch normalization.
    """

    def __init__(self, norm: _BatchNorm, precisions: Sequence[int]):
        super().__init__({str(bits): copy.deepcopy(norm) for bits in precisions})
        self.precisions, self.precision = tuple(precisions), precisions[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[str(self.precision)](x)

    def lower_parameters(self) -> Iterator[nn.Parameter]:
        """Those of all precisions but the highest."""
        return (parameter for bits in self.precisions[:-1] for parameter in self[str(bits)].parameters())


def switch_norms_(net: nn.Module, precisions: Sequence[int]) -> nn.Module:
    """Puts one for each precision in place of every batch norm of `net` that is not such already; returns `net`."""
    made = {}  # a norm that two modules share is shared afterwards
    for parent in [module for module in net.modules() if not isinstance(module, PrecisionNorms)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, made.setdefault(child, PrecisionNorms(child, precisions)))
    return net


def precisions_of(net: nn.Module) -> tuple[int, ...]:
    """The precisions at which `net` can be used, ascending; none where it is not a nested network."""
    return next((module.precisions for module in net.modules() if isinstance(module, NestedQuantizer)), ())


def set_precision_(net: nn.Module, precision: int) -> nn.Module:
    """From now on `net` works at that precision, in training and in eval mode; returns `net`. UserError where it is
    none of those that it was made for."""
    if precision not in precisions_of(net):
        raise UserError(no_such_precision("the network", precisions_of(net), precision))
    for module in net.modules():
        if isinstance(module, (NestedQuantizer, PrecisionNorms)):
            module.precision = precision
    return net


def no_such_precision(where, precisions: Sequence[int], precision: int) -> str:
    """What is wrong, in one line, where `precision` is not one of the precisions (none: not a nested model)."""
    if not precisions:
        return f"{where}: not a nested model, which has precisions to choose from; leave precision {precision} out"
    return f"{where}: has the precisions {', '.join(map(str, precisions))}; {precision} is none of them"
