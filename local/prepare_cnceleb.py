#!/usr/bin/env python3
"""Makes Kaldi data directories of CN-Celeb1, and CN-Celeb2, in their official layouts.

cnceleb        the evaluation: the recordings that trials.lst names. `trials`: models idNNNNN-enroll of several
               recordings each (enroll.map); `trials_concat`: the same trials against models idNNNNN-concat, each of one
               recording, in which these are put together. enroll.spk2utt: all models; utt2domain: genres
cnceleb_dev    speakers set aside from dev.lst, with some recordings of each from as many sessions as there are.
               `trials`: all target pairs and a draw of non-target pairs, to calibrate in the domain (--train true)
cnceleb_train  the other speakers of dev.lst and those of CN-Celeb2 (--train true)
"""

from __future__ import annotations

import os

import cnceleb_tree as tree
import numpy as np
from corpus_tools import check_disjoint, draw_trials, safe_id
from prepare_voxceleb import some_utterances
from trial_lists import write_trials
from voxceleb_tree import check_count, read_counts

from svq.cli import boolean, parser, run_main
from svq.data.audio import duration
from svq.data.new_dir import need_folder, wav_value, write_data_dir
from svq.data.table import write_table
from svq.errors import UserError, located, some_of
from svq.progress import progress

# Ways of enrolment: the trial list, and the ending of the names of its models.
WAYS = {"several": ("trials", "-enroll"), "concat": ("trials_concat", "-concat")}
MIXED = "mixed"  # the genre of a recording put together from several genres


def genre_of(name: str) -> str:
    """Gives the genre of a recording: singing-01-002 -> singing; UserError where a recording is named otherwise."""
    genre, _, rest = name.partition("-")
    if not genre or not rest or name != safe_id(name, "-"):
        raise UserError(f"'{name}' is not named <genre>-<session>-<number> in letters, digits, _ - and .")
    return genre


def check_corpora(args) -> None:
    """Checks that the corpora are there; UserError names all that is missing and where it is published."""
    wanted = ["eval/test", *tree.LISTS.values()]
    wanted += ["data"] if "several" in args.enrolment or args.train else []
    wanted += ["eval/enroll"] if "concat" in args.enrolment else []
    wanted += ["dev/dev.lst"] if args.train else []
    root = need_folder(args.cnceleb1, f"CN-Celeb1, {tree.SITE}")
    gone = tree.missing(root, wanted)
    if gone:
        raise UserError(f"{root}: no {some_of(gone, 9)}; CN-Celeb1 is published at {tree.SITE} (cn-celeb_v2.tar.gz)")
    if args.cnceleb2:
        root = need_folder(args.cnceleb2, f"CN-Celeb2, {tree.SITE}")
        gone = tree.missing(root, ("data", "spk.lst"))
        if gone:
            raise UserError(f"{root}: no {some_of(gone)}; CN-Celeb2 is published at {tree.SITE} (cn-celeb2_v2.tar.gz)")


def enrolment_rows(args, root: str, speakers) -> tuple[dict[str, list[str]], dict[str, tuple[str, str, str]]]:
    """Finds model -> utterances and utterance -> (speaker, path, genre) for the speakers that trials.lst enrols."""
    path = os.path.join(root, tree.LISTS["enroll.map"])
    members = tree.read_models(path)
    absent = sorted(set(speakers) - set(members))
    if absent:
        raise UserError(f"{path}: no model of {some_of(absent)}, whom trials.lst enrols")
    models, utterances = {}, {}
    for speaker in progress(sorted(speakers), len(speakers), "enrolment recordings of speakers"):
        names = [name.partition("/")[2] for name in members[speaker]]
        genres = {genre_of(name) for name in names}
        if "several" in args.enrolment:
            # Models of others can test the same recording: as another utterance, under another name.
            models[f"{speaker}-enroll"] = [f"{speaker}-enroll-{name}" for name in names]
            for name in names:
                found = tree.recording(os.path.join(root, "data", speaker, name))
                utterances[f"{speaker}-enroll-{name}"] = (speaker, found, genre_of(name))
        if "concat" in args.enrolment:
            models[f"{speaker}-concat"] = [f"{speaker}-enroll-concat"]
            found = tree.recording(os.path.join(root, "eval", "enroll", f"{speaker}-enroll"))
            utterances[f"{speaker}-enroll-concat"] = (speaker, found, genres.pop() if len(genres) == 1 else MIXED)
    return models, utterances


def write_evaluation(args, counts: dict[str, int]) -> list[str]:
    """Writes data/cnceleb; returns its speakers. Reads everything before it writes anything."""
    root = need_folder(args.cnceleb1, "CN-Celeb1")
    path = os.path.join(root, tree.LISTS["trials.lst"])
    tests = tree.recordings(os.path.join(root, "eval", "test"))
    enrolled, used, kinds, absent, number = set(), set(), set(), {}, 0
    for number, target, speaker, test in tree.read_trials(path):
        kinds.add(target)
        enrolled.add(speaker)
        used.add(test)
        if test not in tests:
            absent.setdefault(test, number)
    if absent:
        text = f"{len(absent)} recordings of the list are not in {root}/eval/test: {some_of(absent)}"
        raise UserError(located(path, next(iter(absent.values())), text))
    if len(kinds) < 2:
        missing = "non-target" if kinds == {True} else "target"
        raise UserError(f"{path}: no {missing} trial in it; is it the official list?")
    for name, found in (("trials", number), ("models", len(enrolled)), ("tests", len(used))):
        check_count(counts, f"cnceleb1_eval.{name}", found, path)
    models, utterances = enrolment_rows(args, root, enrolled)
    for test in used:
        speaker, _, name = test.partition("-")
        utterances[test] = (speaker, tests[test], genre_of(name))

    rows = []
    for utt in progress(sorted(utterances), len(utterances), f"reading {root}/eval"):
        speaker, found, _ = utterances[utt]
        rows.append((utt, speaker, wav_value(found), duration(wav_value(found))))
    folder = os.path.join(args.data, "cnceleb")
    speakers, count = write_data_dir(folder, rows)
    write_table(os.path.join(folder, "utt2domain"), ((utt, row[2]) for utt, row in utterances.items()))
    print(f"{folder}: {speakers} speakers, {len(enrolled)} of them enrolled, {count} utterances")
    write_table(os.path.join(folder, "enroll.spk2utt"), ((model, " ".join(utts)) for model, utts in models.items()))
    for way in args.enrolment:
        name, ending = WAYS[way]
        lines = ((target, speaker + ending, test) for _, target, speaker, test in tree.read_trials(path))
        print(write_trials(os.path.join(folder, name), lines))
    return sorted({row[1] for row in rows})


