"""Computes the speaker embeddings of one job's share of a Kaldi data directory.

Writes OUT.ark and OUT.scp (Kaldi float vectors, keys sorted), whole or not at all. The features are those of training:
feats.scp, or the model's front end on wav.scp, less the mean of the utterance where the model says so. A model exported
with its front end inside takes the waveforms themselves. An utterance that cannot be read, is silent or shorter than
one frame, or gives no finite embedding is an error that names it, after all others have been tried.

With --sets, one call does its share of several data directories: DATA_DIR is then the folder that they lie in, and OUT
the folder that gets <set>/embedding.<job>.ark and .scp.
"""

from __future__ import annotations

import os
import sys

from svq.cli import add_extraction_options, check_extraction_options, parser, run_main
from svq.errors import UserError, some_of
from svq.progress import progress


def main() -> None:
    options = parse_options()
    from svq.data.extraction import Utterances, compute_on

    compute_on(options.device, options.num_threads)
    config, takes_waveforms, run = any_model(options)
    for data_dir, out in places(options):
        utterances = Utterances(data_dir, config.front_end, options.input, options.job, options.num_jobs,
                                options.max_seconds, options.device, takes_waveforms)
        extract(run, utterances, data_dir, out)


def any_model(options):
    """Loads the model of the options into torch or a runtime; gives what `torch_model` gives.

    UserError for an exported model on another device than the CPU.
    """
    exported = os.path.splitext(options.model)[1] in (".onnx", ".xml")
    if exported and options.device != "cpu":
        raise UserError(f"{options.model}: an exported model runs on the CPU only; leave out --device")
    in_runtime = exported or options.runtime not in (None, "torch")
    return (exported_model if in_runtime else torch_model)(options)


def places(options) -> list[tuple[str, str]]:
    """Lists (data directory, name of the outputs) for each set, or for the one data directory without --sets."""
    if not options.sets:
        return [(options.data_dir, options.out)]
    return [(os.path.join(options.data_dir, name), os.path.join(options.out, name, f"embedding.{options.job}"))
            for name in options.sets.split(",")]


def extract(run, utterances, data_dir: str, out: str) -> None:
    """Computes the embeddings of one set by `run` and writes them; UserError names the utterances that have none."""
    from svq.data.features import write_ark

    found = dict(progress(run(utterances), len(utterances), "extract"))
    failed = sorted(key for key, result in found.items() if isinstance(result, UserError))
    for key in failed:
        print(f"{key}: {found[key]}", file=sys.stderr)
    if failed:
        raise UserError(f"{data_dir}: {len(failed)} of {len(utterances)} utterances have no embedding: "
                        f"{some_of(failed)}")
    write_ark(f"{out}.ark", f"{out}.scp", ((key, found[key]) for key in utterances.keys))


def torch_model(options):
    """Loads a model folder or .svq into torch, on any device.

    Returns its config, whether it takes waveforms (it does not), and a function of Utterances that yields embeddings.
    """
    from svq.data.extraction import embed
    from svq.models import load_model
    from svq.quant.api import freeze_

    net, config = load_model(options.model)
    freeze_(net)
    return config, False, lambda utterances: embed(net, utterances, options.batch_frames, options.device)


def exported_model(options):
    """Loads a model into one of the runtimes, ONNX Runtime or OpenVINO, on the CPU.

    Returns its config, whether it takes waveforms, and a function of Utterances that yields embeddings.
    """
    from svq.data.extraction import embed_exported
    from svq.deploy.runtimes import load_embedder

    embedder = load_embedder(options.model, options.runtime, options.num_threads)
    waveforms = embedder.input == "waveform"
    return embedder.config, waveforms, lambda utterances: embed_exported(embedder, utterances, options.batch_frames)


def parse_options():
    arguments = parser(__doc__, renamed={"--backend": "--runtime"})
    arguments.add_argument("data_dir", help="Kaldi data directory")
    arguments.add_argument("model", help="model folder, a packed .svq file, or an exported .onnx or .xml")
    arguments.add_argument("out", help="name of the outputs without .ark and .scp")
    arguments.add_argument("--sets", default="", help="data directories under DATA_DIR, separated by commas; empty: one")
    return parsed(arguments)


def parsed(arguments):
    """Adds the options that say how any model runs, and parses all; exits with 2 where one is out of range."""
    add_extraction_options(arguments)
    arguments.add_argument("--runtime", choices=["torch", "onnxruntime", "openvino"],
                           help="what runs the model (None: torch, onnxruntime for .onnx, openvino for .xml)")
    arguments.add_argument("--max-seconds", type=float, default=0.0, help="seconds to read of each utterance; 0: all")
    options = arguments.parse_args()
    check_extraction_options(arguments, options)
    if options.max_seconds < 0:
        arguments.error("--max-seconds must not be negative")
    return options


if __name__ == "__main__":
    run_main(main)
