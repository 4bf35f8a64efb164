"""Finds and names the recordings of what people have: a tree with a folder for each speaker, or a table `path,speaker`.

Names. A speaker is called as its folder, or as the table says; any character but letters, digits, `_` and `.` becomes
`_`. An utterance is called SPEAKER-FOLDERS-NAME: the folders below the root without the speaker's, and the file's name
without its suffix, joined by `-`. If the file's name begins with some of these, they are not repeated:
84/121123/84-121123-0001.flac is 84-121123-0001. Since `-` sorts before all other characters of speakers' names,
sorted utterances have sorted speakers. Two recordings of one name are refused.
"""

from __future__ import annotations

import csv
import glob
import os
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from svq.data import audio
from svq.data.new_dir import AUDIO_SUFFIXES, list_audio, need_folder, wav_value
from svq.data.rxfilename import Rx
from svq.data.words import MAX_KEY
from svq.errors import UserError, located, some_of
from svq.files import open_file

_GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f"}
_COLUMNS = ("path", "speaker", "gender")
_SPEAKER_ID = re.compile(r"id\d{5}")  # VoxCeleb's


@dataclass(frozen=True)
class Found:
    """A recording: its speaker as the corpus calls it, the folders that go into its id, and its absolute path.

    where: its name in messages, the file or the line of the table.
    """

    speaker: str
    folders: tuple[str, ...]
    path: str
    where: str


def of_tree(root: str, level: int = 0) -> tuple[list[Found], list[str]]:
    """Lists the recordings below folder `root`, and the speakers' folders without any.

    level: the level of the speakers' folders below `root`, from 1. 0 takes the first level, with a UserError where
    names tell that the speakers are on another one, or where there would be only one speaker. UserError also for a
    recording outside the speakers' folders, and where there are no recordings.
    """
    root = need_folder(root, "a tree with a folder for each speaker")
    files = list_audio(root)[0]
    if not files:
        raise UserError(f"{root}: no recordings in it ({' '.join(AUDIO_SUFFIXES)})")
    parts = [file.split(os.sep) for file in files]
    depth = level or 1
    for file, names in zip(files, parts):
        if len(names) <= depth:
            raise UserError(f"{os.path.join(root, file)}: lies in no speaker's folder (level {depth} below {root}); move it")
    if level == 0:
        _require_speakers(root, parts)
    found = [Found(names[depth - 1], tuple(names[:depth - 1] + names[depth:-1]), os.path.join(root, file),
                   os.path.join(root, file)) for file, names in zip(files, parts)]
    filled = {os.sep.join(names[:depth]) for names in parts}
    folders = glob.glob(os.path.join(glob.escape(root), *["*"] * depth, ""))
    return found, sorted(folder for folder in folders if os.path.relpath(folder, root) not in filled)


def _require_speakers(root: str, parts: list[list[str]]) -> None:
    """Raises UserError where, as far as names tell, the folders of the first level are not the speakers'."""
    def refuse(level: int, why: str):
        raise UserError(f"{root}: {why}; give the folder that holds the speakers' folders, or say which level they are: "
                        f"--speaker-level {level}")

    name = os.path.basename(root)
    if all(_begins(names[-1], name) and not _begins(names[-1], names[0]) for names in parts):
        raise UserError(f"{root}: files are called as this folder, so it is a speaker's; give the folder above it, or say that its "
                        "own folders are speakers': --speaker-level 1")
    for level in range(2, min(map(len, parts))):
        inner = parts[0][level - 1]
        if all(_begins(names[-1], names[level - 1]) and not _begins(names[-1], names[0]) for names in parts):
            refuse(level, f"files are called as the folders of level {level} ({inner}), not as those of level 1")
        if all(_SPEAKER_ID.fullmatch(names[level - 1]) and not _SPEAKER_ID.fullmatch(names[0]) for names in parts):
            refuse(level, f"folders of level {level}, not 1, are called as VoxCeleb's speakers ({inner})")
    if len({names[0] for names in parts}) == 1:
        refuse(2 if min(map(len, parts)) > 2 else 1, f"{parts[0][0]} would be the only speaker")


def _begins(name: str, folder: str) -> bool:
    return name.startswith((folder + "-", folder + "_"))


def of_table(path: str, root: str = "") -> tuple[list[Found], dict[str, str], list[str]]:
    """Reads a table of recordings with a header (.tsv: tabs, else commas): (recordings, genders, columns of no use).

    Columns: path, speaker and, where known, gender (m, f, male, female). genders: speaker -> m or f. root: the folder
    at which relative paths begin; empty for the table's own. UserError names the line of a cell or file that is
    missing, or of a path that is there twice.
    """
    root = os.path.abspath(root or os.path.dirname(path) or ".")
    found, lines, genders = [], {}, {}
    rows = _rows(path)
    header = next(rows)[1]
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(located(path, number, f"{len(row)} columns where the header has {len(header)}; quote what holds a "
                                                  "separator"))
        cells = {name: cell.strip() for name, cell in zip(header, row)}
        for name in _COLUMNS[:2]:
            if not cells[name]:
                raise UserError(located(path, number, f"no {name}"))
        file = os.path.normpath(os.path.join(root, cells["path"]))
        if file in lines:
            raise UserError(located(path, number, f"`{cells['path']}` is already on line {lines[file]}; keep one"))
        lines[file] = number
        if not os.path.exists(file):
            raise UserError(located(path, number, f"{file}: no such file; relative paths begin at {root} (--root)"))
        folders = os.path.relpath(file, root).split(os.sep)[:-1]
        if folders[:1] == [os.pardir]:
            folders = file.split(os.sep)[1:-1]
        if cells["speaker"] in folders:
            folders.remove(cells["speaker"])
        found.append(Found(cells["speaker"], tuple(folders), file, f"{path}:{number}"))
        if cells.get("gender"):
            _note_gender(genders, cells["speaker"], cells["gender"], path, number)
    if not found:
        raise UserError(f"{path}: a header and no recordings")
    return found, genders, [name for name in header if name not in _COLUMNS]


