"""The optimizer and its parameter groups."""

from __future__ import annotations

import torch
from torch import nn

from svq.quant.api import quantizers
from svq.train.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over three groups: matrices with weight decay; norms and
    biases without; quantizer scales without and with their own factor on the learning rate (`factor`).
    """
    scales = {id(p) for _, _, quantizer in quantizers(module) for p in quantizer.parameters()}
    groups: dict[str, list] = {"matrix": [], "vector": [], "scale": []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            kind = "scale" if id(parameter) in scales else "matrix" if parameter.dim() > 1 else "vector"
            groups[kind].append(parameter)
    decay = {"matrix": config.weight_decay, "vector": 0.0, "scale": 0.0}
    factor = {"matrix": 1.0, "vector": 1.0, "scale": config.scale_lr}
    listed = [
        {"params": parameters, "weight_decay": decay[kind], "factor": factor[kind], "lr": 0.0}
        for kind, parameters in groups.items()
        if parameters
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(listed)
    return torch.optim.SGD(listed, lr=0.0, momentum=config.momentum, nesterov=config.momentum > 0)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
