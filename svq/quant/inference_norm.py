"""Batch norm at inference is one scale and one shift a channel: half of what it keeps in training."""

from __future__ import annotations

from collections.abc import Sequence

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


@torch.no_grad()
def scales_and_shifts(norms: Sequence[_BatchNorm]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What each of `norms` applies in eval mode: scale and shift (C,), float32 on the CPU, computed in float64.

    All norms at once: a deep network has a hundred of them, of a few hundred channels each.
    """
    if not norms:
        return []
    sizes = [norm.num_features for norm in norms]
    mean, var = (torch.cat([getattr(norm, name) for norm in norms]).double().cpu()
                 for name in ("running_mean", "running_var"))
    weight, bias = (torch.cat(learned).double().cpu() for learned in zip(*map(_weight_and_bias, norms)))
    eps = torch.tensor([norm.eps for norm in norms], dtype=torch.float64)
    scale = weight / (var + eps.repeat_interleave(torch.tensor(sizes))).sqrt()
    shift = bias - mean * scale
    return list(zip(scale.float().split(sizes), shift.float().split(sizes)))


def _weight_and_bias(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) both; ones and zeros where the norm learns neither (`affine=False`)."""
    if norm.affine:
        return norm.weight, norm.bias
    return torch.ones_like(norm.running_mean), torch.zeros_like(norm.running_mean)


def folded(norm: _BatchNorm) -> FoldedBatchNorm:
    """What `norm` does in eval mode, as a module; one without memory of a norm on the meta device."""
    if norm.running_mean.is_meta:
        return FoldedBatchNorm(norm.num_features).to("meta")
    new = FoldedBatchNorm(norm.num_features)
    ((scale, shift),) = scales_and_shifts([norm])
    new.scale.copy_(scale)
    new.shift.copy_(shift)
    return new


def fold_batch_norm_(net: nn.Module) -> nn.Module:
    """Replaces every batch norm of `net`, in place; returns `net`."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, folded(child))
    return net
