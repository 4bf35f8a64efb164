"""Speaker embeddings of one job's share of a Kaldi data directory.

Writes OUT.ark and OUT.scp (Kaldi float vectors, keys sorted), whole or not at
all. The features are those of training: feats.scp, or the model's front end on
wav.scp, less the utterance's mean where the model says so. An utterance that
cannot be read, is shorter than one frame or gives no finite embedding is an
error that names it, after all others have been tried.
"""

from __future__ import annotations

import sys

from svq.cli import parser, progress, run_main
from svq.errors import UserError, some_of


def main() -> None:
    options = parse_options()
    import torch

    from svq.data.features import write_ark
    from svq.extraction import Utterances, embed
    from svq.models import load_model
    from svq.quant.api import freeze_

    if options.device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {options.device}: no CUDA device here; use --device cpu")
    torch.set_num_threads(options.num_threads)
    torch.backends.cudnn.allow_tf32 = False  # the same embeddings as on the CPU, up to rounding
    net, config = load_model(options.model)
    freeze_(net)
    utterances = Utterances(options.data_dir, config.front_end, options.input, options.job, options.num_jobs,
                            options.max_seconds, options.device)
    found = dict(progress(embed(net, utterances, options.batch_frames, options.device), len(utterances), "extract"))
    failed = sorted(key for key, result in found.items() if isinstance(result, UserError))
    for key in failed:
        print(f"{key}: {found[key]}", file=sys.stderr)
    if failed:
        raise UserError(f"{options.data_dir}: {len(failed)} of {len(utterances)} utterances have no embedding: "
                        f"{some_of(failed)}")
    write_ark(f"{options.out}.ark", f"{options.out}.scp", ((key, found[key]) for key in utterances.keys))


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("data_dir", help="Kaldi data directory")
    arguments.add_argument("model", help="model folder, or a packed .svq file")
    arguments.add_argument("out", help="the outputs' name without .ark and .scp")
    arguments.add_argument("--job", type=int, default=1, help="which share to do, from 1")
    arguments.add_argument("--num-jobs", type=int, default=1, help="how many shares there are")
    arguments.add_argument("--input", choices=["auto", "wav", "feats"], default="auto",
                           help="what to read; auto: feats.scp where it is there and the model takes such features")
    arguments.add_argument("--max-seconds", type=float, default=0.0, help="read so much of each utterance; 0: all")
    arguments.add_argument("--batch-frames", type=int, default=4000, help="frames in a batch of equal lengths")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    arguments.add_argument("--device", default="cpu", help="cpu or cuda")
    options = arguments.parse_args()
    if not 1 <= options.job <= options.num_jobs:
        arguments.error(f"--job {options.job} is not between 1 and --num-jobs {options.num_jobs}")
    for name in ("batch_frames", "num_threads"):
        if getattr(options, name) < 1:
            arguments.error(f"--{name.replace('_', '-')} must be at least 1")
    if options.max_seconds < 0:
        arguments.error("--max-seconds must not be negative")
    return options


if __name__ == "__main__":
    run_main(main)
