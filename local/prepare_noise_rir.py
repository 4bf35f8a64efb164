#!/usr/bin/env python3
"""Makes Kaldi data directories of noises and of room impulse responses, for augmentation.

Noises come from the official MUSAN folder (--musan-parts chooses its parts) or any folder of clips.
Rooms come from the official RIRS_NOISES folder (the responses that its rir_list files name, not the noises
beside them) or any folder of responses. utt2spk gives the kind of a noise or room, which is its first folder.
"""

from __future__ import annotations

import os

from corpus_tools import safe_id

from svq.cli import parser, run_main
from svq.data import audio
from svq.data.new_dir import list_audio, need_folder, wav_value, write_data_dir
from svq.data.table import write_table
from svq.errors import UserError, located
from svq.progress import progress

MUSAN_PARTS = ("music", "noise", "speech")


def row(relative: str, kind: str, value: str, seconds: float):
    """Makes a row for `write_data_dir`; the utterance is called <kind>-<path with - for />."""
    stem = os.path.splitext(relative)[0]
    rest = stem[len(kind) + 1 :] if stem.startswith(kind + os.sep) else stem
    # A kind has no `-`, so that utterances sort in the order of their kinds.
    kind = safe_id(kind)
    return f"{kind}-{safe_id(rest.replace(os.sep, '-'), '-')}", kind, value, seconds


def kind_of(relative: str, otherwise: str) -> str:
    return relative.split(os.sep)[0] if os.sep in relative else otherwise


def report_others(root: str, other: list[str]) -> None:
    if other:
        print(f"{root}: {len(other)} files are no recordings and are left out, for instance {other[0]}")


def noise_rows(root: str, musan_parts: tuple[str, ...]):
    """Yields the rows of all noises under `root`, with their durations."""
    root = need_folder(root, "noises")
    if all(os.path.isdir(os.path.join(root, "musan", part)) for part in MUSAN_PARTS):
        root = os.path.join(root, "musan")
    parts = [""]
    if all(os.path.isdir(os.path.join(root, part)) for part in MUSAN_PARTS):
        unknown = sorted(set(musan_parts) - set(MUSAN_PARTS))
        if unknown or not musan_parts:
            raise UserError(f"--musan-parts takes some of {', '.join(MUSAN_PARTS)}, not '{' '.join(musan_parts)}'")
        parts = sorted(musan_parts)
    found = []
    for part in parts:
        recordings, other = list_audio(os.path.join(root, part))
        found += [os.path.join(part, relative) for relative in recordings]
        report_others(os.path.join(root, part), other)
    if not found:
        raise UserError(f"{root}: no recordings (noises)")
    for relative in progress(found, desc=f"reading {root}"):
        path = os.path.join(root, relative)
        yield row(relative, kind_of(relative, "noise"), wav_value(path), audio.duration(wav_value(path)))


def rir_row(relative: str, kind: str, path: str) -> tuple:
    """Makes the `row` of an impulse response, and adds whether it has several channels."""
    found = audio.info(wav_value(path))
    return *row(relative, kind, wav_value(path), found.seconds), found.channels > 1


def rir_rows(root: str):
    """Yields the `rir_row` of each room impulse response under `root`."""
    root = need_folder(root, "room impulse responses")
    if os.path.isdir(os.path.join(root, "RIRS_NOISES", "simulated_rirs")):
        root = os.path.join(root, "RIRS_NOISES")
    if os.path.isdir(os.path.join(root, "simulated_rirs")):
        yield from official_rir_rows(root)
        return
    recordings, other = list_audio(root)
    report_others(root, other)
    if not recordings:
        raise UserError(f"{root}: no recordings (room impulse responses)")
    for relative in progress(recordings, desc=f"reading {root}"):
        path = os.path.join(root, relative)
        yield rir_row(relative, kind_of(relative, "rir"), path)


def official_rir_rows(root: str):
    """Yields the rows of RIRS_NOISES: simulated_rirs/<size> (mono), real_rirs_isotropic_noises (some multi-channel)."""
    simulated = os.path.join(root, "simulated_rirs")
    sizes = sorted(entry.name for entry in os.scandir(simulated) if entry.is_dir())
    folders = [(os.path.join("simulated_rirs", size), size) for size in sizes]
    real = "real_rirs_isotropic_noises"
    if os.path.isdir(os.path.join(root, real)):
        folders.append((real, "real"))
    for folder, kind in folders:
        listed = read_rir_list(root, os.path.join(folder, "rir_list"))
        for relative in progress(listed, desc=f"reading {folder}"):
            path = os.path.join(root, relative)
            inner = os.path.relpath(relative, folder)
            yield rir_row(os.path.join(kind, inner), kind, path)


def read_rir_list(root: str, relative: str):
    """Yields the paths, relative to `root`, that a rir_list names: `--rir-id 1 --room-id x RIRS_NOISES/folder/file.wav`."""
    path = os.path.join(root, relative)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; RIRS_NOISES comes with it (https://www.openslr.org/28/)")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            wav = line.split()[-1] if line.split() else ""
            inner = wav.removeprefix("RIRS_NOISES/")
            if inner == wav or ".." in inner.split("/"):
                raise UserError(located(path, number, "does not end in a path that begins with RIRS_NOISES/"))
            if not os.path.exists(os.path.join(root, inner)):
                raise UserError(located(path, number, f"{inner} is not there; unpack RIRS_NOISES again"))
            yield inner


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--noise", default="", help="folder of noises; empty: none")
    options.add_argument("--rir", default="", help="folder of room impulse responses; empty: none")
    options.add_argument("--musan-parts", default="music noise speech", help="parts of MUSAN to use")
    options.add_argument("--data", default="data", help="writes <data>/noise and <data>/rir")
    args = options.parse_args()
    if not args.noise and not args.rir:
        raise UserError("neither --noise nor --rir given")
    # List both before anything is written.
    noise = sorted(noise_rows(args.noise, tuple(args.musan_parts.split()))) if args.noise else None
    rir = sorted(rir_rows(args.rir), key=lambda entry: entry[0]) if args.rir else None
    if noise:
        kinds, count = write_data_dir(os.path.join(args.data, "noise"), noise)
        print(f"{args.data}/noise: {count} noises of {kinds} kinds, {sum(r[3] for r in noise) / 60:.0f} min")
    if rir:
        folder = os.path.join(args.data, "rir")
        kinds, count = write_data_dir(folder, (entry[:4] for entry in rir))
        several = [entry[0] for entry in rir if entry[4]]
        if several:  # take the first of several microphones, since their sum would be a comb filter
            write_table(os.path.join(folder, "reco2file_and_channel"), ((utt, f"{utt} 1") for utt in several))
        print(f"{args.data}/rir: {count} room impulse responses of {kinds} kinds")


if __name__ == "__main__":
    run_main(main)
