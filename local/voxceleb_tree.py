"""Reads the official folders, lists and counts of VoxCeleb, for check_voxceleb.py and prepare_voxceleb.py."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

from svq.errors import UserError, located

SITE = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb/"
META = "https://mm.kaist.ac.kr/datasets/voxceleb/meta/"
SPEAKER = re.compile(r"id\d{5}")

# Folders that hold the folders of speakers. The two parts of VoxCeleb1 are unpacked apart or into one `wav`;
# its E and H lists need both. In VoxCeleb2, `wav` is a copy converted from the published m4a.
VOX1_FOLDERS = ("wav", "dev/wav", "test/wav", "vox1_dev_wav/wav", "vox1_test_wav/wav")
VOX2_FOLDERS = {
    part: (f"{part}/aac", f"vox2_{part}_aac/{part}/aac", f"vox2_{part}_aac/aac", f"{part}/wav")
    for part in ("dev", "test")
}
VOX1_SUFFIXES, VOX2_SUFFIXES = (".wav", ".flac"), (".m4a", ".wav", ".flac")

# Name of a list here -> the published file. The 2 marks the lists that mistaken labels were removed from.
TRIAL_FILES = {
    "trials_O": "veri_test2.txt",
    "trials_E": "list_test_all2.txt",
    "trials_H": "list_test_hard2.txt",
    "trials_O_original": "veri_test.txt",
    "trials_E_original": "list_test_all.txt",
    "trials_H_original": "list_test_hard.txt",
}


def trial_files(lists: str, originals: bool) -> dict[str, str]:
    """Gives the files of the chosen lists: "O E H" -> {"trials_O": "veri_test2.txt", ...}; UserError on an unknown one."""
    unknown = [name for name in lists.split() if f"trials_{name}" not in TRIAL_FILES or len(name) > 1]
    if unknown or not lists.split():
        raise UserError(f"--lists takes some of O, E, H, not '{lists}'")
    names = [f"trials_{name}" for name in lists.split()]
    if originals:
        names += [f"{name}_original" for name in names]
    return {name: TRIAL_FILES[name] for name in names}


def vox1_folders(root: str) -> list[str]:
    """Finds the folders of VoxCeleb1 under `root` that hold folders of speakers; `root` itself where it holds them."""
    found = [os.path.join(root, name) for name in VOX1_FOLDERS if _holds_speakers(os.path.join(root, name))]
    return found or ([root] if _holds_speakers(root) else [])


def vox2_folder(root: str, part: str) -> str | None:
    """Finds the folder of the speakers of VoxCeleb2 dev or test: that of the first layout that is there."""
    found = [os.path.join(root, name) for name in VOX2_FOLDERS[part] if _holds_speakers(os.path.join(root, name))]
    return found[0] if found else None


def _holds_speakers(folder: str) -> bool:
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        return any(SPEAKER.fullmatch(entry.name) for entry in entries)


def speaker_folders(folders: list[str]) -> dict[str, str]:
    """Finds the folder of each speaker, sorted; UserError on a stray folder or a speaker that is in two places."""
    found: dict[str, str] = {}
    for folder in folders:
        for entry in os.scandir(folder):
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            if not SPEAKER.fullmatch(entry.name):
                raise UserError(f"{entry.path}: not a speaker's folder (idNNNNN); move it away")
            if entry.name in found:
                raise UserError(f"speaker {entry.name} is in {found[entry.name]} and in {folder}; remove one of them")
            found[entry.name] = folder
    return {speaker: os.path.join(found[speaker], speaker) for speaker in sorted(found)}


def scan_speaker(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Lists the paths <folder>/<video>/<clip> of every recording in the folder of a speaker, in no order."""
    paths = []
    for video in os.scandir(folder):
        if not video.name.startswith(".") and video.is_dir():
            for clip in os.scandir(video.path):
                if clip.name.lower().endswith(suffixes) and not clip.name.startswith("."):
                    paths.append(clip.path)
    return paths


def scan(speakers: dict[str, str], suffixes: tuple[str, ...], threads: int = 8, batch: int = 128):
    """Yields (speaker, paths) in order. Uses threads, because a file server takes a while for each listing.

    Lists a batch of speakers at a time, so that a million paths are never in memory together.
    """
    names = list(speakers)
    with ThreadPoolExecutor(threads) as pool:
        for i in range(0, len(names), batch):
            part = names[i : i + batch]
            yield from zip(part, pool.map(lambda name: scan_speaker(speakers[name], suffixes), part))


