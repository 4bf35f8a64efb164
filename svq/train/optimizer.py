"""The optimizer and its parameter groups, learning rate and margin at every step.

Learning rate and margin are pure functions of the step: there is nothing to save and nothing to resume.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from svq.quant.api import quantizers
from svq.train.config import OptimizerConfig, ScheduleConfig


def make_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """Makes the optimizer of `module`: SGD with Nesterov momentum, or AdamW, over three groups of parameters.

    Matrices have weight decay; norms and biases have none; quantizer scales have none, and their own factor on the
    learning rate (`factor` of the group).
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
    fused = next(module.parameters()).is_cuda or None
    if config.name == "adamw":
        return torch.optim.AdamW(listed, fused=fused)
    return torch.optim.SGD(listed, lr=0.0, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Takes up the state of a checkpoint, which may have been written on another device."""
    for group, own in zip(state["param_groups"], optimizer.param_groups):
        group["fused"] = own["fused"]  # before it is loaded: it decides where the numbers of steps are kept
    optimizer.load_state_dict(state)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of each group: `lr` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def learning_rate(config: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Computes the learning rate of step `step` (from 0) in a run of `epochs` epochs."""
    total = steps_per_epoch * epochs
    warmup = min(config.warmup_epochs * steps_per_epoch, total)
    # The decay begins at step 0, as in WeSpeaker, so that warm-up only scales the curve down.
    share = step / max(total - 1, 1)
    if config.decay == "exponential":
        lr = config.lr * (config.final_lr / config.lr) ** share
    else:
        lr = config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share))
    return lr * min(1.0, (step + 1) / warmup) if warmup else lr


def margin(config: ScheduleConfig, step: int, steps_per_epoch: int) -> float:
    """Computes the AAM margin of step `step` (from 0)."""
    start = config.margin_start_epoch * steps_per_epoch
    full = config.margin_full_epoch * steps_per_epoch
    if step >= full:
        return config.margin
    return config.margin * max(0.0, step - start) / (full - start)