def _note_gender(genders: dict[str, str], speaker: str, text: str, path: str, number: int) -> None:
    gender = _GENDERS.get(text.lower())
    if gender is None:
        raise UserError(located(path, number, f"gender `{text}` is none of m, f, male and female"))
    if genders.setdefault(speaker, gender) != gender:
        raise UserError(located(path, number, f"speaker `{speaker}` has gender {genders[speaker]} above and {gender} here"))


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line, cells) of the header, which is checked, and of all lines that are not blank."""
    separator, other = ("\t", ",") if path.lower().endswith(".tsv") else (",", "\t")
    with open_file(path, "r", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = [cell.strip().lower() for cell in next(reader, [])]
            _check_header(path, header, separator, other)
            yield 1, header
            for row in reader:
                if row:
                    yield reader.line_num, row
        except UnicodeDecodeError:
            raise UserError(f"{path}: is not UTF-8; mend: iconv -f latin1 -t utf-8") from None
        except csv.Error as error:
            raise UserError(located(path, reader.line_num, f"is no line of a table: {error}")) from None


def _check_header(path: str, header: list[str], separator: str, other: str) -> None:
    for name in _COLUMNS[:2]:
        if name not in header:
            names = {",": "commas", "\t": "tabs", ";": "semicolons"}
            split = [mark for mark in (other, ";") if any(mark in cell for cell in header)]
            hint = f" ({names[split[0]]} separate it; a .csv has commas, a .tsv has tabs)" if split else ""
            raise UserError(located(path, 1, f"the header lacks the column `{name}`{hint}; it must have path and speaker"))
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise UserError(located(path, 1, f"the header has the column `{twice[0]}` twice"))


def safe_name(text: str, extra: str = "") -> str:
    """Makes a name safe: all but letters and digits of any script, `_`, `.` and those of `extra` become `_`."""
    return re.sub(rf"[^\w.{re.escape(extra)}]", "_", unicodedata.normalize("NFC", text))


def speaker_id(name: str) -> str:
    """Gives the id of the speaker called `name`: it holds no `-`, so that utterances sort as their speakers do."""
    return safe_name(name)


def utterance_id(found: Found) -> str:
    """Gives the id of a recording, SPEAKER-FOLDERS-NAME, as this module's head describes it."""
    stem = os.path.splitext(os.path.basename(found.path))[0]
    for name in (found.speaker, *found.folders):
        if _begins(stem, name) and len(stem) > len(name) + 1:
            stem = stem[len(name) + 1:]
    return "-".join([speaker_id(found.speaker), *(safe_name(name, "-") for name in (*found.folders, stem))])


def named(found: list[Found]) -> list[tuple[str, str, Found]]:
    """Gives each recording its ids: (utterance, speaker, recording), in the order of the utterances.

    UserError where two speakers or two recordings would get one id (it names both), an id is too long, or wav.scp
    cannot hold a path.
    """
    names, first, out = {}, {}, []
    for one in found:
        wav_value(one.path)
        speaker, utterance = speaker_id(one.speaker), utterance_id(one)
        known = names.setdefault(speaker, one.speaker)
        if known != one.speaker:
            raise UserError(f"{one.where}: speakers `{known}` and `{one.speaker}` would both be called {speaker}; rename one")
        if utterance in first:
            raise UserError(f"{one.where}: would be called {utterance}, as {first[utterance]} is; rename one of them")
        if len(utterance.encode()) > MAX_KEY:
            raise UserError(f"{one.where}: its id would have {len(utterance.encode())} bytes, and ids have at most {MAX_KEY}; "
                            "shorten the names of folders and file")
        first[utterance] = one.where
        out.append((utterance, speaker, one))
    return sorted(out, key=lambda row: row[0])


def lengths(found: list[Found], decode: bool, threads: int, limit: int, say, progress=iter) -> list[float]:
    """Reads the length of each recording, in seconds, from its header. decode: decodes it all, and requires sound.

    say: called with a line for each of the first `limit` recordings that cannot be read; a UserError then counts them.
    """
    def look(one: Found):
        try:
            if decode:
                audio.check(Rx("file", one.path), decode=True)
            return audio.duration(Rx("file", one.path)), ""
        except UserError as error:
            return None, str(error) if one.where == one.path else f"{one.where}: {error}"

    seconds, bad = [], []
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for length, why in progress(_in_turn(pool, look, found)):
            seconds.append(length)
            if why:
                bad.append(why)
                if len(bad) <= limit:
                    say(why)
    if bad:
        raise UserError(f"{len(bad)} of {len(found)} recordings cannot be read ({some_of(bad, 1)}); mend or remove them, or "
                        "take them with --check-audio none and drop them by utils/fix_data_dir.sh --check-audio "
                        f"{'decode' if decode else 'header'}")
    return seconds


def _in_turn(pool: ThreadPoolExecutor, function, items) -> Iterator:
    """Yields `function` of each item, in order, with at most 1024 items waiting at a time."""
    items = iter(items)
    while batch := list(islice(items, 1024)):
        yield from pool.map(function, batch)
