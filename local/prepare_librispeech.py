#!/usr/bin/env python3
"""Makes a Kaldi data directory of a folder in LibriSpeech's layout, and cuts long utterances into pieces.

The layout is <subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac (or .ogg, .wav). Genders come
from the official SPEAKERS.TXT, or from a tab-separated speakers.tsv with columns `speaker` and `gender`.
A piece is a SoX pipe in wav.scp; the rest of an utterance is kept if it is long enough.
"""

from __future__ import annotations

import os

from corpus_tools import safe_id, sox_pipe

from svq.cli import parser, run_main
from svq.data.audio import duration
from svq.data.new_dir import list_audio, need_folder, wav_value, write_data_dir
from svq.errors import UserError, located, some_of
from svq.progress import progress


def read_genders(root: str) -> dict[str, str]:
    """Reads the genders, speaker -> m or f, from SPEAKERS.TXT or speakers.tsv; empty where neither is there."""
    official, table = os.path.join(root, "SPEAKERS.TXT"), os.path.join(root, "speakers.tsv")
    if os.path.exists(official):
        return dict(_official_genders(official))
    if os.path.exists(table):
        return dict(_table_genders(table))
    return {}


def _official_genders(path: str):
    # 14   | F | train-clean-360  | 25.03 | a name, which may hold any character
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.startswith(";"):
                fields = [field.strip() for field in line.split("|")]
                if len(fields) < 2 or fields[1] not in ("M", "F"):
                    raise UserError(located(path, number, "not `speaker | M or F | subset | ...`"))
                yield fields[0], fields[1].lower()


def _table_genders(path: str):
    with open(path, encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split("\t")
        if "speaker" not in header or "gender" not in header:
            raise UserError(located(path, 1, "the header lacks the column `speaker` or `gender`"))
        speaker, gender = header.index("speaker"), header.index("gender")
        for number, line in enumerate(file, 2):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != len(header) or fields[gender].lower() not in ("m", "f"):
                raise UserError(located(path, number, f"not {len(header)} columns with a gender of m or f"))
            yield fields[speaker], fields[gender].lower()


def cut(seconds: float, piece: float, shortest: float) -> list[tuple[float, float]]:
    """Cuts a recording into pieces, (start, length) in seconds; drops a last piece shorter than `shortest`.

    A recording no longer than a piece stays whole, however short it is: else its speaker could be lost.
    """
    if seconds <= piece:
        return [(0.0, seconds)]
    count = int(seconds // piece)
    pieces = [(i * piece, piece) for i in range(count)]
    rest = seconds - count * piece
    if rest >= shortest:
        pieces.append((count * piece, rest))
    return pieces


def prepare(root: str, piece: float, shortest: float, prefix: str = "ls-", subsets: tuple[str, ...] = ()):
    """Lists the rows for `write_data_dir`, and the genders, of the LibriSpeech-layout folder `root`.

    Speakers are called <prefix><id>; a piece <prefix><utterance>-p000 and so on.
    Raises UserError on a file that does not follow the layout.
    """
    root = need_folder(root, "a corpus in LibriSpeech's layout")
    if piece <= 0:
        raise UserError(f"pieces of {piece:g} s cannot be cut")
    audio, _ = list_audio(root)
    rows, present = [], set()
    for relative in progress(audio, desc=f"reading {root}"):
        parts = relative.split(os.sep)
        utt = os.path.splitext(parts[-1])[0]
        present.add(parts[0])
        if subsets and parts[0] not in subsets:
            continue
        if len(parts) != 4 or not utt.startswith(f"{parts[1]}-{parts[2]}-") or utt != safe_id(utt, "-"):
            text = "not <subset>/<speaker>/<chapter>/<speaker>-<chapter>-<number>"
            raise UserError(f"{os.path.join(root, relative)}: {text}")
        path = os.path.join(root, relative)
        seconds = duration(wav_value(path))
        pieces = cut(seconds, piece, shortest)
        for number, (start, length) in enumerate(pieces):
            whole = len(pieces) == 1 and length == seconds
            value = wav_value(path) if whole else sox_pipe(path, "trim", f"{start:g}", f"{length:.6g}")
            rows.append((f"{prefix}{utt}-p{number:03d}", f"{prefix}{parts[1]}", value, length))
    absent = sorted(set(subsets) - present)
    if absent:
        raise UserError(f"{root}: no recordings in the subset {some_of(absent)}")
    if not rows:
        raise UserError(f"{root}: no recordings in <subset>/<speaker>/<chapter>/")
    genders = {f"{prefix}{speaker}": gender for speaker, gender in read_genders(root).items()}
    return sorted(rows), genders


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--corpus", required=True, help="folder that holds the subsets")
    options.add_argument("--data", default="data/librispeech", help="data directory to write")
    options.add_argument("--subsets", default="", help="names such as 'train-clean-100'; empty: all that are there")
    options.add_argument("--piece-seconds", type=float, default=4.0, help="length of a piece")
    options.add_argument("--shortest-seconds", type=float, default=2.0, help="a shorter last piece is dropped")
    options.add_argument("--prefix", default="ls-", help="prefix of the names of speakers and utterances")
    args = options.parse_args()
    rows, genders = prepare(
        args.corpus, args.piece_seconds, args.shortest_seconds, args.prefix, tuple(args.subsets.split())
    )
    speakers, utterances = write_data_dir(args.data, rows, genders)
    hours = sum(row[3] for row in rows) / 3600
    print(f"{args.data}: {speakers} speakers, {utterances} pieces, {hours:.2f} h")


if __name__ == "__main__":
    run_main(main)
