"""Makes and checks shards: tar archives of compressed recordings that training reads in long pieces.

  write DATA STEM           writes one job's share of DATA's shards, STEM.NNNNN.tar, with tables in index/ beside them
  index STEM SHARD...       writes the tables of one job's share of existing shards, such as WeSpeaker's
  join OUT STEM             writes the data directory OUT of all shards of STEM, which were made from --data
  join OUT STEM SHARD...    writes the data directory OUT of shards that `index` has read
  check DATA                reads all shards of a data directory; stops at a recording that is not as it was made

steps/make_shards.sh runs the first and third, utils/data_from_shards.sh the second and fourth. Shards that a killed job
completed are not made again. As in WeSpeaker's, each utterance is KEY.spk and KEY.flac (or .ogg, .wav, .m4a, ...).
"""

from __future__ import annotations

import functools

from svq.cli import parser, run_main
from svq.progress import progress


def main() -> None:
    options = parse_options()
    from svq.data import shard_index, shard_making

    if options.verb == "write":
        making = shard_making.Making(options.codec, options.rate, options.megabytes, options.quality, options.seed)
        shard_making.write_part(options.data, options.stem, making, options.job, options.num_jobs,
                                functools.partial(progress, desc="shards"))
    elif options.verb == "index":
        shard_making.index_part(options.shards, options.stem, options.job, options.num_jobs,
                                functools.partial(progress, desc="shards"))
    elif options.verb == "join":
        shards = shard_making.tables_of(options.stem, options.shards)
        count = shard_index.write_data_dir(options.out, shards, options.data, options.speeds)
        print(f"{options.out}: {count} utterances in {len(shards)} shards")
    else:
        print(f"{options.data}: {shard_making.check(options.data, progress)} recordings are as they were made")


def parse_options():
    arguments = parser(__doc__)
    verbs = arguments.add_subparsers(dest="verb", required=True)
    write = verbs.add_parser("write")
    write.add_argument("data", help="Kaldi data directory")
    write.add_argument("stem", help="the shards' name without .NNNNN.tar")
    write.add_argument("--codec", choices=["flac", "vorbis", "opus", "original"], default="flac",
                       help="flac: keeps the samples of 16-bit recordings exactly; vorbis, opus: smaller, but "
                       "samples change; original: the files as they are")
    write.add_argument("--rate", type=int, default=16000, help="sampling rate in Hz; original keeps the files' own")
    write.add_argument("--megabytes", type=float, default=256.0, help="approximate size of a shard")
    write.add_argument("--quality", type=float,
                       help="for vorbis and opus, 0 (smallest) to 1; default: vorbis 0.6, opus 0.15")
    write.add_argument("--seed", type=int, default=0, help="sets the random order of the utterances")
    index = verbs.add_parser("index")
    index.add_argument("stem", help="name of the tables, which are written to the folder index beside it")
    index.add_argument("shards", nargs="+", help="all shards, those of other jobs too")
    for verb in (write, index):
        verb.add_argument("--job", type=int, default=1, help="which share to do, from 1")
        verb.add_argument("--num-jobs", type=int, default=1, help="how many shares there are")
    join = verbs.add_parser("join")
    join.add_argument("out", help="data directory to write")
    join.add_argument("stem", help="as for write or index")
    join.add_argument("shards", nargs="*", help="as for index")
    join.add_argument("--data", help="the data directory that the shards were made from")
    join.add_argument("--speeds", type=float, nargs="+", default=[1.0], metavar="FACTOR",
                      help="speeds at which training reads utterances, such as 0.9 1 1.1; all but 1 make new speakers")
    check = verbs.add_parser("check")
    check.add_argument("data", help="data directory of shards")
    options = arguments.parse_args()
    if options.verb in ("write", "index") and not 1 <= options.job <= options.num_jobs:
        arguments.error(f"--job {options.job} is not between 1 and --num-jobs {options.num_jobs}")
    return options


if __name__ == "__main__":
    run_main(main)
