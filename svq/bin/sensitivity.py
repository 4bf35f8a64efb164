"""Measures how sensitive each layer of a float model is to quantization: its average Hessian trace.

The loss is that of the model's training: AAM softmax with the classifier, scale and margin it was
trained with, on random crops of the training data, without augmentation. Writes OUT, a table with a row for each
layer. Killed and started again, it goes on from OUT.resume and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys

import torch
from torch import nn

from svq.atomic import remove_leftovers
from svq.cli import parser, progress, run_main
from svq.config import read_tree
from svq.data.dataset import EpochBatches, TrainSet, make_loader
from svq.data.fbank import Fbank, mean_normalize
from svq.errors import UserError, some_of
from svq.models import FrontEndConfig, load_model
from svq.quant.sensitivity import LayerSensitivity, StoppingRule, TraceEstimator, write_sensitivity
from svq.train.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from svq.train.folders import take_head
from svq.train.heads import AAMSoftmax
from svq.train.objective import Objective


def main() -> None:
    options = parse_options()
    rule = stopping_rule(options)
    if options.device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {options.device}: no CUDA device here; use --device cpu")
    torch.set_num_threads(options.num_threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 throughout, as on the CPU
    net, config = load_model(options.model)
    if config.quant is not None:
        raise UserError(f"{options.model}: is quantized; measure the float model that it was made from")
    options = with_defaults_of_training(options)
    train_set = TrainSet(options.data, options.input, options.crop_seconds, options.seed, rate=config.front_end.rate)
    head = AAMSoftmax(config.embed_dim, train_set.num_speakers, options.scale)
    take_head(head, options.model, train_set)
    loss = Loss(net, head, config.front_end, train_set, options.margin, options.device)
    checkpoint = Checkpoint(f"{options.out}.resume", run_id(options))
    estimator = TraceEstimator(net, loss, rule, options.seed, checkpoint.load())
    batches = endless_batches(train_set, options.batch_size, options.seed, estimator.probes)
    for _ in progress(estimator.run(batches), rule.max_probes - estimator.probes, "probes"):
        checkpoint.save(estimator.samples)
    rows = estimator.results()
    write_sensitivity(options.out, rows)
    checkpoint.remove()
    report(options.out, rows, rule)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder of the float model, classifier included")
    arguments.add_argument("--data", required=True, help="Kaldi data directory that it was trained on")
    arguments.add_argument("--out", required=True, help="table to write, sensitivity.tsv")
    arguments.add_argument("--input", choices=["wav", "feats"], help="wav.scp or feats.scp; default: as in the training")
    arguments.add_argument("--crop-seconds", type=float, help="length of a crop; default: as in the training")
    arguments.add_argument("--margin", type=float, help="margin of the loss; default: the training's last")
    arguments.add_argument("--batch-size", type=int, default=4, help="crops in a probe")
    arguments.add_argument("--min-probes", type=int, default=20, help="probes of a layer, at least")
    arguments.add_argument("--max-probes", type=int, default=200, help="probes of a layer, at most")
    arguments.add_argument("--tolerance", type=float, default=0.05, help="standard error to reach, relative to the trace")
    arguments.add_argument("--seed", type=int, default=1, help="seed of crops, their order and probes")
    arguments.add_argument("--num-threads", type=int, default=2, help="CPU threads")
    arguments.add_argument("--device", default="cpu", help="cpu or cuda")
    return arguments.parse_args()


def stopping_rule(options) -> StoppingRule:
    """The rule that the options give; UserError for one that is out of range, other options included."""
    for name, lowest in (("batch_size", 1), ("num_threads", 1), ("seed", 0)):
        if getattr(options, name) < lowest:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least {lowest}")
    if options.margin is not None and not 0 <= options.margin < math.pi / 2:
        raise UserError(f"--margin {options.margin:g}: must be in [0, pi/2)")
    try:
        return StoppingRule(options.min_probes, options.max_probes, options.tolerance)
    except ValueError as error:
        raise UserError(f"--min-probes, --max-probes, --tolerance: {error}") from None


def with_defaults_of_training(options):
    """`options` with `scale`, and where they were not given input, crop and margin, of the model's training."""
    path = os.path.join(options.model, "provenance.yaml")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; a folder that svq.bin.train wrote is needed")
    config = read_tree(path).get("config")
    try:
        trained = {"scale": float(config["scale"]), "margin": float(config["schedule"]["margin"]),
                   "input": config["data"]["input"], "crop_seconds": float(config["data"]["crop_seconds"])}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: does not tell how the model was trained; a folder that svq.bin.train wrote "
                        "is needed") from None
    given = {name: value for name, value in vars(options).items() if value is not None}
    return argparse.Namespace(**{**trained, **given})


