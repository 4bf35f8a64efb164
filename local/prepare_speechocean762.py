#!/usr/bin/env python3
"""Makes the Kaldi data directories train, dev and test of a speechocean762 folder in the official layout.

train   the training speakers of the corpus but those set aside, and an extra corpus in LibriSpeech's layout,
        cut into pieces (--extra-corpus)
dev     training speakers set aside, balanced over gender and age group, to calibrate and choose settings on
test    the test speakers of the corpus; `trials`: all target pairs and a fixed draw of non-target pairs of the
        same gender; `trials_all`: every pair of utterances

dev and test also have utt2domain, child or adult, by which score analyses group trials.
"""

from __future__ import annotations

import os

import prepare_librispeech
from corpus_tools import check_disjoint, draw_trials

from svq.cli import parser, run_main
from svq.data.aside import draw_speakers
from svq.data.audio import duration
from svq.data.new_dir import need_folder, wav_value, write_data_dir
from svq.data.table import Table, write_table
from svq.data.trials import make_trials
from svq.errors import UserError, located
from svq.progress import progress

ADULT = 18  # years; below it: a child, in the corpus's own division


def read_part(corpus: str, part: str):
    """Reads `train` or `test`: rows for `write_data_dir`, speaker -> gender, and speaker -> (gender, age group).

    Utterances are called <speaker>-<official name>, so that those of a speaker lie together in any sorting.
    """
    folder = os.path.join(corpus, part)
    if not os.path.exists(os.path.join(folder, "wav.scp")):
        raise UserError(f"{folder}/wav.scp: no such file; --corpus takes the folder that holds WAVE, train and test")
    wav, utt2spk = (Table.read(os.path.join(folder, name)) for name in ("wav.scp", "utt2spk"))
    genders = dict(Table.read(os.path.join(folder, "spk2gender")).items())
    ages_file = os.path.join(folder, "spk2age")
    ages = dict(Table.read(ages_file).items()) if os.path.exists(ages_file) else {}
    cells = {}
    rows = []
    for line, (utt, relative) in enumerate(progress(wav.items(), len(wav), f"reading {folder}"), 1):
        try:
            speaker = utt2spk[utt]
        except KeyError:
            raise UserError(located(wav.path, line, f"{utt} is not in {utt2spk.path}")) from None
        if genders.get(speaker) not in ("m", "f"):
            raise UserError(f"{folder}/spk2gender: no m or f for speaker {speaker}")
        age = ages.get(speaker, "")
        cells[speaker] = (genders[speaker], "" if not age.isdigit() else "child" if int(age) < ADULT else "adult")
        path = os.path.join(corpus, relative)
        if not os.path.exists(path):
            raise UserError(located(wav.path, line, f"{path} is not there; unpack the corpus again"))
        rows.append((f"{speaker}-{utt}", speaker, wav_value(path), duration(wav_value(path))))
    return sorted(rows), genders, cells


def write_ages(folder: str, rows, cells: dict[str, tuple]) -> None:
    """Writes utt2domain, unless the corpus gives no ages."""
    ages = {speaker: age or "unknown" for speaker, (_, age) in cells.items()}
    if set(ages.values()) != {"unknown"}:
        write_table(os.path.join(folder, "utt2domain"), ((row[0], ages[row[1]]) for row in rows))


def say(path: str, rows) -> None:
    speakers = len({row[1] for row in rows})
    print(f"{path}: {speakers} speakers, {len(rows)} utterances, {sum(row[3] for row in rows) / 3600:.2f} h")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", required=True, help="speechocean762 as unpacked: WAVE, train, test")
    options.add_argument("--extra-corpus", default="", help="folder in LibriSpeech's layout; empty: none")
    options.add_argument("--data", default="data", help="writes <data>/train, <data>/dev, <data>/test")
    options.add_argument("--dev-speakers", type=int, default=20, help="training speakers set aside")
    options.add_argument("--num-nontarget", type=int, default=100000, help="non-target pairs of a list, at most")
    options.add_argument("--piece-seconds", type=float, default=4.0, help="extra corpus: length of a piece")
    options.add_argument("--shortest-seconds", type=float, default=2.0, help="extra corpus: shortest last piece")
    options.add_argument("--seed", type=int, default=0, help="seed of the speakers set aside and the trials")
    args = options.parse_args()

    corpus = need_folder(args.corpus, "speechocean762")
    rows, genders, cells = read_part(corpus, "train")
    test, test_genders, test_cells = read_part(corpus, "test")
    # Check before the split, too: a speaker set aside must not be in the test part either.
    check_disjoint({"train": list(cells), "test": [row[1] for row in test]})
    aside = draw_speakers(cells, args.dev_speakers, args.seed)
    dev = [row for row in rows if row[1] in aside]
    train = [row for row in rows if row[1] not in aside]
    if args.extra_corpus:
        extra, extra_genders = prepare_librispeech.prepare(args.extra_corpus, args.piece_seconds, args.shortest_seconds)
        train = sorted(train + extra)
        genders = {**genders, **extra_genders}
    check_disjoint({name: [row[1] for row in part] for name, part in (("train", train), ("dev", dev), ("test", test))})

    genders = {**genders, **test_genders}
    for name, part in (("train", train), ("dev", dev), ("test", test)):
        folder = os.path.join(args.data, name)
        write_data_dir(folder, part, genders)
        say(folder, part)
        if name != "train":
            write_ages(folder, part, {**cells, **test_cells})
            print(draw_trials(folder, args.num_nontarget, True, args.seed))
    targets, nontargets = make_trials(os.path.join(args.data, "test"), name="all")
    print(f"{args.data}/test/trials_all: all {targets} target and {nontargets} non-target trials")


if __name__ == "__main__":
    run_main(main)
