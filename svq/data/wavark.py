"""Archives of WAVs (`wav.scp` lines `path.ark:offset`): recordings are decoded once, then read by a seek.

A copy has exactly the samples of its recording: as 16-bit integers where these hold them (a 16-bit recording at the
rate that is asked for), else as 32-bit floats.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from svq.atomic import atomic_path, atomic_write
from svq.data import audio
from svq.data.audio import OVERSHOOT, TO_THE_END, require_sound, spans
from svq.data.datadir import DataDir, is_trials, keyed_by, write_spk2utt
from svq.data.reshape import _not_into_itself, _remove_others, merge
from svq.data.stored import carry_made
from svq.data.wavfile import as_int16
from svq.errors import UserError, some_of
from svq.files import open_file


def wav_bytes(samples: np.ndarray, rate: int) -> bytes:
    """Makes a mono WAV of samples (T,) float32, full scale 1: 16-bit integers if nothing is lost by it, else floats."""
    whole = as_int16(samples)
    if whole is not None:
        return _wav(struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16), b"", whole.tobytes())
    fact = struct.pack("<4sII", b"fact", 4, len(samples))  # every format but integers must have this chunk
    layout = struct.pack("<HHIIHHH", 3, 1, rate, 4 * rate, 4, 32, 0)
    return _wav(layout, fact, samples.astype("<f4").tobytes())


def _wav(layout: bytes, more: bytes, data: bytes) -> bytes:
    chunks = struct.pack("<4sI", b"fmt ", len(layout)) + layout + more + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks


def utterances(folder: DataDir, rate: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yields (utterance, a call that gives its samples (T,) float32 at `rate` Hz); cuts segments from their recordings.

    The call raises UserError where the utterance cannot be read or is silent.
    """
    def whole(rxfilename) -> np.ndarray:
        samples = audio.load(rxfilename, rate)
        require_sound(rxfilename, samples, rate)
        return samples

    if not folder.has_segments:
        for utt, rxfilename in folder.recordings.items():
            yield utt, lambda rxfilename=rxfilename: whole(rxfilename)
        return
    wav = folder.recordings
    held: dict[str, np.ndarray] = {}  # the recording of the last segment: neighbours mostly share it

    def cut(recording: str, start: float, end: float) -> np.ndarray:
        if recording not in held:
            held.clear()
            try:
                held[recording] = audio.load(wav[recording], rate, alike=True)
            except KeyError:
                raise UserError(f"recording `{recording}` is not in {wav.path}") from None
        samples = held[recording]
        if end > len(samples) / rate + OVERSHOOT or round(start * rate) >= len(samples):
            raise UserError(f"{start:g} to {end:g} s is no part of `{recording}`, {len(samples) / rate:g} s long")
        part = samples[round(start * rate) : None if end == TO_THE_END else round(end * rate)]
        require_sound(f"{start:g} to {end:g} s of `{recording}`", part, rate)
        return part

    for utt, *span in spans(folder):
        yield utt, lambda span=span: cut(*span)


def copy_part(source, ark, rate: int, progress=iter) -> None:
    """Decodes a data directory (one job's part) into `ark`, with `<ark stem>.scp` and `.utt2dur` beside it.

    rate: samples per second in the archive. Tries every utterance before it fails, so that one run names all that
    cannot be read or are silent. It then raises UserError and writes nothing.
    """
    failed = []
    stem = Path(ark).with_suffix("")
    with (
        atomic_path(ark) as temporary,
        atomic_write(f"{stem}.scp") as scp,
        atomic_write(f"{stem}.utt2dur") as utt2dur,
        open(temporary, "wb") as out,
    ):
        for utt, load in progress(utterances(DataDir(source), rate)):
            try:
                samples = load()
            except UserError as error:
                print(f"{utt}: {error}", file=sys.stderr)
                failed.append(utt)
                continue
            out.write(f"{utt} ".encode())
            scp.write(f"{utt} {ark}:{out.tell()}\n")
            utt2dur.write(f"{utt} {len(samples) / rate:.6g}\n")
            out.write(wav_bytes(samples, rate))
        if failed:
            raise UserError(f"{source}: {len(failed)} utterances cannot be read or are silent: {some_of(failed)}")


def join_parts(source, dest, arks: Sequence) -> int:
    """Writes data directory `dest`: wav.scp and utt2dur from the archives, the other files as in `source`.

    Gives the number of utterances. UserError names those that are in no archive.
    """
    folder, dest = DataDir(source), _not_into_itself(dest, source)
    dest.mkdir(parents=True, exist_ok=True)
    like = folder.path / "utt2spk"
    made = {"wav.scp", "utt2dur", "utt2spk", "spk2utt"}
    made |= carry_tables(folder, dest, made)
    stems = [Path(ark).with_suffix("") for ark in arks]
    merge([f"{s}.utt2dur" for s in stems], dest / "utt2dur", like)
    folder.utt2spk.write(dest / "utt2spk")
    write_spk2utt(dest / "spk2utt", folder.utt2spk)
    count = merge([f"{s}.scp" for s in stems], dest / "wav.scp", like)
    _remove_others(dest, made)
    return count


def carry_tables(folder: DataDir, dest: Path, made: set[str]) -> set[str]:
    """Copies what stays true of the utterances once their recordings have been cut and stored anew, but for `made`.

    Returns the names of the copies: tables of utterances and speakers, features, trials; no segments.
    """
    carry_made([folder], dest)
    carried = set()
    for name in folder.names():
        keep = keyed_by(name, folder.has_segments) in ("utt", "spk") or is_trials(name) or name == "enroll.spk2utt"
        if keep and name != "segments" and name not in made:
            carried.add(name)
            with atomic_write(dest / name, "wb") as out, open_file(folder.path / name) as file:
                while block := file.read(1 << 20):
                    out.write(block)
    return carried
