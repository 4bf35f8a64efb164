"""Measures how sensitive each layer of a float model is to quantization: its average Hessian trace.

With --objective labels the loss is that of the model's training: AAM softmax with the classifier, scale and margin it
was trained with, on random crops of the training data, without augmentation. With --objective embedding it is one
minus the cosine between the embedding and that of the float model itself: the speakers need not be known. Its
gradient is zero at the float weights, so that a probe takes one backward pass, not one for each layer.

Writes OUT, a table with a row for each layer. Killed and started again, it goes on from OUT.resume and ends with the
same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys

import torch
import torch.nn.functional as F
from torch import nn

from svq.atomic import remove_leftovers
from svq.bits.sensitivity import GaussNewtonEstimator, LayerSensitivity, StoppingRule, TraceEstimator, write_sensitivity
from svq.cli import parser, run_main
from svq.config import read_tree
from svq.data.dataset import EpochBatches, TrainSet, make_loader
from svq.data.frontend import FrontEnd, FrontEndConfig, check_stored
from svq.digest import run_digest
from svq.errors import UserError, some_of
from svq.models import load_model
from svq.progress import progress
from svq.train.checkpoint import load_checkpoint, save_checkpoint
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
    if options.objective == "embedding":
        loss, kind = Embeddings(net, config.front_end, train_set, options.device), GaussNewtonEstimator
    else:
        kind = TraceEstimator
        head = AAMSoftmax(config.embed_dim, train_set.num_speakers, options.scale)
        take_head(head, options.model, train_set)
        loss = LabelLoss(net, head, config.front_end, train_set, options.margin, options.device)
    checkpoint = Checkpoint(f"{options.out}.resume", run_id(options))
    estimator = kind(net, loss, rule, options.seed, checkpoint.load())
    batches = endless_batches(train_set, options.batch_size, options.seed, estimator.probes)
    for _ in progress(estimator.run(batches), rule.max_probes - estimator.probes, "probes"):
        checkpoint.save(estimator.samples)
    rows = estimator.results()
    write_sensitivity(options.out, rows)
    checkpoint.remove()
    report(options.out, rows, rule)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder of the float model, for labels with its classifier")
    arguments.add_argument("--data", required=True, help="Kaldi data directory; for labels of its speakers")
    arguments.add_argument("--out", required=True, help="table to write, sensitivity.tsv")
    arguments.add_argument("--objective", choices=["labels", "embedding"], default="labels",
                           help="the loss: of the classifier, or the distance to the float embeddings")
    arguments.add_argument("--input", choices=["wav", "feats"],
                           help="wav.scp or feats.scp; default: as in the training, for embedding wav")
    arguments.add_argument("--crop-seconds", type=float,
                           help="length of a crop; default: as in the training, for embedding 2")
    arguments.add_argument("--margin", type=float, help="margin of the loss of labels; default: the training's last")
    arguments.add_argument("--scale", type=float, help="scale of the loss of labels; default: the training's")
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
    if options.scale is not None and not options.scale > 0:
        raise UserError(f"--scale {options.scale:g}: must be above 0")
    if options.objective == "embedding" and (options.margin is not None or options.scale is not None):
        raise UserError("--margin and --scale are of the loss of labels; leave them out with --objective embedding")
    if options.margin is not None and not 0 <= options.margin < math.pi / 2:
        raise UserError(f"--margin {options.margin:g}: must be in [0, pi/2)")
    try:
        return StoppingRule(options.min_probes, options.max_probes, options.tolerance)
    except ValueError as error:
        raise UserError(f"--min-probes, --max-probes, --tolerance: {error}") from None


def with_defaults_of_training(options):
    """`options` with `scale`, and where they were not given input, crop and margin, of the model's training.

    Where nothing is left to be asked of it, the model need not have been trained here.
    """
    given = {name: value for name, value in vars(options).items() if value is not None}
    if options.objective == "embedding":
        return argparse.Namespace(**{"input": "wav", "crop_seconds": 2.0, **given})
    if {"scale", "margin", "input", "crop_seconds"} <= given.keys():
        return options
    path = os.path.join(options.model, "provenance.yaml")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; a folder that svq.bin.train wrote is needed, or all of --input, "
                        "--crop-seconds, --margin and --scale")
    config = read_tree(path).get("config")
    try:
        trained = {"scale": float(config["scale"]), "margin": float(config["schedule"]["margin"]),
                   "input": config["data"]["input"], "crop_seconds": float(config["data"]["crop_seconds"])}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: does not tell how the model was trained; a folder that svq.bin.train wrote "
                        "is needed, or all of --input, --crop-seconds, --margin and --scale") from None
    return argparse.Namespace(**{**trained, **given})


class Crops(nn.Module):
    """What is computed of a batch of crops as `TrainSet` gives them; this much: their features."""

    def __init__(self, front_end: FrontEndConfig, train_set: TrainSet, device):
        super().__init__()
        if train_set.input == "feats":
            check_stored(front_end, train_set.data_dir)
        self.front_end = FrontEnd(front_end)
        self.train_set, self.device = train_set, device

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Crops (B, samples) or stored features (B, T, F) -> what the network takes, (B, T, F)."""
        inputs = inputs.to(self.device)
        if self.train_set.input == "wav":
            return self.front_end(inputs)
        num_mels = self.front_end.config.num_mels
        if inputs.shape[-1] != num_mels:
            raise UserError(f"{self.train_set.data_dir}/feats.scp: features of {inputs.shape[-1]} dimensions, the model "
                            f"takes {num_mels}; make them with the model's front end")
        return self.front_end.normalize(inputs)


class LabelLoss(Crops):
    """The classification loss (scalar)."""

    def __init__(self, net, head: AAMSoftmax, front_end, train_set, margin: float, device):
        super().__init__(front_end, train_set, device)
        self.objective, self.margin = Objective(net, head), margin
        self.to(device)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, labels = batch
        return self.objective(self.features(inputs), labels.to(self.device), self.margin)[0]


class Embeddings(Crops):
    """The network's embeddings at length 1, (B, D).

    Half the squared distance of two of them is one minus their cosine, the loss whose Hessian is measured.
    """

    def __init__(self, net, front_end, train_set, device):
        super().__init__(front_end, train_set, device)
        self.net = net
        self.to(device)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.normalize(self.net(self.features(batch[0])).float())


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
    names = ["model.safetensors", "config.yaml"] + ["head.safetensors"] * (options.objective == "labels")
    files = [os.path.join(options.model, name) for name in names]
    files += [os.path.join(options.data, name) for name in ("utt2spk", "wav.scp", "feats.scp", "utt2dur")]
    return run_digest(files, settings)


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
