"""Decodes the recordings of a data directory to archives of WAVs (utils/copy_wav.sh runs this).

  part DATA ARK             decodes DATA, one job's part, into ARK, with .scp and .utt2dur beside it
  join DATA OUT ARK...      writes the data directory OUT from the parts of DATA

Any format, rate, channel count, archive offset or `command |` that svq reads; mono at --rate comes out, as 16-bit
integers where these hold every sample, else as 32-bit floats. An utterance that cannot be read or is silent is
an error that names it.
"""

import functools

from svq import cli
from svq.data import wavark
from svq.progress import progress


def main() -> None:
    parser = cli.parser(__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    part = verbs.add_parser("part")
    part.add_argument("data")
    part.add_argument("ark")
    part.add_argument("--rate", type=int, default=16000, help="samples per second of what is written")
    join = verbs.add_parser("join")
    join.add_argument("data")
    join.add_argument("out")
    join.add_argument("arks", nargs="+")
    args = parser.parse_args()
    if args.verb == "part":
        wavark.copy_part(args.data, args.ark, args.rate, functools.partial(progress, desc="decoded"))
    else:
        print(f"{args.out}: {wavark.join_parts(args.data, args.out, args.arks)} utterances")


if __name__ == "__main__":
    cli.run_main(main)
