"""Chooses, evaluates and runs a cascade of systems: the cheapest one settles most trials, unsure ones go to the next.

  python -m svq.bin.cascade choose --ladder exp/2-4-32.yaml --trials data/dev/trials --limit eer_loss=0.05 \
    --out exp/cascade
  python -m svq.bin.cascade evaluate --ladder exp/cascade/ladder.yaml --trials data/test/trials --out exp/cascade/report
  python -m svq.bin.cascade run --ladder exp/cascade/ladder.yaml --trials data/test/trials --out exp/cascade/run

choose: fits the score map of each rung on a development list, fixes the threshold, and chooses the delta of each rung
within the limits. Writes OUT/ladder.yaml and OUT/<rung>.map.json. These limits exist:
  flip_rate     decisions that differ from the last rung's, a share of the trials
  harmful_rate  those of them where the last rung was right, a share of the trials
  eer_loss      rise of the EER, per cent, absolute
  cost          bit-operations where each trial brings a new test recording, a share of the last rung's
  escalation    trials that leave the first rung, a share of the trials
Where a limit is one of errors, the cheapest setting is taken, else the one with the fewest flips; --goal says otherwise.
evaluate: replays the cascade from score files (`scores` of each rung in the ladder's file). Writes OUT/cascade.tsv,
cascade.md, index.html and, for each list, cascade_<list>.{svg,tsv}: errors against escalation. --runs names folders
that `run` wrote, for the cascade and for single rungs; their seconds go into a table.
run: computes each embedding when a trial first needs it. Writes OUT/trials.tsv, OUT/embeddings.tsv (see
svq.cascade.live_runs) and OUT/summary.json: the costs that they add up to, and the seconds.

The data directory of a trial list is the folder that it lies in; lists are named as in svq.bin.report.
svq.cascade.ladder says what the file of a ladder holds.
"""

from __future__ import annotations

import argparse

from svq.cli import add_device_option, parser, run_main
from svq.errors import UserError
from svq.numbers import number


def main() -> None:
    options = parse_options()
    options.work(options)


def choose(options) -> None:
    from svq.cascade.choose import prepare, save
    from svq.cascade.ladder import load_ladder
    from svq.cascade.live import TrialList

    limits = {}
    for name, value in options.limit:
        if name in limits:
            raise UserError(f"--limit {name} is given twice; keep one")
        limits[name] = value
    fitted = prepare(load_ladder(options.ladder), TrialList(options.trials), limits, options.goal)
    path, found = save(options.out, fitted), fitted.choice
    deltas = ", ".join(f"{rung.name} {rung.delta:.4g}" for rung in fitted.ladder.rungs[:-1])
    print(f"{path}: threshold {fitted.ladder.operating.threshold:.4g}, deltas {deltas}; on {options.trials} "
          f"{100 * found.escalation:.1f} % escalated, cost {100 * found.cost:.1f} %, flips "
          f"{100 * found.flip_rate:.3f} %, EER {found.eer_loss:+.3f} %")


def evaluate(options) -> None:
    from svq.cascade.live_runs import read_runs
    from svq.cascade.page import evaluate_lists, write_report

    runs = read_runs(options.runs)
    lists, ladder = evaluate_lists(options.ladder, options.trials, options.bootstrap, options.seed, options.controls)
    write_report(options.out, lists, ladder, runs, options.title)
    for listed in lists:
        row = listed.rows[0]
        print(f"{listed.name}: EER {row.value('eer'):.2f} % ({row.gap[0]:+.2f}), {row.escalation[0]:.1f} % escalated, "
              f"cost {row.cost[0]:.1f} %, flips {row.value('flips'):.3f} %")
    print(f"{options.out}/index.html written")


def run(options) -> None:
    from svq.cascade.live_runs import run_list
    from svq.data.extraction import compute_on

    compute_on(options.device, options.num_threads)
    found = run_list(options.ladder, options.trials, options.out, options.input, options.num_threads, options.only,
                     options.device)
    print(f"{options.out}/summary.json: {found['trials']} trials, {100 * found['escalation']:.1f} % escalated, "
          f"{sum(found['embeddings'].values())} embeddings in {sum(found['seconds'].values()):.1f} s")


def limit(text: str) -> tuple[str, float]:
    """Reads NAME=NUMBER, a limit; argparse.ArgumentTypeError for other text and for numbers below 0."""
    name, equals, value = text.partition("=")
    try:
        most = number(value)
    except ValueError:
        most = -1.0
    if not (equals and most >= 0):
        raise argparse.ArgumentTypeError(f"'{text}': write it as NAME=NUMBER, such as eer_loss=0.05")
    return name, most


def parse_options():
    arguments = parser(__doc__)
    verbs = arguments.add_subparsers(dest="verb", required=True, metavar="choose|evaluate|run")
    made = {work.__name__: verbs.add_parser(work.__name__, formatter_class=arguments.formatter_class)
            for work in (choose, evaluate, run)}
    for work in (choose, evaluate, run):
        each = made[work.__name__]
        each.set_defaults(work=work)
        each.add_argument("--ladder", required=True, help="YAML of the ladder")
        each.add_argument("--out", required=True, help="folder to write to")
        many = {"nargs": "+"} if work is evaluate else {}
        each.add_argument("--trials", required=True, help="labelled trial list in a data directory", **many)
    made["choose"].add_argument("--limit", type=limit, action="append", required=True, metavar="NAME=NUMBER",
                                help="may be given several times")
    made["choose"].add_argument("--goal", choices=("cost", "flips"),
                                help="what to keep lowest within the limits; default: cost where errors are limited, "
                                     "else flips")
    made["evaluate"].add_argument("--bootstrap", type=int, default=200, help="resamplings of the speakers; 0: none")
    made["evaluate"].add_argument("--seed", type=int, default=0, help="seed of the resamplings and of the random controls")
    made["evaluate"].add_argument("--controls", type=int, default=20, help="random controls to average")
    made["evaluate"].add_argument("--title", default="Multi-precision cascade", help="title of the page")
    made["evaluate"].add_argument("--runs", nargs="+", default=[], metavar="DIR",
                                  help="folders that `run` wrote, to compare")
    made["run"].add_argument("--input", choices=["auto", "wav", "feats"], default="auto",
                             help="what to read; auto: feats.scp where it is there and the model takes such features")
    made["run"].add_argument("--num-threads", type=int, default=1, help="CPU threads")
    add_device_option(made["run"])
    made["run"].add_argument("--only", metavar="RUNG", help="let this rung settle every trial, for comparison")
    options = arguments.parse_args()
    if options.verb == "run" and options.num_threads < 1:
        arguments.error("--num-threads must be at least 1")
    if options.verb == "evaluate" and (options.bootstrap < 0 or options.seed < 0 or options.controls < 1):
        arguments.error("--bootstrap and --seed must not be negative, --controls must be at least 1")
    return options


if __name__ == "__main__":
    run_main(main)