def rows_of(root: str, speaker: str) -> list[tuple]:
    """Lists the rows for `write_data_dir` of all recordings of a speaker, sorted."""
    found = tree.recordings(os.path.join(root, "data", speaker))
    for name in found:
        genre_of(name)
    return sorted((f"{speaker}-{name}", speaker, wav_value(path), None) for name, path in found.items())


def some_rows(rows: list[tuple], count: int, rng: np.random.Generator) -> list[tuple]:
    """Draws `count` rows of a speaker, or all, from as many sessions (<genre>-<session>) as possible; adds their seconds."""
    of_session = {f"{row[0].rpartition('-')[0]}/{row[0]}": row for row in rows}
    drawn = [of_session[name] for name in some_utterances(list(of_session), count, rng)]
    return sorted((utt, speaker, value, duration(value)) for utt, speaker, value, _ in drawn)


def write_training(args, counts: dict[str, int], test_speakers: list[str]) -> None:
    """Writes data/cnceleb_dev and data/cnceleb_train."""
    roots = {"cnceleb1_dev": need_folder(args.cnceleb1, "CN-Celeb1")}
    lists = {"cnceleb1_dev": os.path.join(roots["cnceleb1_dev"], "dev", "dev.lst")}
    if args.cnceleb2:
        roots["cnceleb2"] = need_folder(args.cnceleb2, "CN-Celeb2")
        lists["cnceleb2"] = os.path.join(roots["cnceleb2"], "spk.lst")
    speakers = {name: tree.read_speakers(path) for name, path in lists.items()}
    for name, found in speakers.items():
        check_count(counts, f"{name}.speakers", len(found), lists[name])
    check_disjoint({**speakers, "eval": test_speakers})
    pool = speakers["cnceleb1_dev"]
    if not 2 <= args.dev_speakers < len(pool):
        text = f"between 2 and {len(pool) - 1} can be taken from dev.lst"
        raise UserError(f"--dev-speakers is {args.dev_speakers}: {text}")
    rng = np.random.default_rng(args.seed)
    aside = sorted(pool[i] for i in rng.permutation(len(pool))[: args.dev_speakers])
    dev = [row for s in aside for row in some_rows(rows_of(roots["cnceleb1_dev"], s), args.dev_utts, rng)]
    folder = os.path.join(args.data, "cnceleb_dev")
    write_data_dir(folder, dev)
    write_table(os.path.join(folder, "utt2domain"), ((row[0], row[0].split("-")[1]) for row in dev))
    print(f"{folder}: {len(aside)} speakers, {len(dev)} utterances")
    print(draw_trials(folder, args.num_nontarget, False, args.seed))

    order = sorted((s, name) for name, members in speakers.items() for s in members if s not in set(aside))
    listing = progress(order, len(order), "listing speakers to train on")
    rows = (row for speaker, name in listing for row in rows_of(roots[name], speaker))
    folder = os.path.join(args.data, "cnceleb_train")
    found, utterances = write_data_dir(folder, rows)
    print(f"{folder}: {found} speakers, {utterances} utterances")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cnceleb1", required=True, help="CN-Celeb1: data, dev, eval (CN-Celeb_flac)")
    options.add_argument("--cnceleb2", default="", help="CN-Celeb2: data, spk.lst (CN-Celeb2_flac); empty: none")
    options.add_argument("--data", default="data", help="writes <data>/cnceleb, ...")
    options.add_argument("--enrolment", default="several concat", help="several: write trials; concat: write trials_concat")
    options.add_argument("--train", type=boolean, default=False, help="also make cnceleb_train and cnceleb_dev")
    options.add_argument("--dev-speakers", type=int, default=60, help="speakers in cnceleb_dev")
    options.add_argument("--dev-utts", type=int, default=20, help="utterances of each of them")
    options.add_argument("--num-nontarget", type=int, default=100000, help="non-target pairs of cnceleb_dev/trials, at most")
    options.add_argument("--counts", default="", help="numbers that must be found, e.g. local/cnceleb.counts")
    options.add_argument("--check-only", type=boolean, default=False, help="check that the corpora are there; write nothing")
    options.add_argument("--seed", type=int, default=0, help="seed of the development speakers, utterances and trials")
    args = options.parse_args()
    args.enrolment = args.enrolment.split()
    if not args.enrolment or set(args.enrolment) - set(WAYS):
        raise UserError(f"--enrolment takes some of several, concat, not '{' '.join(args.enrolment)}'")
    check_corpora(args)
    counts = read_counts(args.counts)
    if args.check_only:
        return
    test_speakers = write_evaluation(args, counts)
    if args.train:
        write_training(args, counts, test_speakers)


if __name__ == "__main__":
    run_main(main)
