"""Caches a teacher's embeddings at several levels for a data directory, for students to learn from.

LEVEL is utterance, narrowBN, wideBN, sp_aggr, lde_aggr, or layers by name, as in frame2+frame4:stats. A pooling after a
colon (none, mean, stats, lde) replaces the usual one; none keeps every frame (svq/distill/levels.py). Concatenations
need no level of their own: the config of a student lists the levels that are put side by side.

Prints the disk use first, and refuses to start where there is not enough room. Writes OUT/LEVEL.scp, its archives in
OUT/parts, its mean and OUT/LEVEL.json, which says what the level was made from. A level that is there already, from the
same teacher and data, is not made again, and neither are the shares that the jobs of a killed run had finished.
With --num-jobs above 1 each call does one --job; a last call with --finish puts the shares together.
"""

from __future__ import annotations

from svq.cli import add_extraction_options, check_extraction_options, parser, run_main


def main() -> None:
    options = parse_options()
    from svq.data.extraction import compute_on
    from svq.distill.cache_writing import Making
    from svq.models import load_model
    from svq.quant.api import freeze_

    compute_on(options.device, options.num_threads)
    net, config = load_model(options.model)
    making = Making(freeze_(net).to(options.device), config, options.model, options.data, options.out, options.level,
                    options.aggregation, options.input, options.device)
    if not making.levels:
        print(f"{options.out}: {', '.join(options.level)}: there already", flush=True)
        return
    alone = options.num_jobs == 1 and not options.finish
    if options.plan or alone:
        making.check_room()
    if options.plan:
        return
    if not options.finish:
        making.do_job(options.job, options.num_jobs, options.batch_frames)
    if options.finish or alone:
        making.finish(options.num_jobs, options.log)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="the teacher: a model folder, or a packed .svq file")
    arguments.add_argument("--data", required=True, help="Kaldi data directory")
    arguments.add_argument("--out", required=True, help="folder of the cached levels")
    arguments.add_argument("--level", required=True, nargs="+", help="levels to cache")
    arguments.add_argument("--aggregation", help="folder of svq.bin.train_aggregation, for levels of pooling lde")
    arguments.add_argument("--plan", action="store_true", help="print the disk use and stop")
    arguments.add_argument("--finish", action="store_true", help="put the shares of all jobs together")
    add_extraction_options(arguments)
    arguments.add_argument("--log", default="its log", help="log of a job (JOB is its number), which messages name")
    options = arguments.parse_args()
    check_extraction_options(arguments, options)
    return options


if __name__ == "__main__":
    run_main(main)
