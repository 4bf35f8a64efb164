"""Measures how sensitive each layer of a float model is to quantization: its average Hessian trace.

With --objective labels, the loss is that of the training: AAM softmax with the classifier, scale and margin that the
model was trained with, on random crops of the training data, without augmentation. With --objective embedding, the
loss is one minus the cosine to the embedding of the float model itself: the speakers need not be known. Its gradient is
zero at the float weights, so a probe takes one backward pass for all layers, not one for each.

Writes OUT, a table with a row for each layer. If it is killed and started again, it goes on from OUT.resume and ends
with the same bytes.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

from svq.cli import add_device_option, parser, run_main
from svq.config import read_tree
from svq.files import run_digest
from svq.errors import UserError, some_of
from svq.progress import progress


def main() -> None:
    options = parse_options()
    from svq.bits.sensitivity import GaussNewtonEstimator, TraceEstimator, write_sensitivity
    from svq.data.dataset import TrainSet
    from svq.data.extraction import compute_on
    from svq.models import load_model
    from svq.train.folders import take_head
    from svq.train.objective import AAMSoftmax
    from svq.train.sensitivity import Checkpoint, Embeddings, LabelLoss, endless_batches

    rule = stopping_rule(options)
    compute_on(options.device, options.num_threads)
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
    arguments.add_argument("--model", required=True, help="folder of the float model; for objective labels, with its classifier")
    arguments.add_argument("--data", required=True,
                           help="Kaldi data directory; for objective labels, of the speakers that the model was trained on")
    arguments.add_argument("--out", required=True, help="table to write, sensitivity.tsv")
    arguments.add_argument("--objective", choices=["labels", "embedding"], default="labels",
                           help="loss: that of the classifier, or the distance to the float embeddings")
    arguments.add_argument("--input", choices=["wav", "feats"],
                           help="read wav.scp or feats.scp; default: as in the training; for objective embedding, wav")
    arguments.add_argument("--crop-seconds", type=float,
                           help="length of a crop; default: as in the training; for objective embedding, 2")
    arguments.add_argument("--margin", type=float, help="margin of the loss of labels; default: the last of the training")
    arguments.add_argument("--scale", type=float, help="scale of the loss of labels; default: that of the training")
    arguments.add_argument("--batch-size", type=int, default=4, help="crops in a probe")
    arguments.add_argument("--min-probes", type=int, default=20, help="probes of a layer, at least")
    arguments.add_argument("--max-probes", type=int, default=200, help="probes of a layer, at most")
    arguments.add_argument("--tolerance", type=float, default=0.05,
                           help="a layer is done when the standard error of its trace is at most this share of the trace")
    arguments.add_argument("--seed", type=int, default=1, help="seed of crops, their order and probes")
    arguments.add_argument("--num-threads", type=int, default=2, help="CPU threads")
    add_device_option(arguments)
    return arguments.parse_args()


def stopping_rule(options):
    """Makes the StoppingRule that the options give; UserError where any option of this worker is out of range."""
    from svq.bits.sensitivity import StoppingRule

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
    """Fills in input, crop length, margin and scale where they were not given, from the training of the model.

    Where all of them are given, the model need not have been trained here. UserError where its folder does not tell them.
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


def run_id(options) -> str:
    """Digests all that the table depends on."""
    settings = {name: value for name, value in vars(options).items() if name not in ("model", "data", "out")}
    names = ["model.safetensors", "config.yaml"] + ["head.safetensors"] * (options.objective == "labels")
    files = [os.path.join(options.model, name) for name in names]
    files += [os.path.join(options.data, name) for name in ("utt2spk", "wav.scp", "feats.scp", "utt2dur")]
    return run_digest(files, settings)


def report(path, rows, rule) -> None:
    worst = max(rows, key=lambda row: row.relative_error)
    print(f"{path}: {len(rows)} layers, up to {max(row.samples for row in rows)} probes, relative standard error at "
          f"most {worst.relative_error:.2g} ({worst.layer})")
    short = [row.layer for row in rows if row.relative_error > rule.tolerance]
    if short:
        print(f"above the tolerance of {rule.tolerance:g} after {rule.max_probes} probes: {some_of(short)}; "
              "more --max-probes would help", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
