#!/usr/bin/env python3
"""Makes a Kaldi data directory for testing of VoxTube, in the layout in which the scripts of the corpus leave it.

Recordings are <corpus>/<channel>/<video>/segment_<n>.wav (or .flac, .ogg, .mp3): a channel is a speaker, a video a
session. --meta is the folder `resources` of https://github.com/IDRnD/VoxTube; its language_gender_meta.csv gives genders
and languages, and speakers that it does not know are left out. Draws speakers, and some utterances of each from as many
videos as there are. `trials`: all target pairs and a draw of non-target pairs, of the same gender if --meta is given;
utt2domain: the language.
"""

from __future__ import annotations

import csv
import os
import re

import numpy as np
from corpus_tools import draw_trials, safe_id
from prepare_voxceleb import some_utterances
from voxceleb_tree import scan_speaker

from svq.cli import parser, run_main
from svq.data.audio import duration
from svq.data.new_dir import AUDIO_SUFFIXES, need_folder, wav_value, write_data_dir
from svq.data.table import write_table
from svq.errors import UserError, located, some_of
from svq.progress import progress

CHANNEL = re.compile(r"UC[A-Za-z0-9_-]{22}")
META = "language_gender_meta.csv"
GENDERS = {"female": "f", "male": "m"}


def read_meta(path: str) -> dict[str, tuple[str, str]]:
    """Reads speaker -> (m or f, language) from lines `speaker_id,gender,language`; UserError names a malformed line."""
    try:
        file = open(path, encoding="utf-8-sig", newline="")
    except OSError as error:
        text = f"{os.strerror(error.errno).lower()}; --meta takes VoxTube's folder resources"
        raise UserError(f"{path}: {text}") from None
    known = {}
    with file:
        reader = csv.reader(file)
        if next(reader, None) != ["speaker_id", "gender", "language"]:
            raise UserError(located(path, 1, "the header is not speaker_id,gender,language"))
        for fields in reader:
            if len(fields) != 3 or fields[1] not in GENDERS or not fields[2].strip():
                raise UserError(located(path, reader.line_num, "not `speaker,male|female,language`"))
            known[fields[0]] = (GENDERS[fields[1]], safe_id(fields[2].strip().lower()))
    return known


def list_channels(root: str) -> list[str]:
    """Lists the folders of `root` that are named like a channel, sorted; UserError if there is none."""
    found = sorted(entry.name for entry in os.scandir(root) if CHANNEL.fullmatch(entry.name) and entry.is_dir())
    if not found:
        text = "no folder named as a channel (UC and 22 more characters); --corpus takes the folder of them"
        raise UserError(f"{root}: {text}")
    return found


def draw(root: str, channels: list[str], args, rng: np.random.Generator) -> dict[str, list[str]]:
    """Draws --speakers speakers from those with --min-videos, and utterances of each: speaker -> paths, sorted."""
    chosen: dict[str, list[str]] = {}
    order = [channels[i] for i in rng.permutation(len(channels))]
    for channel in progress(order, len(order), f"listing {root} (speakers)"):
        if args.speakers and len(chosen) == args.speakers:
            break
        paths = scan_speaker(os.path.join(root, channel), AUDIO_SUFFIXES)
        if len({path.split("/")[-2] for path in paths}) >= args.min_videos:
            chosen[channel] = some_utterances(paths, args.utts, rng)
    if len(chosen) < max(args.speakers, 2):
        text = f"{len(chosen)} speakers have {args.min_videos} videos, not {max(args.speakers, 2)}"
        raise UserError(f"{root}: {text}; --speakers 0 takes all there are")
    return dict(sorted(chosen.items()))


def rows_of(channel: str, paths: list[str]) -> list[tuple]:
    """Lists the rows for `write_data_dir` of a speaker, sorted."""
    rows = []
    for path in paths:
        _, video, name = path.rsplit("/", 2)
        utt = f"{channel}-{video}-{os.path.splitext(name)[0]}"
        if utt != safe_id(utt, "-"):
            raise UserError(f"{path}: video and segment must be named with letters, digits, _ - and . only")
        rows.append((utt, channel, wav_value(path), duration(wav_value(path))))
    return sorted(rows)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", required=True, help="folder that holds the folders of channels")
    options.add_argument("--meta", default="", help=f"folder of {META}; empty: none")
    options.add_argument("--data", default="data/voxtube", help="data directory to write")
    options.add_argument("--languages", default="", help="languages to keep, by --meta; empty: all")
    options.add_argument("--speakers", type=int, default=400, help="speakers to draw; 0: all")
    options.add_argument("--utts", type=int, default=8, help="utterances of each")
    options.add_argument("--min-videos", type=int, default=2, help="speakers with fewer are left out")
    options.add_argument("--num-nontarget", type=int, default=100000, help="non-target pairs of trials, at most")
    options.add_argument("--seed", type=int, default=0, help="seed of the speakers, the utterances and the trials")
    args = options.parse_args()
    if args.utts < 2:
        raise UserError(f"--utts is {args.utts}: one utterance of a speaker makes no target trial")
    if args.languages and not args.meta:
        raise UserError("--languages needs --meta, which tells the languages")

    root = need_folder(args.corpus, "VoxTube")
    meta = read_meta(os.path.join(args.meta, META)) if args.meta else {}
    wanted = {safe_id(language.lower()) for language in args.languages.split()}
    unknown = sorted(wanted - {language for _, language in meta.values()})
    if unknown:
        raise UserError(f"--languages: {some_of(unknown)} not in {os.path.join(args.meta, META)}")
    channels = list_channels(root)
    if meta:
        channels = [c for c in channels if c in meta and (not wanted or meta[c][1] in wanted)]
    chosen = draw(root, channels, args, np.random.default_rng(args.seed))
    reading = progress(chosen.items(), len(chosen), f"reading {root} (speakers)")
    rows = [row for channel, paths in reading for row in rows_of(channel, paths)]
    speakers, utterances = write_data_dir(args.data, rows, {c: gender for c, (gender, _) in meta.items()})
    if meta:
        write_table(os.path.join(args.data, "utt2domain"), ((row[0], meta[row[1]][1]) for row in rows))
    print(f"{args.data}: {speakers} speakers, {utterances} utterances, {sum(row[3] for row in rows) / 3600:.2f} h")
    print(draw_trials(args.data, args.num_nontarget, bool(meta), args.seed))


if __name__ == "__main__":
    run_main(main)
