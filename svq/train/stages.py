"""A run as one stage, or, for networks of mixed precision, as several: low bits first."""

from __future__ import annotations

import dataclasses
import os
from typing import Callable

from torch import nn

from svq.distill.objective import Teacher
from svq.errors import UserError
from svq.quant.api import FLOAT_BITS, QuantConfig, quantizable, quantize_, quantizers
from svq.train.config import TrainConfig
from svq.train.distributed import World
from svq.train.loop import Trainer
from svq.train.objective import Objective


@dataclasses.dataclass(frozen=True)
class Stage:
    """Layers of up to `bits` bits are quantized, the others in float (0: all of them); `epochs` of training."""

    bits: int
    epochs: int


def plan_stages(config: TrainConfig, net: nn.Module) -> list[Stage]:
    """The stages of a run: one, or with `multi_stage` one for each bit width that layers of `net` have, ascending.

    Liu et al., section IV, algorithm 1, train every stage until convergence: `stage_epochs` says for how long. Without
    it the stages share `epochs` as equally as they can, the last ones taking what is left over, so that a run of
    several stages costs what a run of one does and the two can be compared.
    Raises UserError where `epochs` are fewer than the stages, or where `stage_epochs` are for another number of them.
    """
    layers = [name for name, _ in quantizable(net)]
    widths = sorted({config.quant.bits_of(name) for name in layers} - {FLOAT_BITS}) if config.quant else []
    if not config.multi_stage or not widths:
        widths = [max(widths, default=0)]
    shares = _shared_epochs(config, widths) if config.stage_epochs is None else _given_epochs(config, widths)
    return [Stage(bits, epochs) for bits, epochs in zip(widths, shares, strict=True)]


def _shared_epochs(config: TrainConfig, widths: list[int]) -> list[int]:
    share, left = divmod(config.epochs, len(widths))
    if not share:
        raise UserError(f"epochs is {config.epochs}, but layers have {len(widths)} bit widths "
                        f"({', '.join(map(str, widths))}) and multi_stage takes an epoch for each; raise epochs")
    return [share + (i >= len(widths) - left) for i in range(len(widths))]


def _given_epochs(config: TrainConfig, widths: list[int]) -> list[int]:
    given = list(config.stage_epochs)
    if len(given) not in (1, len(widths)):
        found = ", ".join(str(bits or FLOAT_BITS) for bits in widths)
        raise UserError(f"stage_epochs is {given}, but the bit widths of the layers are {found}: give a number for "
                        "each of these, or one number for all")
    return given * len(widths) if len(given) == 1 else given


def total_epochs(config: TrainConfig, net: nn.Module) -> int:
    """The epochs of a run in all its stages together; UserError as of plan_stages."""
    return sum(stage.epochs for stage in plan_stages(config, net))


def quantize_up_to_(net: nn.Module, config: QuantConfig, bits: int) -> None:
    """Quantizes the layers of at most `bits` bits from their present float weights; those quantized already stay."""
    done = {name for name, _, _ in quantizers(net)}
    quantize_(net, config, only=[name for name, _ in quantizable(net)
                                 if name not in done and config.bits_of(name) <= bits])


def train(config: TrainConfig, objective: Objective, train_set, folder, run_id: str, world: World = World(),
          teacher: Teacher | None = None, after_epoch: Callable[[int, nn.Module], None] | None = None) -> None:
    """Quantizes and trains the network of `objective`, stage by stage; arguments as of Trainer.

    Each of several stages has its own schedule, optimizer and checkpoint (`checkpoints/stage1/last.pt` and so
    on), and starts from the averaged weights of the one before; epochs, and with them the order of the data,
    go on counting. A run that was killed loads the checkpoints of its finished stages one after the other.
    """
    stages = plan_stages(config, objective.net)
    trainer = None
    for number, stage in enumerate(stages, 1):
        if config.quant is not None:
            quantize_up_to_(objective.net, config.quant, stage.bits)
        checkpoints = "checkpoints" if len(stages) == 1 else os.path.join("checkpoints", f"stage{number}")
        if world.is_main and len(stages) > 1:
            print(f"stage {number} of {len(stages)}: layers of up to {stage.bits} bits, {stage.epochs} epochs", flush=True)
        trainer = Trainer(dataclasses.replace(config, epochs=stage.epochs), objective, train_set, folder, run_id,
                          world, teacher, checkpoints, after=trainer, after_epoch=after_epoch)
        trainer.run()
