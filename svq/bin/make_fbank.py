"""Computes the log-mel features of one job's share of a Kaldi data directory.

Writes OUT.ark, OUT.scp (Kaldi matrices frames x mels, keys sorted), OUT.num_frames and OUT.yaml (the settings of the
features), whole or not at all. Features follow Kaldi's definition: 80 mels, windows of 25 ms every 10 ms, no dither
(svq.data.fbank). An utterance that cannot be read, is silent or shorter than one frame is an error that names it,
after all others have been tried.
"""

from __future__ import annotations

import sys

from svq.atomic import atomic_write
from svq.cli import boolean, parser, run_main
from svq.errors import UserError, some_of
from svq.progress import progress


def main() -> None:
    options = parse_options()
    import torch

    from svq.data.extraction import Utterances
    from svq.data.features import write_ark
    from svq.data.frontend import FrontEndConfig
    from svq.data.stored import write_made

    torch.set_num_threads(options.num_threads)
    front_end = FrontEndConfig(options.rate, options.num_mels, mean_normalize=False)
    utterances = Utterances(options.data_dir, front_end, "wav", options.job, options.num_jobs)
    utterances.order.sort()  # archives are written as they come: in the order of the keys
    failed, frames = [], []

    def readable():
        for key, feats in progress(utterances, len(utterances), "fbank"):
            if isinstance(feats, UserError):
                failed.append(key)
                print(f"{key}: {feats}", file=sys.stderr)
            else:
                frames.append(f"{key} {len(feats)}\n")
                yield key, feats.numpy()
        if failed:
            raise UserError(f"{options.data_dir}: {len(failed)} of {len(utterances)} utterances have no features: "
                            f"{some_of(failed)}")

    compression = options.compression_method if options.compress else "none"
    write_ark(f"{options.out}.ark", f"{options.out}.scp", readable(), compression)
    with atomic_write(f"{options.out}.num_frames") as file:
        file.writelines(frames)
    write_made(f"{options.out}.yaml", front_end)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("data_dir", help="Kaldi data directory")
    arguments.add_argument("out", help="name of the outputs without .ark and .scp")
    arguments.add_argument("--job", type=int, default=1, help="which share to do, from 1")
    arguments.add_argument("--num-jobs", type=int, default=1, help="how many shares there are")
    arguments.add_argument("--num-mels", type=int, default=80, help="mel bands")
    arguments.add_argument("--rate", type=int, default=16000,
                           help="samples per second; recordings at other rates are resampled")
    arguments.add_argument("--compress", type=boolean, default=True, help="Kaldi's compressed matrices; false: float32")
    arguments.add_argument("--compression-method", choices=["two-byte", "speech"], default="two-byte",
                           help="two-byte: within 0.0002 of the log-mels; speech: half the size, within about 0.1")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    options = arguments.parse_args()
    if not 1 <= options.job <= options.num_jobs:
        arguments.error(f"--job {options.job} is not between 1 and --num-jobs {options.num_jobs}")
    return options


if __name__ == "__main__":
    run_main(main)
