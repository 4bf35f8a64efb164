"""One training run in this process, from its options: what svq.bin.train and the trials of a search have in common."""

from __future__ import annotations

import dataclasses
import os
from typing import Callable

import torch
from torch import nn

from svq.config import load_config, to_dict
from svq.data.dataset import TrainSet
from svq.digest import fingerprint
from svq.distill.levels import file_of
from svq.errors import UserError
from svq.train.config import TrainConfig
from svq.train.distributed import join_world, leave_world
from svq.train.folders import save_trained, starting_network
from svq.train.make_objective import make_head, make_objective
from svq.train.stages import train


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options of svq.bin.train by name; `python -m svq.bin.train --help` says what they are."""

    config: str
    data: str
    out: str
    init: str | None = None
    bits: str | None = None
    teacher: str | None = None
    targets: str | None = None
    noise: str | None = None
    rir: str | None = None
    set: tuple[str, ...] = ()


def run_training(options, after_epoch: Callable[[int, nn.Module], None] | None = None) -> tuple[nn.Module, TrainConfig]:
    """Trains, writes the model folder `options.out`; returns the network and the config, that of --init filled in.

    options: a RunOptions, or arguments parsed to the same names. after_epoch: as of svq.train.loop.Trainer; what it
    raises ends the run, whose last checkpoint stays.
    """
    config = with_augmentation(load_config(options.config, TrainConfig, options.set), options)
    check_options(config, options)
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    net, config = starting_network(config, options, finetune=True)
    train_set = TrainSet(options.data, config.data.input, config.data.crop_seconds, config.seed, config.augment,
                         rate=config.model.front_end.rate)
    head = make_head(config, options, train_set)
    teacher, objective = make_objective(config, net, head, options, train_set)
    world = join_world()
    train(config, objective, train_set, options.out, run_id(config, options), world, teacher, after_epoch)
    if world.is_main:
        save_trained(options.out, net, config, head and head.state_dict(), train_set.speakers)
    leave_world(world)
    return net, config


def with_augmentation(config: TrainConfig, options) -> TrainConfig:
    """`config` with the directories of noise and rooms filled in; without augmentation where there are none."""
    if config.augment is None:
        return config
    found = {"noise_dir": options.noise or config.augment.noise_dir, "rir_dir": options.rir or config.augment.rir_dir}
    if not any(found.values()):
        print(f"{options.config}: no data directory of noise or rooms is given: trained without augmentation", flush=True)
        return dataclasses.replace(config, augment=None)
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, **found))


def check_options(config: TrainConfig, options) -> None:
    if (config.distill is not None) != (options.teacher is not None):
        raise UserError(f"{options.config}: `distill` in the config and --teacher go together; give both or neither")
    if (config.distill is not None and config.distill.targets is not None) != (options.targets is not None):
        raise UserError(f"{options.config}: `distill.targets` in the config and --targets go together; give both or "
                        "neither")
    if config.quant is not None and not options.init:
        raise UserError(f"{options.config}: `quant` finetunes a trained network; name it with --init")
    if options.bits is not None and config.quant is None:
        raise UserError(f"{options.config}: --bits says how many bits layers get, but the config has no `quant`; "
                        "add it to say how they are quantized")


def decisive(config: TrainConfig) -> TrainConfig:
    """`config` without what the trained weights do not depend on: how many processes read, how often a checkpoint is
    written, how a table of bits came about, and what is done in place of training."""
    defaults = TrainConfig()
    return dataclasses.replace(
        config, checkpoint_minutes=defaults.checkpoint_minutes, allocate=None, select=None, ptq=None,
        data=dataclasses.replace(config.data, num_workers=defaults.data.num_workers))


def run_id(config: TrainConfig, options) -> str:
    """Digest of all that the trained weights depend on; a checkpoint is resumed only where it agrees.

    How a table of bits came about may change in between: its bits are in quant.layers.
    """
    files = [os.path.join(options.data, name) for name in ("utt2spk", "wav.scp", "feats.scp")]
    for folder in (options.init, options.teacher):
        files += [os.path.join(folder, name) for name in ("model.safetensors", "head.safetensors")] if folder else []
    if options.targets:  # each level's JSON holds a digest of its values
        files += [os.path.join(options.targets, f"{file_of(name)}.json") for name in config.distill.targets.levels]
    return fingerprint(to_dict(decisive(config)), *[("file", path) for path in files if os.path.exists(path)])
