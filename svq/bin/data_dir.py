"""Makes, checks and mends Kaldi data directories. The scripts in utils/ with Kaldi's names run this.

`python -m svq.bin.data_dir VERB --help` says what a verb takes.
"""

import os
import sys

from svq import cli
from svq.backend.trial_paths import take_trials
from svq.data import fix, given, reshape, speed, trials, validate
from svq.data.aside import set_aside
from svq.data.audio import write_utt2dur
from svq.data.datadir import DataDir, write_spk2utt
from svq.data.shared import require_disjoint
from svq.data.table import Table
from svq.errors import UserError, some_of
from svq.progress import progress


def do_validate(args) -> int:
    problems = validate.validate(args.data, args.check_audio, args.threads, args.limit)
    for line in problems.lines():
        print(line, file=sys.stderr)
    if problems.total:
        noun = "problem" if problems.total == 1 else "problems"
        raise UserError(f"{args.data}: {problems.total} {noun}")
    folder = DataDir(args.data)
    print(f"{args.data}: sound; {len(folder.utt2spk)} utterances of {len(folder.speakers)} speakers")
    if told := problems.about_rates():
        print(f"{args.data}: {told}", file=sys.stderr)


def do_fix(args) -> None:
    result = fix.fix(args.data, args.check_audio, args.threads)
    for line in result.dropped[: args.limit]:
        print(f"dropped {line}", file=sys.stderr)
    if len(result.dropped) > args.limit:
        more = len(result.dropped) - args.limit
        print(f"... and {more} more: {os.path.join(args.data, '.backup', 'dropped')}", file=sys.stderr)
    changed = f"rewrote {some_of(result.changed, 20)}; originals in .backup" if result.changed else "nothing to mend"
    print(f"{args.data}: kept {result.kept} of {result.total} utterances, dropped {len(result.dropped)} lines; {changed}")


def do_split(args) -> None:
    print(reshape.split(args.data, args.jobs, args.per_utt))


def do_subset(args) -> None:
    if sum(x is not None for x in (args.count, args.utt_list, args.spk_list)) != 1:
        raise UserError("give one of --count, --utt-list and --spk-list")
    folder = DataDir(args.source)
    if args.count is not None:
        chosen = reshape.choose(folder, args.count, args.how, args.num_spk, args.seed)
    else:
        chosen = reshape.chosen_by_list(folder, args.utt_list or args.spk_list, args.spk_list is not None)
    reshape.subset(args.source, args.dest, chosen)
    print(f"{args.dest}: {len(chosen)} of the {len(folder.utt2spk)} utterances of {args.source}")


def do_combine(args) -> None:
    left_out = reshape.combine(args.dest, args.sources)
    if left_out:
        print(f"{args.dest}: without {', '.join(left_out)}, which not all sources have", file=sys.stderr)
    print(f"{args.dest}: {len(DataDir(args.dest).utt2spk)} utterances of {len(args.sources)} directories")


def do_perturb_speed(args) -> None:
    factors = args.factors.replace(",", " ").split()
    left_out = speed.perturb_speed(args.source, args.dest, factors, args.keep_original)
    if left_out:
        print(f"{args.dest}: without {', '.join(left_out)}, which the speed changes", file=sys.stderr)
    print(f"{args.dest}: {len(DataDir(args.dest).utt2spk)} utterances at the speeds {' '.join(factors)}")


def do_utt2dur(args) -> None:
    write_utt2dur(args.data, args.out, lambda rows: progress(rows, desc="durations"))


def do_merge(args) -> None:
    print(f"{args.out}: {reshape.merge(args.parts, args.out, args.like)} lines")


def do_spk2utt(args) -> None:
    write_spk2utt(args.out, Table.read(args.utt2spk))


def do_make_trials(args) -> None:
    number = None if args.num_nontarget == 0 else args.num_nontarget
    if number is not None and args.or_fewer:
        number = min(number, trials.available(args.data, args.same_gender))
    made = trials.make_trials(args.data, args.name, number, args.same_gender, args.enroll_utts, args.seed,
                              args.once, args.max_tests)
    name = f"trials_{args.name}" if args.name else "trials"
    print(f"{os.path.join(args.data, name)}: {made[0]} target and {made[1]} non-target trials")
    lonely = [] if args.once else trials.without_targets(args.data, args.enroll_utts)
    if lonely:
        print(f"{args.data}: no target trials of speakers with too few utterances: {some_of(lonely)}", file=sys.stderr)


def do_take_trials(args) -> None:
    made = take_trials(args.list, args.data, args.name)
    name = f"trials_{args.name}" if args.name else "trials"
    print(f"{os.path.join(args.data, name)}: {made[0]} target and {made[1]} non-target trials of {args.list}")


def do_copy(args) -> None:
    print(f"{args.dest}: {given.copy(args.source, args.dest, args.root)} utterances of {args.source}")


