"""Batch norms that fit a network whose weights were changed after training: their statistics are measured anew."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_BATCH = 16  # utterances held at a time, at most


@torch.no_grad()
def measure_norms_(net: nn.Module, feats: torch.Tensor) -> nn.Module:
    """Means and variances of every batch norm of `net` become those of features (B, T, F), in place; returns `net`, in
    eval mode. Over several batches, as equal as can be, they are the mean of each batch's. Scales and shifts stay as
    they were learned. At least two utterances: norms behind the pooling see one value of each.
    """
    norms = [module for module in net.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for batch in feats.tensor_split(-(-len(feats) // _BATCH)):  # none is left with a single utterance
        net(batch)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return net.eval()
