"""Reads the official folders and lists of CN-Celeb1 and CN-Celeb2, as https://www.openslr.org/82/ publishes them.

data/<speaker>/<genre>-<session>-<number>.flac    every recording, e.g. data/id00010/singing-01-002.flac
dev/dev.lst                                       speakers to train on, one a line (CN-Celeb2: spk.lst, all of them)
eval/lists/trials.lst                             `<model> test/<recording>.wav 1|0`; a model is called id00800-enroll
eval/lists/enroll.map                             `<model> <speaker>/<recording>.wav ...`: the recordings of a model
eval/enroll/<model>.flac                          these recordings put together into one of about 20 seconds
eval/test/<speaker>-<genre>-<session>-<number>.flac
The lists say .wav, after the first version of the corpus; the second version is FLAC.
"""

from __future__ import annotations

import os
import re

from corpus_tools import safe_id
from trial_lists import add_suffix

from svq.errors import UserError, located

SITE = "https://www.openslr.org/82/"
SUFFIXES = (".flac", ".wav")
SPEAKER = re.compile(r"id\d{5}")
MODEL = re.compile(r"(id\d{5})(-enroll)?")
LISTS = {name: os.path.join("eval", "lists", name) for name in ("trials.lst", "enroll.map")}


def missing(root: str, wanted) -> list[str]:
    """Lists those of the files and folders `wanted`, relative to `root`, that are missing."""
    return [name for name in wanted if not os.path.exists(os.path.join(root, name))]


def read_lines(path: str):
    """Yields (line number, fields) of a list; UserError where there is no such file."""
    try:
        file = open(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno).lower()}; it comes with the corpus, {SITE}") from None
    with file:
        for number, line in enumerate(file, 1):
            yield number, line.split()


def read_speakers(path: str) -> list[str]:
    """Reads the speakers of dev.lst or spk.lst; gives them sorted."""
    speakers = set()
    for number, fields in read_lines(path):
        if len(fields) != 1 or not SPEAKER.fullmatch(fields[0]):
            raise UserError(located(path, number, "not one speaker idNNNNN"))
        speakers.add(fields[0])
    return sorted(speakers)


def speaker_of(model: str) -> str | None:
    """Gives the speaker of a model: id00800-enroll (or id00800) -> id00800; None for any other name."""
    match = MODEL.fullmatch(model)
    return match and match[1]


def read_trials(path: str):
    """Yields (line number, target, speaker enrolled, test utterance) of trials.lst.

    UserError names the line of anything else, and of a label that contradicts the speakers: labels follow from the
    names, so such a file is damaged.
    """
    for number, fields in read_lines(path):
        model = speaker_of(fields[0]) if len(fields) == 3 and fields[2] in ("0", "1") else None
        if not model:
            raise UserError(located(path, number, "not `idNNNNN-enroll recording 0|1`"))
        test = os.path.splitext(fields[1].rpartition("/")[2])[0]
        if not SPEAKER.fullmatch(test.partition("-")[0]) or test != safe_id(test, "-"):
            raise UserError(located(path, number, f"'{fields[1]}' is not test/idNNNNN-genre-session-number"))
        if (model == test.partition("-")[0]) != (fields[2] == "1"):
            text = f"label {fields[2]} for {fields[0]} and {test}; get the list again from {SITE}"
            raise UserError(located(path, number, text))
        yield number, fields[2] == "1", model, test


def read_models(path: str) -> dict[str, list[str]]:
    """Reads enroll.map: speaker -> recordings `<speaker>/<name>`, without suffix, that its model is enrolled from."""
    models: dict[str, list[str]] = {}
    for number, fields in read_lines(path):
        speaker = speaker_of(fields[0]) if len(fields) > 1 else None
        names = [os.path.splitext(field)[0] for field in fields[1:]]
        if not speaker or any(name.count("/") != 1 or name.partition("/")[0] != speaker for name in names):
            raise UserError(located(path, number, "not `idNNNNN-enroll idNNNNN/recording ...` of one speaker"))
        if speaker in models:
            raise UserError(located(path, number, f"{speaker} has a model on an earlier line"))
        models[speaker] = sorted(set(names))
    return models


def recordings(folder: str) -> dict[str, str]:
    """Finds the recordings that lie in `folder` itself: name without suffix -> path, sorted."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder; it comes with the corpus, {SITE}")
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in SUFFIXES and not entry.name.startswith("."):
                found[stem] = entry.path
    return dict(sorted(found.items()))


def recording(stem: str) -> str:
    """Finds the path of a recording; UserError if it is there with none of the suffixes."""
    found = add_suffix(stem, SUFFIXES)
    if not found:
        raise UserError(f"{stem}: not there, as {' or '.join(SUFFIXES)}; unpack the corpus again")
    return found