def do_set_aside(args) -> None:
    left, aside = set_aside(args.source, args.rest, args.aside, args.speakers, args.utts, args.seed)
    print(f"{args.rest}: {left} utterances; {args.aside}: {aside} utterances of {args.speakers} speakers of {args.source}")


def do_disjoint(args) -> None:
    require_disjoint(args.data)


def build_parser():
    parser = cli.parser(__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, *positionals, help):
        name = function.__name__[3:].replace("_", "-")
        sub = verbs.add_parser(name, help=help, description=help, formatter_class=parser.formatter_class)
        sub.set_defaults(function=function)
        for positional in positionals:
            sub.add_argument(positional.rstrip("+"), **({"nargs": "+"} if positional.endswith("+") else {}))
        return sub.add_argument

    def audio_options(add, default):
        add("--check-audio", choices=validate.AUDIO_CHECKS, default=default,
            help="how to check recordings; header: open each, decode: also decode it and look for silence")
        add("--threads", type=int, default=4, help="recordings opened at once")
        add("--limit", type=int, default=20, help="lines shown")

    audio_options(verb(do_validate, "data", help="finds what is wrong; exit status 1 if anything is"), "header")
    audio_options(verb(do_fix, "data", help="sorts the tables, drops lines that do not agree, keeps the originals in .backup"),
                  "none")
    add = verb(do_split, "data", help="splits a directory into DATA/split<N>/1 ... for N jobs")
    add("jobs", type=int)
    add("--per-utt", type=cli.boolean, default=False, help="split by utterance, not by speaker: DATA/split<N>utt")
    add = verb(do_subset, "source", "dest", help="makes a directory of some of the utterances of another")
    add("--count", type=int, help="how many utterances")
    ways = ["even", "first", "last", "shortest", "per-spk", "speakers"]
    add("--how", choices=ways, default="even", help="which ones; per-spk: COUNT of each speaker")
    add("--num-spk", type=int, default=0, help="with per-spk: of so many speakers, drawn; COUNT 0: all of each; 0: of all speakers")
    add("--seed", type=int, default=1, help="seed of the draw of speakers")
    add("--utt-list", help="file whose first column names the utterances")
    add("--spk-list", help="file whose first column names the speakers")
    verb(do_combine, "dest", "sources+", help="makes one directory of several")
    add = verb(do_perturb_speed, "factors", "source", "dest", help="makes copies at other speeds, as new speakers")
    add("--keep-original", type=cli.boolean, default=False, help="keep the unchanged utterances, too")
    verb(do_utt2dur, "data", "out", help="writes the seconds of every utterance")
    add = verb(do_merge, "out", "parts+", help="makes one sorted table of those that jobs wrote")
    add("--like", help="table whose ids must be exactly those of the parts")
    verb(do_spk2utt, "utt2spk", "out", help="makes spk2utt from utt2spk")
    add = verb(do_make_trials, "data", help="makes a trial list: all target pairs and a draw of non-target pairs")
    add("--name", default="", help="writes trials_NAME instead of trials")
    add("--num-nontarget", type=int, default=0, help="non-target pairs to draw; 0: all of them")
    add("--or-fewer", type=cli.boolean, default=False,
        help="true: where fewer pairs exist than --num-nontarget, take them all, without an error")
    add("--same-gender", type=cli.boolean, default=False, help="only pairs of speakers of one gender (spk2gender)")
    add("--enroll-utts", type=int, default=0,
        help="utterances that enroll the model of a speaker; 0: no models, one utterance against another")
    add("--once", type=cli.boolean, default=False,
        help="test every utterance that is in no model once, half of them against the model of their own speaker")
    add("--max-tests", type=int, default=0, help="with --once: how many utterances are drawn to be tested; 0: all")
    add("--seed", type=int, default=0, help="seed of the draw")
    add = verb(do_take_trials, "list", "data", help="writes a trial list of any form, also one of paths, as DATA/trials")
    add("--name", default="", help="writes trials_NAME instead of trials")
    add = verb(do_copy, "source", "dest",
               help="copies a directory made elsewhere, with absolute paths, but no features or trials")
    add("--root", default=".", help="folder that relative paths in wav.scp start from")
    add = verb(do_set_aside, "source", "rest", "aside",
               help="draws speakers, and makes a directory without them and one of them")
    add("--speakers", type=int, required=True, help="speakers to draw")
    add("--utts", type=int, default=0, help="utterances to keep of each drawn speaker; 0: all")
    add("--seed", type=int, default=0, help="seed of the draw")
    verb(do_disjoint, "data+", help="checks that no speaker and no recording is in two of the directories; exit status 1 if one is")
    return parser


def main() -> int | None:
    args = build_parser().parse_args()
    return args.function(args)


if __name__ == "__main__":
    cli.run_main(main)
