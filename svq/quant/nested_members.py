"""One precision of a nested network as a plain network, like one quantized to those bits alone."""

from __future__ import annotations

import torch
from torch import nn

from svq.errors import UserError
from svq.quant.api import QuantConfig, float_weight, quantizers
from svq.quant.base import Quantizer
from svq.quant.layers import parametrization
from svq.quant.nested import NestedQuantizer, PrecisionNorms, no_such_precision, set_precision_
from svq.quant.quantizers import LevelQuantizer


def member_config(quant: QuantConfig | None, precision: int, where) -> QuantConfig:
    """The config of the plain network at `precision`; UserError naming `where` where a model of `quant` has none."""
    precisions = () if quant is None else quant.precisions or ()
    if precision not in precisions:
        raise UserError(no_such_precision(where, precisions, precision))
    return quant.at(precision)


@torch.no_grad()
def at_precision_(net: nn.Module, precision: int) -> nn.Module:
    """Makes of nested `net`, in place, the plain network of one of its precisions, quantized as `QuantConfig.at` says;
    returns `net`. Its quantized weights are the same, bit for bit.

    The plain quantizer takes the nearest level, where the nested one has the thresholds of its highest precision. So
    below that, the few float weights between the two thresholds are put on the level that they had; all others stay as
    they are.
    """
    set_precision_(net, precision)
    for _, layer, quantizer in list(quantizers(net)):
        if isinstance(quantizer, NestedQuantizer):
            weight = float_weight(layer)
            plain = _plain(quantizer, weight).train(quantizer.training)
            codes = quantizer.codes(weight)
            weight.copy_(torch.where(plain.codes(weight) == codes, weight, quantizer(weight)))
            parametrization(layer)[0] = plain
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, PrecisionNorms):
                setattr(parent, name, child[str(precision)])
    return net


def _plain(quantizer: NestedQuantizer, weight: torch.Tensor) -> Quantizer:
    """The quantizer of its highest precision, or one of the levels of a lower one with a scale of 1, to keep them."""
    if quantizer.precision == quantizer.bits:
        return quantizer.top
    levels = quantizer.codebook()
    return LevelQuantizer(weight, quantizer.precision, levels, torch.ones(levels.shape[:-1]))
