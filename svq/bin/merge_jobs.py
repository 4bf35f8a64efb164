"""Merges the tables that the jobs of a step wrote, and makes sure that nothing is missing.

PART and --log hold the word JOB in place of the number of a job. The merged table has exactly the ids of --expected,
sorted. A missing part of a job, or an id that no job wrote, is an error that names it and the log of the job. With
--ark, the archives that the parts point into become one archive, and OUT points into that.
"""

from __future__ import annotations

from svq.cli import parser, run_main
from svq.data.features import merge_parts


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("part", help="table of a job, such as exp/x/part.JOB.scp")
    arguments.add_argument("out", help="the merged table")
    arguments.add_argument("--expected", required=True, help="table whose ids must all be there, such as utt2spk")
    arguments.add_argument("--num-jobs", type=int, required=True, help="how many jobs there were")
    arguments.add_argument("--log", required=True, help="log of a job, which messages name")
    arguments.add_argument("--ark", help="also merge the archives into this one")
    options = arguments.parse_args()
    merge_parts(options.part, options.out, options.expected, options.num_jobs, options.log, options.ark)


if __name__ == "__main__":
    run_main(main)
