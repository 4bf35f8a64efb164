"""One training run in this process, from its options. svq.bin.train and the trials of a search both use it.

A network learns from labels, a teacher that runs beside the student, a teacher's cached levels, or embeddings in files.
A run has one stage or, for networks of mixed precision, several: low bits first.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Callable

import torch
from torch import nn

from svq.config import load_config, to_dict
from svq.data.dataset import TrainSet
from svq.files import run_digest
from svq.distill.cache import Targets
from svq.distill.given import GivenTargets
from svq.distill.levels import file_of
from svq.distill.objective import EmbeddingObjective, Teacher
from svq.errors import UserError
from svq.models import load_model
from svq.quant.api import FLOAT_BITS, QuantConfig, quantizable, quantize_, quantizers
from svq.train.config import TrainConfig
from svq.train.distributed import World, join_world, leave_world
from svq.train.folders import save_trained, starting_network, take_head
from svq.train.loop import Trainer
from svq.train.objective import AAMSoftmax, Objective


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """The options of svq.bin.train by name; `python -m svq.bin.train --help` explains them."""

    config: str
    data: str
    out: str
    init: str | None = None
    bits: str | None = None
    teacher: str | None = None
    targets: str | None = None
    targets_ark: tuple[str, ...] = ()
    noise: str | None = None
    rir: str | None = None
    set: tuple[str, ...] = ()


def run_training(options, after_epoch: Callable[[int, nn.Module], None] | None = None) -> tuple[nn.Module, TrainConfig]:
    """Trains a network and writes the model folder `options.out`; returns the network and the completed config.

    options: a RunOptions, or arguments parsed to the same names. after_epoch: see svq.train.loop.Trainer; an exception
    from it ends the run, whose last checkpoint stays. The config is completed by that of --init. Raises UserError for
    options that do not fit each other.
    """
    config = with_augmentation(load_config(options.config, TrainConfig, options.set), options)
    check_options(config, options)
    if said := config.without_margin():
        print(f"{options.config}: {said}", flush=True)
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    net, config = starting_network(config, options, finetune=True)
    train_set = TrainSet(options.data, config.data.input, config.data.crop_seconds, config.seed, config.augment,
                         rate=config.model.front_end.rate, speeds=config.data.speeds)
    head = make_head(config, options, train_set)
    teacher, objective = make_objective(config, net, head, options, train_set)
    world = join_world()
    train(config, objective, train_set, options.out, run_id(config, options, train_set.targets), world, teacher, after_epoch)
    if world.is_main:
        save_trained(options.out, net, config, head and head.state_dict(), train_set.speakers)
    leave_world(world)
    return net, config


def with_augmentation(config: TrainConfig, options) -> TrainConfig:
    """Fills the directories of noise and rooms into `config`; drops augmentation, saying so, where there are none."""
    if config.augment is None:
        return config
    found = {"noise_dir": options.noise or config.augment.noise_dir, "rir_dir": options.rir or config.augment.rir_dir}
    if not any(found.values()):
        print(f"{options.config}: no data directory of noise or rooms is given: trained without augmentation", flush=True)
        return dataclasses.replace(config, augment=None)
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, **found))


def check_options(config: TrainConfig, options) -> None:
    """Raises UserError where options of a training and its config do not fit: one without the other that it needs."""
    given = bool(options.targets_ark)
    if (config.distill is not None) != (options.teacher is not None or given):
        raise UserError(f"{options.config}: `distill` in the config and --teacher go together; give both or neither "
                        "(embeddings in files, --targets-ark, stand in place of --teacher)")
    if (config.distill is not None and config.distill.targets is not None) != (options.targets is not None or given):
        raise UserError(f"{options.config}: `distill.targets` in the config and --targets go together; give both or "
                        "neither (embeddings in files, --targets-ark, stand in place of --targets)")
    if given:
        check_given(config, options)
    if config.quant is not None and not options.init:
        raise UserError(f"{options.config}: `quant` finetunes a trained network; name it with --init")
    if options.bits is not None and config.quant is None:
        raise UserError(f"{options.config}: --bits says how many bits layers get, but the config has no `quant`; "
                        "add it to say how they are quantized")


def check_given(config: TrainConfig, options) -> None:
    """Raises UserError where `config` or other options ask for more of a teacher than its embeddings in files."""
    if options.teacher is not None or options.targets is not None:
        raise UserError("--targets-ark stands in place of --teacher and --targets; leave those out")
    if config.distill.targets.levels != ("utterance",):
        raise UserError(f"{options.config}: distill.targets.levels is {list(config.distill.targets.levels)}, but embeddings "
                        "in files (--targets-ark) are of the level utterance; take a row that learns that")
    if config.distill.logit_weight > 0:
        raise UserError(f"{options.config}: distill.logit_weight needs the class posteriors of --teacher, and embeddings in "
                        "files (--targets-ark) have none; set it to 0")


def decisive(config: TrainConfig) -> TrainConfig:
    """Resets the settings of `config` that the trained weights do not depend on.

    These are: how many processes read, how often a checkpoint is written, how a table of bits was made, and what is
    done in place of training.
    """
    defaults = TrainConfig()
    return dataclasses.replace(
        config, checkpoint_minutes=defaults.checkpoint_minutes, allocate=None, select=None, ptq=None,
        data=dataclasses.replace(config.data, num_workers=defaults.data.num_workers))


def run_id(config: TrainConfig, options, targets=None) -> str:
    """Computes the digest of all that the trained weights depend on; a checkpoint is resumed only where it agrees.

    targets: the Targets or GivenTargets of the run, if there are some. How a table of bits was made may change in between: its bits are in quant.layers.
    """
    lists = ("utt2spk", "wav.scp", "feats.scp", "segments", "reco2file_and_channel", "shards.index", "speeds")
    files = [os.path.join(options.data, name) for name in lists]
    if config.augment is not None:
        files += [os.path.join(folder, "wav.scp") for folder in (config.augment.noise_dir, config.augment.rir_dir) if folder]
    for folder in (options.init, options.teacher):
        files += [os.path.join(folder, name) for name in ("model.safetensors", "head.safetensors")] if folder else []
    if options.targets:  # each level's JSON holds a digest of its values
        files += [os.path.join(options.targets, f"{file_of(name)}.json") for name in config.distill.targets.levels]
    given = [targets.content] if options.targets_ark else []
    return run_digest(files, to_dict(decisive(config)), *given)


def make_head(config: TrainConfig, options, train_set: TrainSet) -> AAMSoftmax | None:
    """Makes the classifier, or takes that of --init where there is one; returns None where a classifier is of no use.

    It is of no use where the network learns without labels and every utterance has its own speaker, which is how
    Kaldi's data directories say that speakers are unknown.
    """
    if config.distill is not None and config.distill.without_labels and train_set.num_speakers == len(train_set):
        return None
    head = AAMSoftmax(config.model.embed_dim, train_set.num_speakers, config.scale)
    if options.init:
        take_head(head, options.init, train_set)
    return head


def make_objective(config: TrainConfig, net, head: AAMSoftmax | None, options, train_set: TrainSet):
    """Makes the teacher that runs beside the student, and the objective.

    The teacher is None where there is none, or where its cached levels or embeddings in files are enough; these go to
    `train_set.targets`. Raises UserError where teacher, targets and student do not fit each other.
    """
    if options.targets_ark:
        train_set.targets = GivenTargets(options.targets_ark, config.distill.targets, train_set.keys)
        embedding = EmbeddingObjective(config.model.embed_dim, train_set.targets.dim)
        return None, Objective(net, head, config.distill, embedding)
    if options.teacher is None:
        return None, Objective(net, head)
    teacher_net, model = load_model(options.teacher)
    distill, targets = config.distill, config.distill.targets
    if targets is None or distill.logit_weight > 0:
        check_front_ends(config, options.teacher, model)
    teacher = None
    if targets is None or distill.logit_weight > 0:
        teacher_head = None
        if distill.logit_weight > 0:
            teacher_head = AAMSoftmax(model.embed_dim, train_set.num_speakers, config.scale)
            take_head(teacher_head, options.teacher, train_set)
        teacher = Teacher(teacher_net, teacher_head)
    if targets is None:
        return teacher, Objective(net, head, distill, EmbeddingObjective(config.model.embed_dim, model.embed_dim))
    train_set.targets = Targets(options.targets, targets, train_set.keys, options.teacher, teacher_net, model)
    per_frame = train_set.targets.per_frame
    if per_frame and not targets.other_front_end:
        check_front_ends(config, options.teacher, model, "; where that is meant, set distill.targets.other_front_end: true")
    if per_frame and not getattr(net, "has_frame_outputs", False):
        raise UserError(f"{options.config}: {config.model.arch} gives no output for each frame, but levels "
                        f"{', '.join(targets.levels)} need it; take FCStudent with pooling mean, or pool the levels")
    embedding = EmbeddingObjective(config.model.embed_dim, train_set.targets.dim)
    return teacher, Objective(net, head, distill, embedding, per_frame)


def check_front_ends(config: TrainConfig, folder, model, mend: str = "") -> None:
    """Raises UserError, with a mend, where the front end of the teacher in `folder` is not the student's."""
    if model.front_end != config.model.front_end:
        raise UserError(f"{folder}: its front end {to_dict(model.front_end)} is not the student's{mend}")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a run of `epochs` epochs: layers of up to `bits` bits are quantized, the others (0: all) in float."""

    bits: int
    epochs: int


def plan_stages(config: TrainConfig, net: nn.Module) -> list[Stage]:
    """Plans the stages of a run: one, or with `multi_stage` one for each bit width of layers of `net`, ascending.

    Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization", section IV,
    algorithm 1, train every stage until convergence; `stage_epochs` says for how long. Without it the stages share
    `epochs` as equally as possible, the last ones taking what is left over, so that a run of several stages costs what
    a run of one does and the two can be compared.
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
    """Counts the epochs of a run in all its stages together. Raises UserError as plan_stages does."""
    return sum(stage.epochs for stage in plan_stages(config, net))


def quantize_up_to_(net: nn.Module, config: QuantConfig, bits: int) -> None:
    """Quantizes the layers of at most `bits` bits from their present float weights; those quantized already stay."""
    done = {name for name, _, _ in quantizers(net)}
    quantize_(net, config, only=[name for name, _ in quantizable(net)
                                 if name not in done and config.bits_of(name) <= bits])


def train(config: TrainConfig, objective: Objective, train_set, folder, run_id: str, world: World = World(),
          teacher: Teacher | None = None, after_epoch: Callable[[int, nn.Module], None] | None = None) -> None:
    """Quantizes and trains the network of `objective`, stage by stage; the arguments are those of Trainer.

    Each of several stages has its own schedule, optimizer and checkpoint (`checkpoints/stage1/last.pt` and so on), and
    starts from the averaged weights of the stage before. Epochs, and with them the order of the data, go on counting. A
    run that was killed loads the checkpoints of its finished stages one after the other.
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
