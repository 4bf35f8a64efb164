"""Holds what an import gives, and the checks of it that all imports share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from svq import nets
from svq.errors import UserError
from svq.importing.plan import Options
from svq.network import ModelConfig


@dataclass(frozen=True)
class Imported:
    """An imported network. net: in eval mode. taken: how many tensors of the checkpoint it got. left_out: the others by
    name, and what each is. notes: lines for the user."""

    net: nn.Module
    config: ModelConfig
    taken: int
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()


def check_mels(path, model: ModelConfig, options: Options) -> None:
    """Checks the number of mel channels that the user gives; UserError where the network has another."""
    if options.num_mels not in (0, model.front_end.num_mels):
        raise UserError(f"{path}: --num-mels {options.num_mels}, but its tensors are those of "
                        f"{model.front_end.num_mels} mel channels; leave the option out")


def check_arch(path, model: ModelConfig, arch: str | None) -> None:
    """Checks that the network is of the architecture that the user asks for (None: any); UserError."""
    if arch is not None and arch != model.arch:
        raise UserError(f"{path}: holds {model.arch}, not {arch}; leave --arch out, or name another file")


def uncommon(model: ModelConfig) -> dict:
    """Picks the options of a network that differ from its architecture's defaults."""
    usual = nets.options_of(model.arch)
    return {name: value for name, value in model.net.items() if value != usual[name]}
