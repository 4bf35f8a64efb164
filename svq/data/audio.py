"""Recordings from files, `ark:offset` and `command |`, at any rate, as mono float32.

Relative paths are relative to the current folder, as in Kaldi. Every failure is a UserError that begins with the
extended file name. svq/data/sources.py opens the files.

Full scale is 1. Float samples beyond it stay as they are, up to LIMIT. A louder recording is an error: it was never
scaled to [-1, 1], and nobody can know how it was scaled.

If a recording has several channels, the one that its name gives (`Rx.channel`, from reco2file_and_channel) is taken.
Without one they are averaged, and it is an error if they cancel each other.

Names are Kaldi's extended file names, so one that ends in `|` is a command. A name from a user, not from a wav.scp, is
that of a file, whatever it looks like: give `Rx("file", name)` in its place.

Silence must be refused here, as a network cannot tell: it gives an embedding of anything, and the embeddings of two
digital silences have a cosine near 1. This is no voice activity detector: sound louder than SILENCE_DB may be noise.

Kaldi's segments holds parts of recordings, lines `utterance recording start end`, in seconds; an end of -1 is that of
the recording. utt2dur holds the seconds of every utterance, from segments, headers, or decoded pipes.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np

from svq.atomic import atomic_write
from svq.data.datadir import DataDir
from svq.data.resample import resampled
from svq.data.rxfilename import Rx, parse
from svq.data.sources import Info, Mono, Samples, Unreadable, naming, open_recording, probe_pipe, share_of
from svq.errors import UserError, located, some_of
from svq.numbers import number

SILENCE_DB = -80.0  # under a full-scale square wave: 3 steps of a 16-bit sample. Quiet rooms are at -70 and above.
BLOCK_SECONDS = 0.01
TO_THE_END = -1.0
OVERSHOOT = 0.5  # seconds by which a segment may pass the end of its recording, as in Kaldi's extract-segments
FORM = "is not `utterance recording start end`"


def info(rxfilename: str | Rx) -> Info:
    """Reads rate, channels and length from a recording's header (decoding pipes); UserError if unreadable or empty."""
    with naming(rxfilename), contextlib.ExitStack() as stack:
        return open_recording(rxfilename, stack).info


def duration(rxfilename: str | Rx) -> float:
    """Gives the length of a recording in seconds; UserError if it is unreadable or empty."""
    return info(rxfilename).seconds


def check(rxfilename: str | Rx, decode: bool = False, alike: bool = False) -> Info | None:
    """Raises UserError unless a recording opens and has a sample; with `decode`, unless it all decodes and has sound.

    Gives what its header says, None for a pipe that is not decoded.

    Without `decode`, only the header of a file is read, and a pipe is stopped after its first 64 kB. alike: as in
    `load`.
    """
    with naming(rxfilename), contextlib.ExitStack() as stack:
        rx = parse(rxfilename)
        if rx.kind == "pipe" and not decode:
            probe_pipe(rx.path, stack)
            return None
        recording = open_recording(rxfilename, stack, alike=alike)
        if not decode:
            recording.source.read(0, 1)
            return recording.info
        samples = recording.read(0, recording.info.frames)
    require_sound(rxfilename, samples, recording.info.rate)
    return recording.info


def load(rxfilename: str | Rx, rate: int = 16000, start: float = 0.0, seconds: float | None = None,
         any_scale: bool = False, alike: bool = False) -> np.ndarray:
    """Reads a recording, or `seconds` of it from `start`, as mono float32 (T,) at `rate` Hz; full scale is 1.

    The channel that `rxfilename` names is taken, else all are averaged; then the samples are resampled (polyphase FIR,
    svq.data.resample). A part equals the same samples of the whole up to float rounding. It is shorter than asked
    where the recording ends first. any_scale: no LIMIT, for callers that scale the recording themselves.

    UserError if the recording is unreadable or empty, ends before `start`, or has a sample beyond LIMIT, and if the
    channels to be averaged cancel each other; with `alike`, also if they differ, as those of a call.
    """
    with naming(rxfilename), contextlib.ExitStack() as stack:
        source = open_recording(rxfilename, stack, any_scale=any_scale, alike=alike)
        total = _length(source.info, rate)
        first = round(start * rate)
        last = total if seconds is None else min(total, first + round(seconds * rate))
        if first < 0 or first >= total:
            raise Unreadable(f"there is no sample at {start:g} s: it lasts {source.info.seconds:g} s")
        return _part(source, rate, first, last)


