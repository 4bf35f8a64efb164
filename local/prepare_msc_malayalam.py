#!/usr/bin/env python3
"""Makes a Kaldi data directory for testing of the reviewed part of the Malayalam Speech Corpus.

The folder holds audio/ and metadata.tsv, whose header names the columns: those of the corpus as published
(speechid, speechpath, speaker_id, speaker_gender, ...) or of a copy with short names (utterance, speaker, gender,
path, seconds). If the file of a path is missing, one with the same name and another suffix is taken.

`trials`: all target pairs of the utterances kept and a seeded draw of non-target pairs.

Speakers are accounts of a web page. Two accounts may be one person, so some non-target labels are wrong, for all
systems alike. Most speakers never gave a gender; spk2gender is written if all speakers kept did (--known-gender).
"""

from __future__ import annotations

import os

import numpy as np
from corpus_tools import draw_trials, safe_id
from trial_lists import add_suffix

from svq.cli import boolean, parser, run_main
from svq.data.audio import duration
from svq.data.new_dir import AUDIO_SUFFIXES, need_folder, wav_value, write_data_dir
from svq.errors import UserError, located
from svq.progress import progress

# Field that is needed -> its column in the corpus as published, or in a copy with short names.
COLUMNS = {
    "utterance": ("speechid", "utterance"),
    "speaker": ("speaker_id", "speaker"),
    "path": ("speechpath", "path"),
    "gender": ("speaker_gender", "gender"),
}
GENDERS = {"male": "m", "female": "f"}  # anything else, `default` for the most part, is unknown


def read_metadata(path: str) -> list[tuple[int, dict[str, str]]]:
    """Reads (line number, {utterance, speaker, path, gender}) of every recording; UserError names a malformed line."""
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; --corpus takes the folder that holds metadata.tsv and audio")
    with open(path, encoding="utf-8-sig") as file:
        header = file.readline().rstrip("\n").split("\t")
        places = {}
        for wanted, names in COLUMNS.items():
            here = [name for name in names if name in header]
            if not here:
                raise UserError(located(path, 1, f"the header lacks the column `{names[0]}` (or `{names[1]}`)"))
            places[wanted] = header.index(here[0])
        rows = []
        for number, line in enumerate(file, 2):
            fields = [field.strip() for field in line.rstrip("\n").split("\t")]
            if len(fields) != len(header):
                raise UserError(located(path, number, f"{len(fields)} columns, not the header's {len(header)}"))
            row = {wanted: fields[place] for wanted, place in places.items()}
            if not row["utterance"] or not row["speaker"] or not row["path"]:
                raise UserError(located(path, number, "an utterance, speaker or path is empty"))
            rows.append((number, row))
    return rows


def find_audio(corpus: str, relative: str) -> str | None:
    """Finds the path of a recording: as listed, or with another suffix; None if neither is there."""
    path = os.path.join(corpus, relative)
    return path if os.path.exists(path) else add_suffix(os.path.splitext(path)[0], AUDIO_SUFFIXES)


def gender_of_speakers(rows, path: str) -> dict[str, str]:
    """Collects the genders of the speakers that gave one, speaker -> m or f; UserError for a speaker that gave both."""
    genders: dict[str, str] = {}
    for number, row in rows:
        gender = GENDERS.get(row["gender"].lower())
        if gender and genders.setdefault(row["speaker"], gender) != gender:
            text = f"speaker {row['speaker']} is of the other gender on an earlier line"
            raise UserError(located(path, number, text))
    return genders


def choose(rows, min_utts: int, max_utts: int, seed: int) -> list:
    """Draws at most `max_utts` rows (0: all) of each speaker that has at least `min_utts`; gives them sorted by speaker."""
    of_speaker: dict[str, list] = {}
    for row in rows:
        of_speaker.setdefault(row[1]["speaker"], []).append(row)
    rng = np.random.default_rng(seed)
    chosen = []
    for speaker in sorted(of_speaker):
        members = sorted(of_speaker[speaker], key=lambda row: row[1]["utterance"])
        # Draw for every speaker, so that --min-utts does not change the draw for those that stay.
        order = rng.permutation(len(members))
        if len(members) >= min_utts:
            chosen += [members[i] for i in (order[:max_utts] if max_utts else order)]
    return chosen


def rows_of(chosen, corpus: str, path: str) -> list[tuple]:
    """Lists the rows for `write_data_dir`, sorted; utterances are called <speaker>-<name>."""
    rows, whole = [], {}
    for number, row in progress(chosen, len(chosen), f"reading {corpus}"):
        speaker, name = safe_id(row["speaker"]), safe_id(row["utterance"], "-")
        if whole.setdefault(speaker, row["speaker"]) != row["speaker"]:
            text = f"two speakers would be called {speaker}: {whole[speaker]} and {row['speaker']}"
            raise UserError(located(path, number, text))
        found = find_audio(corpus, row["path"])
        if not found:
            text = f"{os.path.join(corpus, row['path'])} is not there; get the corpus again"
            raise UserError(located(path, number, text))
        utt = name if name.startswith(f"{speaker}-") else f"{speaker}-{name}"
        rows.append((utt, speaker, wav_value(found), duration(wav_value(found))))
    return sorted(rows, key=lambda row: (row[1], row[0]))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", required=True, help="folder of metadata.tsv and audio")
    options.add_argument("--data", default="data/msc_malayalam", help="data directory to write")
    options.add_argument("--min-utts", type=int, default=5, help="speakers with fewer utterances are left out")
    options.add_argument("--max-utts", type=int, default=40, help="utterances to draw of a speaker, at most; 0: all")
    options.add_argument("--num-nontarget", type=int, default=100000, help="non-target pairs of trials, at most")
    options.add_argument("--known-gender", type=boolean, default=False, help="keep only speakers whose gender is known")
    options.add_argument("--seed", type=int, default=0, help="seed of the utterances and the trials")
    args = options.parse_args()
    if args.min_utts < 2 or (args.max_utts and args.max_utts < 2):
        raise UserError("--min-utts and --max-utts are at least 2: one utterance of a speaker makes no target trial")

    corpus = need_folder(args.corpus, "the Malayalam Speech Corpus")
    path = os.path.join(corpus, "metadata.tsv")
    rows = read_metadata(path)
    genders = gender_of_speakers(rows, path)
    if args.known_gender:
        rows = [row for row in rows if row[1]["speaker"] in genders]
    chosen = choose(rows, args.min_utts, args.max_utts, args.seed)
    if len({row["speaker"] for _, row in chosen}) < 2:
        raise UserError(f"{path}: fewer than two speakers with {args.min_utts} utterances; --min-utts takes fewer")
    written = rows_of(chosen, corpus, path)
    genders = {safe_id(speaker): gender for speaker, gender in genders.items()}
    speakers, utterances = write_data_dir(args.data, written, genders)
    hours = sum(row[3] for row in written) / 3600
    print(f"{args.data}: {speakers} speakers, {utterances} of {len(rows)} utterances, {hours:.2f} h")
    print(draw_trials(args.data, args.num_nontarget, args.known_gender, args.seed))


if __name__ == "__main__":
    run_main(main)
