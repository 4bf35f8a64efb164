"""Batch norm at inference is one scale and one shift a channel: half of what it keeps in training."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class FoldedBatchNorm(nn.Module):
    """y = x * scale + shift over channels (dimension 1); replaces a batch norm in eval mode."""

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


def folded(norm: _BatchNorm) -> FoldedBatchNorm:
    """The scale and shift that `norm` applies in eval mode, computed in float64."""
    new = FoldedBatchNorm(norm.num_features)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    new.scale.copy_(scale.detach())
    new.shift.copy_((norm.bias.double() - norm.running_mean.double() * scale).detach())
    return new


def fold_batch_norm_(net: nn.Module) -> nn.Module:
    """Replaces every batch norm of `net`, in place; returns `net`."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, folded(child))
    return net