def windows(rxfilename: str | Rx, rate: int, seconds: float,
            opened: Callable[[Info], None] = lambda _: None) -> Iterator[np.ndarray]:
    """Yields a whole recording, as `load` reads it, in equal consecutive windows of at most `seconds` each; 0: in one.

    One window at a time is in memory. If the recording comes from a pipe, SoX or ffmpeg, all that they gave is, too.
    opened: called first of all, with the `Info` of the header. UserError as in `load`, at the latest when the window is
    reached that cannot be read.
    """
    with naming(rxfilename), contextlib.ExitStack() as stack:
        source = open_recording(rxfilename, stack)
        opened(source.info)
        total = _length(source.info, rate)
        count = -(-total // max(1, round(seconds * rate))) if seconds else 1
        for i in range(count):
            yield _part(source, rate, i * total // count, (i + 1) * total // count)


def at_rate(samples: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    """Turns samples (T,) or (T, channels), float32 at `own_rate` Hz, into mono (T',) at `rate` Hz, as `load` does.

    UserError as in `load`.
    """
    with naming("the samples"):
        held = Samples(samples.reshape(len(samples), -1), own_rate)
        source = Mono(held, lambda: share_of(held))
        return _part(source, rate, 0, _length(source.info, rate))


def _length(found: Info, rate: int) -> int:
    """Gives the number of samples of the whole recording at `rate` Hz."""
    return -(-found.frames * rate // found.rate)


def _part(source: Mono, rate: int, first: int, last: int) -> np.ndarray:
    """Reads samples [first, last), counted at `rate` Hz, mono."""
    common = math.gcd(rate, source.info.rate)
    up, down = rate // common, source.info.rate // common
    if up == down:
        return source.read(first, last - first)
    return resampled(source.read, source.info.frames, first, last, up, down)


def name_of(recording) -> str:
    """Gives the name of a recording (a file name, an `Rx` or samples) in messages."""
    return "the samples" if isinstance(recording, np.ndarray) else str(recording)


def windows_of(recording, rate: int, seconds: float, own_rate: int | None = None,
               opened: Callable[[Info], None] = lambda _: None) -> Iterator[np.ndarray]:
    """Yields a recording, mono float32 (T,) at `rate` Hz, in equal consecutive windows of at most `seconds`; 0: in one.

    recording: a file name (of a file, whatever it looks like), an `Rx` (a file, an offset into an archive, a command),
    or samples (T,) or (T, channels), floats in [-1, 1] or signed integers, at `own_rate` Hz (None: at `rate`).
    opened: called first of all, with the `Info` of the recording as it is. UserError names the recording.
    """
    if not isinstance(recording, np.ndarray):
        if not isinstance(recording, (str, os.PathLike, Rx)):
            raise UserError(f"an object of type {type(recording).__name__} is no recording; give a file name, or samples as "
                            "a NumPy array")
        rx = recording if isinstance(recording, Rx) else Rx("file", os.fspath(recording))
        yield from windows(rx, rate, seconds, opened)
        return
    own_rate = rate if own_rate is None else own_rate
    floats = _as_floats(recording)
    opened(Info(own_rate, 1 if floats.ndim == 1 else floats.shape[1], len(floats)))
    samples = at_rate(floats, own_rate, rate)
    longest = max(1, round(seconds * rate)) if seconds else len(samples)
    yield from np.array_split(samples, -(-len(samples) // longest))


def _as_floats(samples: np.ndarray) -> np.ndarray:
    """Turns samples (T,) or (T, channels) into float32, full scale 1; UserError for an array that is no recording."""
    if samples.ndim not in (1, 2) or not samples.size or samples.dtype.kind not in "fi":
        raise UserError(f"the samples: an array {samples.shape} of {samples.dtype} is no recording; give (T,) or "
                        "(T, channels) floats in [-1, 1] or signed integers")
    if samples.dtype.kind == "i":
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise UserError("the samples: NaN or infinite values among them; record again")
    return samples


def sounding_seconds(samples: np.ndarray, rate: int) -> float:
    """Measures how many seconds of mono `samples` (T,), full scale 1, at `rate` Hz, are louder than SILENCE_DB.

    Levels are taken over 10 ms, after the mean of all samples is subtracted: a microphone's offset is no sound.
    """
    if not len(samples):
        return 0.0
    block = max(1, round(BLOCK_SECONDS * rate))
    energy = np.square(samples - samples.mean(dtype=np.float64), dtype=np.float64)
    starts = np.arange(0, len(samples), block)
    lengths = np.diff(np.append(starts, len(samples)))
    loud = np.add.reduceat(energy, starts) > 10 ** (SILENCE_DB / 10) * lengths
    return float(lengths[loud].sum() / rate)


def silence(seconds: float) -> str:
    """Gives the message for a recording, or a part of one, of `seconds` without any sound."""
    return f"silence: nothing in its {seconds:.3g} s is above {SILENCE_DB:g} dBFS; record it again or leave it out"


def require_sound(name, samples: np.ndarray, rate: int) -> None:
    """Raises UserError, which begins with `name`, for silent samples (T,): their embedding would mean nothing."""
    if not sounding_seconds(samples, rate):
        raise UserError(f"{name}: {silence(len(samples) / rate)}")


def is_span(start, end):
    """Says whether a part of a recording can lie from `start` to `end`, in seconds: bool, or (N,) bool for arrays."""
    return (start >= 0) & ((end > start) | (end == TO_THE_END))


def spans(folder: DataDir) -> Iterator[tuple[str, str, float, float]]:
    """Yields (utterance, recording, start, end), in seconds, of each line of segments; UserError for one malformed."""
    table = folder.table("segments")
    columns, ok = table.columns(3)
    for row, fields in enumerate(zip(*(column.tolist() for column in columns))):
        recording, *bounds = (field.decode() for field in fields)
        try:
            start, end = map(number, bounds)
            good = ok[row] and is_span(start, end)
        except ValueError:
            good = False
        if not good:
            raise UserError(located(table.path, row + 1, FORM))
        yield table.key(row), recording, start, end


def seconds_of(folder: DataDir):
    """Yields (utterance, a call that gives its seconds) in the order of wav.scp, or of segments where there are some.

    With segments, only an end of -1 needs the recording.
    """
    if folder.has_segments:
        for utt, recording, start, end in spans(folder):
            yield utt, lambda r=recording, s=start, e=end: (_whole(folder, r) if e == TO_THE_END else e) - s
        return
    for utt, rxfilename in folder.wav.items():
        yield utt, lambda rxfilename=rxfilename: duration(rxfilename)


def _whole(folder: DataDir, recording: str) -> float:
    try:
        return duration(folder.recordings[recording])
    except KeyError:
        raise UserError(f"recording `{recording}` is not in {folder.recordings.path}") from None


def write_utt2dur(path, out, progress=iter) -> None:
    """Writes the utt2dur of data directory `path` to file `out`.

    Where recordings cannot be read, each is named on standard error, UserError is raised, and no file is written.
    """
    failed = []
    with atomic_write(out) as file:
        for utt, seconds in progress(seconds_of(DataDir(path))):
            try:
                file.write(f"{utt} {seconds():.6g}\n")
            except UserError as error:
                print(f"{utt}: {error}", file=sys.stderr)
                failed.append(utt)
        if failed:
            raise UserError(f"{path}: {len(failed)} utterances cannot be read: {some_of(failed)}")
