"""Reads the folders of Common Voice and the comparison list of CommonBench, for prepare_commonbench.py.

Clips are <corpus>/<language>/clips/common_voice_<language>_<number>.mp3, or lie in <corpus>/<release>/<language>/...
Beside `clips` lie the tables validated.tsv, invalidated.tsv, other.tsv, ... with the columns client_id, path and gender.
A comparison is two clips and a label, in columns of any order (`columns`).
"""

from __future__ import annotations

import csv
import os
import re

from trial_lists import add_suffix

from svq.data.new_dir import AUDIO_SUFFIXES
from svq.errors import UserError, located

SITE = "https://github.com/Mobile-Dialog-Systeme/CommonBench"
CLIP = re.compile(r"common_voice_([A-Za-z]{2,3}(?:-[A-Za-z]+)*)_(\d+)")
LABELS = {**dict.fromkeys(("1", "1.0", "true", "target", "same"), True),
          **dict.fromkeys(("0", "0.0", "false", "nontarget", "different"), False)}
ROLES = ("enroll", "test", "label")
GENDERS = {"male": "m", "male_masculine": "m", "female": "f", "female_feminine": "f"}


def clip_of(text: str) -> str | None:
    """Gives the name of a clip, without folder and suffix; None for anything else."""
    stem = os.path.splitext(text.strip('"').replace("\\", "/").rpartition("/")[2])[0]
    return stem if CLIP.fullmatch(stem) else None


def language_of(clip: str) -> str:
    return CLIP.fullmatch(clip)[1]


def fields_of(line: str) -> list[str]:
    """Splits a line into fields, by comma, semicolon or tab or, where it has none of them, at blanks."""
    line = line.strip("\ufeff\r\n")
    found = next((mark for mark in ",;\t" if mark in line), None)
    return [field.strip().strip('"') for field in line.split(found)]


def find_columns(given: str, fields: list[str], path: str, number: int) -> tuple[int, int, int]:
    """Finds the positions of (enroll, test, label): as --columns says, or where two clips and one label stand in a line."""
    if given:
        names = given.split()
        if sorted(name for name in names if name != "-") != sorted(ROLES):
            raise UserError(f"--columns names {', '.join(ROLES)} once each, and - for the others, not '{given}'")
        return tuple(names.index(role) for role in ROLES)
    clips = [i for i, field in enumerate(fields) if clip_of(field)]
    labels = [i for i, field in enumerate(fields) if field.lower() in LABELS]
    if len(clips) != 2 or len(labels) != 1:
        text = f"{len(clips)} clips and {len(labels)} labels, not two and one"
        raise UserError(located(path, number, f"{text}; say with --columns which columns they are"))
    return clips[0], clips[1], labels[0]


def read_comparisons(path: str, columns: str = ""):
    """Yields (line number, target, enroll, test), the clips by name; the first line may be a header.

    All lines have the columns of the first comparison. UserError names a line that is no comparison.
    """
    try:
        file = open(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno).lower()}; the list of comparisons, see {SITE}") from None
    places = None
    with file:
        for number, line in enumerate(file, 1):
            fields = fields_of(line)
            if number == 1 and not any(map(clip_of, fields)):
                continue
            places = places or find_columns(columns, fields, path, number)
            if len(fields) <= max(places):
                raise UserError(located(path, number, f"{len(fields)} columns, fewer than {max(places) + 1}"))
            enroll, test = (clip_of(fields[i]) for i in places[:2])
            label = LABELS.get(fields[places[2]].lower())
            if not enroll or not test or label is None:
                text = "not two clips common_voice_<language>_<number> and a label 0 or 1"
                raise UserError(located(path, number, text))
            yield number, label, enroll, test


def language_folders(corpus: str) -> dict[str, list[str]]:
    """Finds the folders of each language, those that hold `clips`, in `corpus` or one level below."""
    found: dict[str, list[str]] = {}
    for root in [corpus, *sorted(entry.path for entry in os.scandir(corpus) if entry.is_dir())]:
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
            if os.path.isdir(os.path.join(entry.path, "clips")):
                found.setdefault(entry.name, []).append(entry.path)
    if not found:
        raise UserError(f"{corpus}: no <language>/clips; --corpus takes the folder of Common Voice's languages")
    return found


def find_clip(folders: list[str], clip: str) -> str | None:
    """Finds the path of a clip in the folders of a language, whatever its suffix; None where it is not there."""
    found = (add_suffix(os.path.join(folder, "clips", clip), (".mp3", *AUDIO_SUFFIXES)) for folder in folders)
    return next(filter(None, found), None)


def read_tables(folders: list[str], clips: set[str]) -> dict[str, tuple[str, str]]:
    """Reads the tables *.tsv of the folders: clip -> (client_id, m, f or ""), for those of `clips` that they list."""
    found: dict[str, tuple[str, str]] = {}
    tables = [os.path.join(folder, name) for folder in folders for name in sorted(os.listdir(folder))]
    for path in (table for table in tables if table.endswith(".tsv")):
        with open(path, encoding="utf-8", newline="") as file:
            # Sentences hold quotation marks that nothing closes, so there is no quoting.
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not {"client_id", "path"} <= set(reader.fieldnames or ()):
                continue  # reported.tsv, clip_durations.tsv, unvalidated_sentences.tsv
            for row in reader:
                clip = clip_of(row["path"] or "")
                if clip in clips:
                    if not row["client_id"]:
                        raise UserError(located(path, reader.line_num, f"{clip} has no client_id"))
                    found[clip] = (row["client_id"], GENDERS.get(row.get("gender") or "", ""))
    return found
