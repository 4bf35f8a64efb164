"""Learning rate and margin as pure functions of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from svq.config import check_choices


@dataclass(frozen=True)
class ScheduleConfig:
    """Warm-up, decay and margin, in epochs (fractions allowed).

    lr: the highest rate, reached after `warmup_epochs` of linear growth; then `decay` to `final_lr`
    (exponential: the same factor every step; cosine: half a cosine).
    margin: AAM margin; 0 until `margin_start_epoch`, then growing linearly until `margin_full_epoch`.
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
    """The rate of step `step` (from 0) of a run of `epochs` epochs."""
    total = steps_per_epoch * epochs
    warmup = min(config.warmup_epochs * steps_per_epoch, total)
    # The decay counts from step 0, as in WeSpeaker, so that warm-up only scales the curve down.
    share = step / max(total - 1, 1)
    if config.decay == "exponential":
        lr = config.lr * (config.final_lr / config.lr) ** share
    else:
        lr = config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share))
    return lr * min(1.0, (step + 1) / warmup) if warmup else lr


def margin(config: ScheduleConfig, step: int, steps_per_epoch: int) -> float:
    """The margin of step `step` (from 0)."""
    start = config.margin_start_epoch * steps_per_epoch
    full = config.margin_full_epoch * steps_per_epoch
    if step >= full:
        return config.margin
    return config.margin * max(0.0, step - start) / (full - start)
