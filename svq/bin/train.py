"""Trains a network: a teacher, a student of a teacher, or (with `quant` in the config) a quantized one.

Reads a data directory, writes OUT/model.safetensors, config.yaml, head.safetensors, speakers.txt,
curves.csv, provenance.yaml and checkpoints/last.pt. Killed and started again, it goes on from the last
checkpoint and ends with the same bytes. Runs on all GPUs or processes that torchrun gives it.
"""

from __future__ import annotations

import dataclasses
import os

import torch

from svq.atomic import atomic_write
from svq.cli import parser, run_main
from svq.config import load_config, to_dict, write_provenance
from svq.data.dataset import TrainSet
from svq.distill.objective import EmbeddingObjective
from svq.errors import UserError
from svq.models import ModelConfig, load_model, load_state, load_tensors, save_model, save_tensors
from svq.quant import quantize_
from svq.train.checkpoint import fingerprint
from svq.train.config import TrainConfig
from svq.train.distributed import join_world, leave_world
from svq.train.heads import AAMSoftmax
from svq.train.loop import Trainer
from svq.train.objective import Objective


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--config", required=True, help="YAML, see svq.train.config.TrainConfig")
    arguments.add_argument("--data", required=True, help="Kaldi data directory")
    arguments.add_argument("--out", required=True, help="folder for the model")
    arguments.add_argument("--init", help="model folder to start from, head included")
    arguments.add_argument("--teacher", help="model folder of the teacher; needs `distill` in the config")
    arguments.add_argument("--noise", help="data directory of noises; only with `augment` in the config")
    arguments.add_argument("--rir", help="data directory of room impulse responses, likewise")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a config key, e.g. schedule.lr=0.01")
    options = arguments.parse_args()
    config = with_augmentation(load_config(options.config, TrainConfig, options.set), options)
    check_options(config, options)
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    net, model_config = make_network(config, options.init)
    train_set = TrainSet(options.data, config.data.input, config.data.crop_seconds, config.seed, config.augment,
                         rate=model_config.front_end.rate)
    config = dataclasses.replace(config, model=dataclasses.replace(model_config, quant=None))
    head = AAMSoftmax(model_config.embed_dim, train_set.num_speakers, config.scale)
    if options.init:
        take_head(head, options.init, train_set)
    teacher, objective = make_objective(config, net, head, options.teacher)
    world = join_world()
    trainer = Trainer(config, objective, train_set, options.out, run_id(config, options), world, teacher)
    trainer.run()
    if world.is_main:
        save(options.out, net, head, model_config, train_set, config)
    leave_world(world)


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
    if config.quant is not None and not options.init:
        raise UserError(f"{options.config}: `quant` finetunes a trained network; name it with --init")


def make_network(config: TrainConfig, init: str | None) -> tuple[torch.nn.Module, ModelConfig]:
    """The network to train and the config of the model that comes out."""
    if init is None:
        return config.model.build(), config.model
    net, model_config = load_model(init)
    if config.quant is None:
        return net, model_config
    return quantize_(net, config.quant), dataclasses.replace(model_config, quant=config.quant)


def take_head(head: AAMSoftmax, init: str, train_set: TrainSet) -> None:
    try:
        with open(os.path.join(init, "speakers.txt"), encoding="utf-8") as file:
            speakers = file.read().split()
    except FileNotFoundError:
        raise UserError(f"{init}/speakers.txt: no such file; --init takes a folder that svq.bin.train wrote") from None
    if speakers != list(train_set.speakers):
        raise UserError(f"{init}/speakers.txt: the classifier there was trained on other speakers than "
                        f"{train_set.data_dir} holds; finetune on the data of the first training")
    path = os.path.join(init, "head.safetensors")
    load_state(head, load_tensors(path), path)


def make_objective(config: TrainConfig, net, head: AAMSoftmax, teacher_path: str | None):
    if teacher_path is None:
        return None, Objective(net, head)
    teacher, teacher_config = load_model(teacher_path)
    if teacher_config.front_end != config.model.front_end:
        raise UserError(f"{teacher_path}: its front end {to_dict(teacher_config.front_end)} is not the student's")
    embedding = EmbeddingObjective(config.model.embed_dim, teacher_config.embed_dim)
    return teacher, Objective(net, head, config.distill, embedding)


def run_id(config: TrainConfig, options) -> str:
    """Digest of all that the trained weights depend on; a checkpoint is resumed only where it agrees.

    How many processes read, and how often a checkpoint is written, may change in between.
    """
    defaults = TrainConfig()
    config = dataclasses.replace(
        config, checkpoint_minutes=defaults.checkpoint_minutes,
        data=dataclasses.replace(config.data, num_workers=defaults.data.num_workers))
    files = [os.path.join(options.data, name) for name in ("utt2spk", "wav.scp", "feats.scp")]
    for folder in (options.init, options.teacher):
        files += [os.path.join(folder, "model.safetensors")] if folder else []
    return fingerprint(to_dict(config), *[("file", path) for path in files if os.path.exists(path)])


def save(out: str, net, head: AAMSoftmax, model_config: ModelConfig, train_set: TrainSet, config: TrainConfig) -> None:
    """Writes all that belongs to the model; model.safetensors last, for it says that the rest is there."""
    save_tensors(os.path.join(out, "head.safetensors"), head.state_dict())
    with atomic_write(os.path.join(out, "speakers.txt")) as file:
        file.writelines(f"{speaker}\n" for speaker in train_set.speakers)
    write_provenance(out, config, config.seed)
    save_model(out, net, model_config)


if __name__ == "__main__":
    run_main(main)
