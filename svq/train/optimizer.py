"""The optimizer and its parameter groups, learning rate and margin at every step.

Learning rate and margin are pure functions of the step: there is nothing to save and nothing to resume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from svq.config import check_choices
from svq.quant.api import quantizers


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer: `sgd` (Nesterov momentum) or `adamw`.

    Norms, biases and quantizer scales have no weight decay. scale_lr: the learning rate of quantizer scales is
    multiplied by this. A scale's gradient sums over a whole layer of weights, so at the weights' own rate it would move
    much faster than they do. Raises ValueError for values out of range.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    grad_clip: float = field(default=5.0, metadata={"infinite": True})
    scale_lr: float = 0.01

    def __post_init__(self):
        check_choices(self)
        for name in ("weight_decay", "scale_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must be at least 0 and below 1")
        if self.grad_clip <= 0:
            raise ValueError(f"grad_clip is {self.grad_clip}; it must be positive (.inf: no clipping)")


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
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


@dataclass(frozen=True)
class ScheduleConfig:
    """Settings of warm-up, decay and margin, in epochs (fractions allowed).

    lr: the highest rate, reached after `warmup_epochs` of linear growth; then it falls by `decay` to `final_lr`
    (exponential: the same factor every step; cosine: half a cosine).
    margin: AAM margin; 0 until `margin_start_epoch`, then growing linearly until `margin_full_epoch`.
    Raises ValueError for values out of range.
    """

    lr: float = 0.1
    final_lr: float = 5e-5
    warmup_epochs: float = 6.0
    decay: Literal["exponential", "cosine"] = "exponential"
    margin: float = 0.2
    margin_start_epoch: float = 20.0
    margin_full_epoch: float = 40.0

    def __post_init__(self):
        check_choices(self)
        if not 0 < self.final_lr <= self.lr:
            raise ValueError(f"final_lr is {self.final_lr}; it must be above 0 and at most lr ({self.lr})")
        if not 0 <= self.margin < math.pi / 2:
            raise ValueError(f"margin is {self.margin}; it must be in [0, pi/2)")
        if self.margin_full_epoch < self.margin_start_epoch:
            raise ValueError("margin_full_epoch must not come before margin_start_epoch")
        for name in ("warmup_epochs", "margin_start_epoch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")


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