class Loss(nn.Module):
    """A batch of crops as `TrainSet` gives them -> the classification loss."""

    def __init__(self, net, head: AAMSoftmax, front_end: FrontEndConfig, train_set: TrainSet, margin: float, device):
        super().__init__()
        self.objective = Objective(net, head)
        self.fbank = Fbank(front_end.num_mels, front_end.rate)
        self.front_end, self.train_set, self.margin, self.device = front_end, train_set, margin, device
        self.to(device)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, labels = batch
        feats = inputs.to(self.device)
        if self.train_set.input == "wav":
            feats = self.fbank(feats)
        if feats.shape[-1] != self.front_end.num_mels:
            raise UserError(f"{self.train_set.data_dir}/feats.scp: features of {feats.shape[-1]} dimensions, the model "
                            f"takes {self.front_end.num_mels}; make them with the model's front end")
        if self.front_end.mean_normalize:
            feats = mean_normalize(feats)
        return self.objective(feats, labels.to(self.device), self.margin)[0]


def endless_batches(train_set: TrainSet, batch_size: int, seed: int, first: int):
    """Yields batches from number `first` on; as in training, every epoch brings new crops in a new order."""
    epoch, start = divmod(first, len(EpochBatches(len(train_set), batch_size, seed, 0)))
    for epoch in itertools.count(epoch):
        batches = EpochBatches(len(train_set), batch_size, seed, epoch, start_batch=start)
        yield from make_loader(train_set, batches, epoch, num_workers=0)
        start = 0


class Checkpoint:
    """The samples so far, in a file; those of another run are not taken up."""

    def __init__(self, path: str, run_id: str):
        self.path, self.run_id = path, run_id

    def load(self) -> dict[str, list[float]] | None:
        remove_leftovers(self.path)
        state = load_checkpoint(self.path)
        if state is None:
            return None
        if state["run_id"] != self.run_id:
            print(f"{self.path} belongs to another model, other data or options: starting anew", flush=True)
            return None
        print(f"resuming from {self.path}", flush=True)
        return state["samples"]

    def save(self, samples: dict[str, list[float]]) -> None:
        save_checkpoint(self.path, {"run_id": self.run_id, "samples": samples})

    def remove(self) -> None:
        if os.path.exists(self.path):
            os.unlink(self.path)


def run_id(options) -> str:
    """Digest of all that the table depends on."""
    settings = {name: value for name, value in vars(options).items() if name not in ("model", "data", "out")}
    files = [os.path.join(options.model, name) for name in ("model.safetensors", "head.safetensors", "config.yaml")]
    files += [os.path.join(options.data, name) for name in ("utt2spk", "wav.scp", "feats.scp", "utt2dur")]
    return fingerprint(settings, *[("file", path) for path in files if os.path.exists(path)])


def report(path, rows: list[LayerSensitivity], rule: StoppingRule) -> None:
    worst = max(rows, key=lambda row: row.relative_error)
    print(f"{path}: {len(rows)} layers, up to {max(row.samples for row in rows)} probes, relative standard error at "
          f"most {worst.relative_error:.2g} ({worst.layer})")
    short = [row.layer for row in rows if row.relative_error > rule.tolerance]
    if short:
        print(f"above the tolerance of {rule.tolerance:g} after {rule.max_probes} probes: {some_of(short)}; "
              "more --max-probes would help", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