def read_file_list(path: str, root: str, suffixes: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """Reads {"dev" or "test": {speaker: paths}} from a file of paths, one a line.

    Paths end in idNNNNN/video/clip.suffix and are relative to `root`, or absolute. A path with a folder
    `test` before that of the speaker is in the part `test`. Looks up nothing on disk: the list saves that.
    """
    parts: dict[str, dict[str, list[str]]] = {"dev": {}, "test": {}}
    try:
        file = open(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {os.strerror(error.errno).lower()}") from None
    with file:
        for number, line in enumerate(file, 1):
            relative = line.rstrip("\n").removeprefix("./")
            fields = relative.split("/")
            if len(fields) < 3 or not SPEAKER.fullmatch(fields[-3]) or not relative.lower().endswith(suffixes):
                wanted = " or ".join(suffixes)
                raise UserError(located(path, number, f"'{relative}' does not end in idNNNNN/video/clip with {wanted}"))
            part = parts["test" if "test" in fields[:-3] else "dev"]
            part.setdefault(fields[-3], []).append(os.path.join(root, relative))
    return {name: dict(sorted(part.items())) for name, part in parts.items()}


def read_counts(path: str) -> dict[str, int]:
    """Reads the file of --counts, with lines `name number`; an empty path gives no counts, so nothing is checked."""
    if not path:
        return {}
    counts = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if not fields or line.startswith("#"):
                continue
            if len(fields) != 2 or not fields[1].isdigit():
                raise UserError(located(path, number, "not `name number`"))
            counts[fields[0]] = int(fields[1])
    return counts


def check_count(counts: dict[str, int], name: str, found: int, where: str) -> None:
    """Checks a number that was found; UserError when `counts` holds another number for `name`."""
    if counts.get(name, found) != found:
        raise UserError(
            f"{where}: {found} {name.rpartition('.')[2].partition('_')[0]}, not the {counts[name]} of the complete "
            f"{name.partition('.')[0]}; get what is missing, or give a reduced copy's own numbers with --counts"
        )


def read_genders(path: str) -> dict[str, str]:
    """Reads speaker -> m or f from the official vox1_meta.csv (tabs) or vox2_meta.csv (commas)."""
    genders = {}
    with open(path, encoding="utf-8-sig") as file:
        header = [name.strip() for name in re.split(r"[\t,]", file.readline())]
        if "Gender" not in header:
            raise UserError(located(path, 1, "no column `Gender`; not vox1_meta.csv or vox2_meta.csv"))
        column = header.index("Gender")
        for number, line in enumerate(file, 2):
            fields = [field.strip() for field in re.split(r"[\t,]", line)]
            if len(fields) <= column or not SPEAKER.fullmatch(fields[0]) or fields[column] not in ("m", "f"):
                raise UserError(located(path, number, "no speaker idNNNNN with a gender of m or f"))
            genders[fields[0]] = fields[column]
    return genders


def read_trials(path: str):
    """Yields (line number, target, enroll, test) of an official list: `1 id10270/video/00001.wav id.../....wav`.

    Gives the recordings as utterances, idNNNNN-video-NNNNN. UserError names the line of anything else, and of
    a label that contradicts the speakers: labels follow from the names, so such a file is damaged.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if len(fields) != 3 or fields[0] not in ("0", "1"):
                raise UserError(located(path, number, "not `0|1 recording recording`"))
            sides = []
            for name in fields[1:]:
                parts = name.removesuffix(".wav").split("/")
                if len(parts) != 3 or not SPEAKER.fullmatch(parts[0]):
                    raise UserError(located(path, number, f"'{name}' is not idNNNNN/video/clip.wav"))
                sides.append(parts)
            if (sides[0][0] == sides[1][0]) != (fields[0] == "1"):
                text = f"label {fields[0]} for speakers {sides[0][0]} and {sides[1][0]}"
                raise UserError(located(path, number, f"{text}; get the list again from {META}"))
            yield number, fields[0] == "1", "-".join(sides[0]), "-".join(sides[1])
