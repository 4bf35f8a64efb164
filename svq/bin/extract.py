"""Speaker embeddings of one job's share of a Kaldi data directory.

Writes OUT.ark and OUT.scp (Kaldi float vectors, keys sorted), whole or not at
all. The features are those of training: feats.scp, or the model's front end on
wav.scp, less the utterance's mean where the model says so. An utterance that
cannot be read, is shorter than one frame or gives no finite embedding is an
error that names it, after all others have been tried.
"""

from __future__ import annotations

import sys

from svq.cli import add_extraction_options, check_extraction_options, parser, progress, run_main
from svq.errors import UserError, some_of


def main() -> None:
    options = parse_options()
    from svq.data.features import write_ark
    from svq.extraction import Utterances, compute_on, embed
    from svq.models import load_model
    from svq.quant.api import freeze_

    compute_on(options.device, options.num_threads)
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
    add_extraction_options(arguments)
    arguments.add_argument("--max-seconds", type=float, default=0.0, help="read so much of each utterance; 0: all")
    options = arguments.parse_args()
    check_extraction_options(arguments, options)
    if options.max_seconds < 0:
        arguments.error("--max-seconds must not be negative")
    return options


if __name__ == "__main__":
    run_main(main)
