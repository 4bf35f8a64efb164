"""Makes new data directories: lists the audio files of a folder, and writes their tables together."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from svq.atomic import atomic_write
from svq.data.rxfilename import parse
from svq.errors import UserError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".sph", ".aac", ".aif", ".aiff", ".amr")

# Files that an earlier preparation or a later stage may have left in a data directory. A new
# preparation removes those that it does not write, since they belong to other recordings.
_DERIVED = (
    "text segments reco2dur reco2file_and_channel feats.scp feats.yaml cmvn.scp vad.scp utt2dur utt2num_frames "
    "utt2domain spk2gender enroll.spk2utt"
).split()


def need_folder(path, what: str) -> str:
    """Gives the absolute path of the folder `path`; UserError, which says what belongs there, if it is no folder."""
    if not path:
        raise UserError(f"no folder given for {what}")
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such folder ({what})")
    return os.path.abspath(path)


def list_audio(root: str) -> tuple[list[str], list[str]]:
    """Lists (audio files, other files) under `root`, relative to it, sorted. Links are followed, hidden files left out.

    OSError for a folder that cannot be read; UserError for a link that leads back to a folder around it.
    """
    audio, other = [], []
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            _require_no_circle(os.path.join(folder, name))
        for name in names:
            if not name.startswith("."):
                relative = os.path.relpath(os.path.join(folder, name), root)
                (audio if name.lower().endswith(AUDIO_SUFFIXES) else other).append(relative)
    return sorted(audio), sorted(other)


def _refuse(error: OSError) -> None:
    raise error


def _require_no_circle(folder: str) -> None:
    """Raises UserError for a link to a folder around it: following it would never end."""
    if os.path.islink(folder):
        inner, outer = os.path.realpath(os.path.dirname(folder)), os.path.realpath(folder)
        if inner == outer or inner.startswith(outer.rstrip("/") + "/"):
            raise UserError(f"{folder}: a link to a folder that it lies in; remove it")


def wav_value(path: str) -> str:
    """Gives `path` as a value of wav.scp; UserError for the few names that wav.scp cannot hold."""
    why = ("line breaks or control characters" if any(ord(c) < 32 or ord(c) == 127 for c in path) else
           "bytes that are not UTF-8" if any("\ud800" <= c <= "\udfff" for c in path) else
           "a blank at its end, or a final '|'" if path != path.strip() or path.endswith("|") else
           "a final ':' and number" if parse(path).kind == "offset" else "")
    if why:
        raise UserError(f"{path!r}: a file name that wav.scp cannot hold ({why}); rename it")
    return path


def derived(path) -> list[str]:
    """Lists the files in data directory `path`, sorted, that a new preparation may have to remove: what was made of the
    recordings that it has, and what is known of them, trial lists too."""
    path = Path(path)
    return sorted({name for name in _DERIVED if (path / name).exists()} | {p.name for p in path.glob("trials*")})


def write_data_dir(path, rows, gender: dict[str, str] | None = None, check=None, keep=()) -> tuple[int, int]:
    """Writes wav.scp, utt2spk, spk2utt and, where known, utt2dur and spk2gender.

    rows: (utterance, speaker, wav.scp value, seconds or None), in the byte order of the utterances,
        which must also be the order of the speakers. Read once, so it may be a generator of millions.
    gender: speaker -> m or f; spk2gender is written only when it holds every speaker.
    check: called with (speakers, utterances) before anything is put in place; may raise UserError.
    keep: names of files that stay, though they are not written here.

    Gives (number of speakers, number of utterances). All files or none are replaced. UserError where two utterances
    have one name, rows are out of order, or there are none.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    speakers: list[str] = []
    written = {"wav.scp", "utt2spk", "spk2utt"}
    last_utt, count, timed, members = "", 0, 0, []

    with contextlib.ExitStack() as files:
        wav, utt2spk, spk2utt, utt2dur = (
            files.enter_context(atomic_write(path / name)) for name in ("wav.scp", "utt2spk", "spk2utt", "utt2dur")
        )
        for utt, speaker, value, seconds in rows:
            if utt == last_utt:
                raise UserError(f"{path}: two recordings would be called {utt}; the second is {value}")
            new_speaker = not speakers or speaker != speakers[-1]
            # Strings compare as their UTF-8 bytes do, which is the order of LC_ALL=C sort.
            if utt < last_utt or (new_speaker and speakers and speaker < speakers[-1]):
                raise UserError(f"{path}: utterance {utt} of speaker {speaker} sorts before {last_utt} of {speakers[-1]}")
            if new_speaker:
                if members:
                    spk2utt.write(f"{speakers[-1]} {' '.join(members)}\n")
                speakers.append(speaker)
                members = []
            members.append(utt)
            wav.write(f"{utt} {value}\n")
            utt2spk.write(f"{utt} {speaker}\n")
            if seconds is not None:
                utt2dur.write(f"{utt} {seconds:.4f}\n")
                timed += 1
            last_utt, count = utt, count + 1
        if not count:
            raise UserError(f"{path}: no recordings to put in it")
        spk2utt.write(f"{speakers[-1]} {' '.join(members)}\n")
        if check:
            check(len(speakers), count)
        if timed == count:
            written.add("utt2dur")
        if gender and all(speaker in gender for speaker in speakers):
            written.add("spk2gender")
            file = files.enter_context(atomic_write(path / "spk2gender"))
            file.writelines(f"{speaker} {gender[speaker]}\n" for speaker in speakers)
        for name in derived(path):
            if name not in written and name not in keep:
                (path / name).unlink()
    if "utt2dur" not in written:
        (path / "utt2dur").unlink()
    return len(speakers), count
