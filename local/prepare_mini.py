#!/usr/bin/env python3
"""Makes the mini corpus, synthetic speech made on the spot with espeak-ng, and its Kaldi data directories.

--part corpus makes the audio in --corpus (unless it is there already with the same options), --part data
writes train, dev, test, noise and rir into --data, --part all does both.
The speech is synthetic: it exercises every step, but its error rates say nothing about people.
"""

import os
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import fields

from corpus_tools import check_disjoint, draw_trials
from mini import corpus
from mini.corpus import SETS, Options

from svq.cli import parser, run_main
from svq.data import audio
from svq.data.datadir import DataDir
from svq.data.new_dir import list_audio, need_folder, wav_value, write_data_dir
from svq.data.trials import count_pairs, make_trials
from svq.errors import UserError

HELP = {
    "train_speakers": "training speakers",
    "dev_speakers": "development speakers",
    "test_speakers": "test speakers",
    "utts": "utterances of each speaker",
    "noises": "noise clips for augmentation",
    "rirs": "room responses for augmentation",
    "session_strength": "how far recordings of one speaker differ: 0 is clean, larger is harder",
    "seed": "the same seed gives the same bytes, whatever --nj is",
}


def parse() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--corpus", default="corpus", help="folder of the audio")
    options.add_argument("--data", default="data", help="folder of the data directories")
    options.add_argument("--part", default="all", choices=["corpus", "data", "all"], help="what to make")
    options.add_argument("--nj", type=int, default=2, help="number of processes")
    options.add_argument("--num-nontarget", type=int, default=20000, help="non-target pairs of a trial list, at most")
    options.add_argument("--max-all-nontarget", type=int, default=100000, help="non-target pairs of test/trials_all, at most")
    for field in fields(Options):
        name = "--" + field.name.replace("_", "-")
        options.add_argument(name, type=field.type, default=field.default, help=HELP[field.name])
    return options.parse_args()


def checked_options(args: Namespace) -> Options:
    """Makes the Options from the command line; UserError for those that allow no corpus."""
    least = {"dev_speakers": 4, "test_speakers": 4, "utts": 2}  # two speakers of a gender, a target pair
    most = {"utts": 99, "num_nontarget": 10**9, "max_all_nontarget": 10**9}
    for name in (*(f"{part}_speakers" for part in SETS), "utts", "noises", "rirs", "nj", *most):
        low, high, value = least.get(name, 1), most.get(name, 999), getattr(args, name)
        if not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} is {value}: it must be from {low} to {high}")
    if not 0 <= args.session_strength <= 3:
        raise UserError(f"--session-strength is {args.session_strength}: it must be from 0 to 3")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}: it must not be negative")
    return Options(**{field.name: getattr(args, field.name) for field in fields(Options)})


def clip_rows(folder: str) -> Iterator[tuple[str, str, str, float]]:
    """Yields the rows of the noises or rooms: <kind>-<number>, with <kind> as the speaker."""
    for name in list_audio(folder)[0]:
        utterance, path = os.path.splitext(name)[0], os.path.join(folder, name)
        yield utterance, utterance.split("-")[0], wav_value(path), audio.duration(path)


def write_data(root: str, data: str, args: Namespace) -> None:
    """Writes all five data directories of the corpus in `root`, with trials for dev and test."""
    speakers = corpus.read_table(os.path.join(root, "speakers.tsv"))
    utterances = corpus.read_table(os.path.join(root, "utterances.tsv"))
    genders = {row["speaker"]: row["gender"] for row in speakers}
    set_of = {row["speaker"]: row["set"] for row in speakers}
    parts = {part: [s for s in genders if set_of[s] == part] for part in SETS}
    check_disjoint(parts)
    for part in SETS:
        rows = [
            (row["utterance"], row["speaker"], wav_value(os.path.join(root, "wav", row["speaker"], f"{row['utterance']}.wav")),
             float(row["seconds"]))
            for row in utterances if set_of[row["speaker"]] == part
        ]  # fmt: skip
        folder = os.path.join(data, part)
        write_data_dir(folder, rows, genders)
        seconds = sum(row[3] for row in rows)
        print(f"{folder}: {len(parts[part])} speakers, {len(rows)} utterances, {seconds / 3600:.2f} h")
        if part != "train":
            print(draw_trials(folder, args.num_nontarget, True, args.seed))
    print(draw_all(os.path.join(data, "test"), args.max_all_nontarget, args.seed))
    for kind in ("noise", "rir"):
        _, count = write_data_dir(os.path.join(data, kind), clip_rows(os.path.join(root, kind)))
        print(f"{data}/{kind}: {count} clips")


def draw_all(folder: str, most: int, seed: int) -> str:
    """Writes test/trials_all: every pair, but at most `most` non-target ones; returns a line that says how many."""
    index = DataDir(folder).speaker_index
    number = min(most, count_pairs(index, index * 0))
    targets, nontargets = make_trials(folder, name="all", num_nontarget=number, seed=seed)
    return f"{folder}/trials_all: {targets} target and {nontargets} non-target trials"


def main() -> None:
    args = parse()
    options = checked_options(args)
    if args.part != "data":
        made = corpus.make(args.corpus, options, args.nj)
        print(f"{args.corpus}: synthetic speech {'made' if made else 'is there already'}")
    if args.part != "corpus":
        root = need_folder(args.corpus, "the mini corpus, which --part corpus makes")
        if not corpus.is_made(root, options):
            raise UserError(f"{args.corpus}: was made with other options; --part corpus makes it anew")
        write_data(root, args.data, args)


if __name__ == "__main__":
    run_main(main)
