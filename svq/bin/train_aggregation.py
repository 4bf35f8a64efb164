"""Trains a dictionary that turns the frames of several layers of a teacher into one vector (LDE aggregation).

The teacher is frozen. Its frame-level layers, a learnable dictionary encoding and a linear map give a vector, by which
AAM-softmax tells the training speakers apart. Writes OUT/aggregation.safetensors and aggregation.yaml, which
svq.bin.teacher_embeddings takes for levels of pooling lde. If it is killed and started again, it goes on from the last
checkpoint and ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import os

from svq.cli import parser, run_main
from svq.errors import UserError


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--config", required=True, help="YAML, see svq.train.config.AggregationTrainConfig")
    arguments.add_argument("--model", required=True, help="the teacher: a model folder, or a packed .svq file")
    arguments.add_argument("--data", required=True, help="Kaldi data directory")
    arguments.add_argument("--out", required=True, help="folder for the dictionary")
    arguments.add_argument("--noise", help="data directory of noises; only with `augment` in the config")
    arguments.add_argument("--rir", help="data directory of room impulse responses; only with `augment`, too")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a config key, e.g. components=32")
    train(arguments.parse_args())


def train(options) -> None:
    import torch

    from svq.config import load_config, write_provenance
    from svq.data.dataset import TrainSet
    from svq.distill.aggregation import AggregatingTeacher, AggregationConfig, save_aggregation
    from svq.distill.cache import teacher_digest
    from svq.distill.levels import LevelOutputs, find_level
    from svq.models import load_model
    from svq.quant.api import freeze_
    from svq.train.config import AggregationTrainConfig
    from svq.train.distributed import join_world, leave_world
    from svq.train.loop import Trainer
    from svq.train.objective import AAMSoftmax, Objective
    from svq.train.run import with_augmentation

    config = with_augmentation(load_config(options.config, AggregationTrainConfig, options.set), options)
    config.check_keys(options.config)
    torch.set_num_threads(config.num_threads)
    torch.manual_seed(config.seed)
    teacher, model = load_model(options.model)
    level = find_level(config.level, freeze_(teacher))
    if level.pool != "lde":
        raise UserError(f"{options.config}: level '{level.name}' needs no dictionary; lde_aggr does, or layers with "
                        "':lde'")
    outputs = LevelOutputs(teacher, [level], model.front_end.num_mels)
    inputs = outputs.frames(torch.zeros(1, 256, model.front_end.num_mels), level).shape[1]
    made = AggregationConfig(level.name, level.layers, teacher_digest(options.model), inputs, config.channels,
                             config.components, config.dim)
    aggregation = made.build()
    train_set = TrainSet(options.data, config.data.input, config.data.crop_seconds, config.seed, config.augment,
                         rate=model.front_end.rate, speeds=config.data.speeds)
    head = AAMSoftmax(config.dim, train_set.num_speakers, config.scale)
    world = join_world()
    config = dataclasses.replace(config, model=dataclasses.replace(model, quant=None))
    objective = Objective(AggregatingTeacher(outputs, level, aggregation), head)
    Trainer(config, objective, train_set, options.out, run_id(config, made, options), world).run()
    if world.is_main:
        write_provenance(options.out, config, config.seed)
        save_aggregation(options.out, aggregation, made)
    leave_world(world)


def run_id(config, made, options) -> str:
    """Digests all that the result depends on: a run goes on from a checkpoint only if the digests agree.

    config: an AggregationTrainConfig. made: the AggregationConfig of the dictionary that is trained.
    """
    from svq.config import to_dict
    from svq.files import run_digest

    defaults = type(config)()
    config = dataclasses.replace(config, checkpoint_minutes=defaults.checkpoint_minutes,
                                 data=dataclasses.replace(config.data, num_workers=defaults.data.num_workers))
    files = [os.path.join(options.data, name) for name in ("utt2spk", "wav.scp", "feats.scp", "shards.index", "speeds")]
    return run_digest(files, to_dict(config), to_dict(made))


if __name__ == "__main__":
    run_main(main)
