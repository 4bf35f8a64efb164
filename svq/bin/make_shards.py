"""Makes and checks shards: tar archives of compressed recordings that training reads in long pieces.

  write DATA STEM           one job's shards of a data directory, STEM.NNNNN.tar, with their tables in index/ beside them
  index STEM SHARD...       tables of one job's part of shards that are there, such as WeSpeaker's
  join OUT STEM             the data directory of all shards of STEM, made from --data
  join OUT STEM SHARD...    the data directory of shards that `index` has read
  check DATA                reads all shards of a data directory, and says which recordings are not as they were made

steps/make_shards.sh runs the first and third, utils/data_from_shards.sh the second and fourth. What a killed job left
whole is not made again. A shard holds KEY.spk and KEY.flac (or .ogg, .wav, .m4a, ...) of each utterance, as WeSpeaker's do.
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
        shards = shard_making.tables_of(options.stem, options.shards, options.data)
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
                       help="flac: the very samples of 16-bit recordings; vorbis, opus: smaller, and others; "
                       "original: the files as they are")
    write.add_argument("--rate", type=int, default=16000, help="samples per second of what is encoded")
    write.add_argument("--megabytes", type=float, default=256.0, help="about how large a shard is")
    write.add_argument("--quality", type=float, help="of vorbis and opus, 0 (smallest) to 1; default: 0.6 of vorbis, 0.15 of opus")
    write.add_argument("--seed", type=int, default=0, help="of the utterances' order")
    index = verbs.add_parser("index")
    index.add_argument("stem", help="name of the tables: in the folder index beside it")
    index.add_argument("shards", nargs="+", help="all shards, of every job")
    for verb in (write, index):
        verb.add_argument("--job", type=int, default=1, help="which share to do, from 1")
        verb.add_argument("--num-jobs", type=int, default=1, help="how many shares there are")
    join = verbs.add_parser("join")
    join.add_argument("out", help="data directory to write")
    join.add_argument("stem", help="as for write or index")
    join.add_argument("shards", nargs="*", help="as for index")
    join.add_argument("--data", help="the data directory that the shards were made from")
    join.add_argument("--speeds", type=float, nargs="+", default=[1.0], metavar="FACTOR",
                      help="at which training reads each utterance, such as 0.9 1 1.1: other speeds make new speakers")
    check = verbs.add_parser("check")
    check.add_argument("data", help="data directory of shards")
    options = arguments.parse_args()
    if options.verb in ("write", "index") and not 1 <= options.job <= options.num_jobs:
        arguments.error(f"--job {options.job} is not between 1 and --num-jobs {options.num_jobs}")
    return options


if __name__ == "__main__":
    run_main(main)
