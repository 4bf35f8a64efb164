"""Opens recordings: a source of samples from a file, `ark:offset` or `command |`, and one channel of it, checked.

WAVs of 16-bit integers or 32-bit floats (all that utils/copy_wav.sh writes) are read by a seek. libsndfile reads the
rest (FLAC, Ogg, MP3, other WAVs, SPHERE). Files that it does not know go through SoX, or else ffmpeg.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from svq.data.rxfilename import SOX_READS, Rx, parse, start
from svq.data.tarshard import member_at
from svq.data.wavfile import as_float32, read_header
from svq.errors import UserError
from svq.files import open_file

PROBE_BYTES = 1 << 16  # bytes that a check reads of a pipe before it stops it
LIMIT = 100.0  # 40 dB over full scale: louder than any master, softer than speech scaled to 16-bit integers
RATES = (1_000, 768_000)  # samples a second: no recording of speech has fewer, and no recorder gives more
CLIPPED_SHARE = 0.01  # share of a pipe's samples that SoX may cut off without an error

_SOX_CLIPPED = re.compile(rb"input clipped (\d+) samples")
_RESCALE = "scale it to [-1, 1] first: 16-bit integers are divided by 32768"

# The share of their power that the average of N channels keeps: all of it where they are alike, 1/N where they have
# nothing to do with each other (or one alone has sound), nothing where they cancel each other.
LEAST_SHARE = 0.25  # times 1/N
ALIKE_SHARE = 0.75
_BLOCK_FRAMES = 1 << 20  # frames read at a time to compare the channels of a recording


@dataclass(frozen=True)
class Info:
    """The size of a recording: rate in Hz, channels, frames (samples per channel)."""

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self.frames / self.rate


class Unreadable(Exception):
    """The reason why a recording cannot be read; `naming` puts the recording's name before it."""


# ---- sources: an open recording with .info and .read(start, count) -> (count, channels) float32


class _Wav:
    def __init__(self, file, header):
        self.file, self.data_start, self.dtype = file, header.data_start, np.dtype(header.dtype)
        self.info = Info(header.rate, header.channels, header.frames)

    def read(self, start: int, count: int) -> np.ndarray:
        frame = self.dtype.itemsize * self.info.channels
        self.file.seek(self.data_start + frame * start)
        data = self.file.read(frame * count)
        if len(data) < frame * count:
            raise Unreadable("the file ends before its last sample")
        return as_float32(np.frombuffer(data, self.dtype).reshape(-1, self.info.channels))


class Samples:
    """A source of samples (frames, channels) float32 that are in memory, at `rate` Hz."""

    def __init__(self, samples: np.ndarray, rate: int):
        self.samples, self.info = samples, Info(rate, samples.shape[1], len(samples))

    def read(self, start: int, count: int) -> np.ndarray:
        """Reads `count` frames from `start`: (count, channels)."""
        return self.samples[start : start + count]


class _SoundFile:
    def __init__(self, sound):
        self.sound, self.at = sound, 0
        sound.seekable = lambda: False  # or soundfile seeks after each read to where it is, which decodes a frame of FLAC again
        self.info = Info(sound.samplerate, sound.channels, sound.frames)

    def read(self, start: int, count: int) -> np.ndarray:
        import soundfile

        try:
            if start != self.at:
                self.sound.seek(start)
            samples = self.sound.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise Unreadable(str(error.error_string).strip().rstrip(".")) from None
        self.at = start + len(samples)
        if len(samples) < count:
            raise Unreadable(f"the decoder gave {len(samples)} samples where the header promises {count}")
        return samples


class Mono:
    """One channel of another source, samples (count,), checked.

    share: a call that gives the share of their power that the average of all channels keeps. channel: the one, from 0,
    to take of several; None takes their average. any_scale: accepts any peak. alike: requires channels that are
    averaged to be alike. Raises Unreadable.
    """

    def __init__(self, source, share: Callable[[], float], channel: int | None = None, any_scale: bool = False,
                 alike: bool = False):
        if not RATES[0] <= source.info.rate <= RATES[1]:
            raise Unreadable(f"{source.info.rate} samples a second, outside {RATES[0]} to {RATES[1]}: mend its header")
        self.source, self.info, self.share = source, source.info, share
        self.channel, self.any_scale, self.alike = channel, any_scale, alike
        self.compared = self.info.channels == 1 or channel is not None
        if self.info.channels == 1:
            self.channel = 0
        elif channel is not None and channel >= self.info.channels:
            raise Unreadable(f"has only {self.info.channels} channels; mend reco2file_and_channel")

    def read(self, start: int, count: int) -> np.ndarray:
        """Reads `count` frames from `start`: mono float32 (count,). Unreadable for NaN, or channels that no average stands for."""
        samples = self.source.read(start, count)
        peak = float(np.abs(samples).max(initial=0.0))
        if not math.isfinite(peak):
            raise Unreadable("holds NaN or infinite samples")
        if peak > LIMIT and not self.any_scale:
            raise Unreadable(f"holds samples beyond {LIMIT:g}, and full scale is 1; {_RESCALE}")
        if self.channel is not None:
            return np.ascontiguousarray(samples[:, self.channel])
        if not self.compared:
            whole = len(samples) == self.info.frames
            self._require_share(share_of(Samples(samples, self.info.rate)) if whole else self.share())
            self.compared = True
        return samples.mean(axis=1, dtype=np.float32)

    def _require_share(self, share: float) -> None:
        count = self.info.channels
        if share * count < LEAST_SHARE:
            raise Unreadable(f"its {count} channels cancel each other: their average keeps {100 * share:.2g} % of "
                              "their power; take one, `sox IN OUT remix 1`, or name it in reco2file_and_channel")
        if self.alike and share < ALIKE_SHARE:
            raise Unreadable(f"its {count} channels differ, as those of a call: their average keeps {100 * share:.2g} "
                              "% of their power; name the one of each recording in reco2file_and_channel")


def share_of(source) -> float:
    """Measures the share of the power of a source's channels that their average keeps, over the whole recording.

    1 if it is silent.
    """
    kept = power = 0.0
    for start in range(0, source.info.frames, _BLOCK_FRAMES):
        samples = source.read(start, min(_BLOCK_FRAMES, source.info.frames - start))
        power += float(np.square(samples, dtype=np.float64).sum()) / source.info.channels
        kept += float(np.square(samples.mean(axis=1, dtype=np.float64)).sum())
    return kept / power if power else 1.0


@lru_cache(maxsize=1 << 16)
def _share_of_file(rx: Rx, size: int, changed: int) -> float:
    """Gives `share_of` a file, computed once while its size and time of change stay: every part read asks for it."""
    with contextlib.ExitStack() as stack:
        return share_of(_from_place(rx, stack))


def _wav_or_none(file, size: int, offset: int):
    """Gives (source, header) of the WAV at `offset`.

    Without a WAV both are None; source is None if libsndfile must read.
    """
    header = read_header(file, size, offset)
    if header is None:
        return None, None
    if not header.complete:
        raise Unreadable("cut short: the WAV header promises more samples than there are")
    if header.streamed and offset:
        raise Unreadable("the WAV in this archive does not say its length")
    return (_Wav(file, header) if header.dtype else None), header


def _sound(file, stack):
    import soundfile

    try:
        sound = stack.enter_context(soundfile.SoundFile(file))
    except soundfile.LibsndfileError as error:
        raise Unreadable(str(error.error_string).strip().rstrip(".")) from None
    if not sound.seekable():  # GSM and the like: libsndfile does not even know its length; SoX does
        raise Unreadable("a format in which it cannot seek")
    return _SoundFile(sound)


def _from_bytes(data: bytes, stack, extension: str | None = None):
    """Makes the source for a whole recording that is in memory; with its extension, SoX or ffmpeg may read it, too."""
    if not data:
        raise Unreadable("no audio at all")
    source, header = _wav_or_none(io.BytesIO(data), len(data), 0)
    if source is not None:
        return source
    if header is not None and header.streamed:  # say the length that the writer could not know
        data = bytearray(data)
        size = len(data) - header.data_start
        data[4:8] = struct.pack("<I", len(data) - 8)
        data[header.data_start - 4 : header.data_start] = struct.pack("<I", size)
    try:
        return _sound(io.BytesIO(data), stack)
    except Unreadable as error:
        if extension is None or header is not None:
            raise
        with tempfile.NamedTemporaryFile(suffix=f".{extension}") as file:  # ffmpeg has to seek in an m4a
            file.write(data)
            file.flush()
            return _from_bytes(_convert(file.name, str(error)), stack)


def _from_offset(rx: Rx, stack):
    file = stack.enter_context(open_file(rx.path))
    size = os.fstat(file.fileno()).st_size
    if rx.offset >= size:
        raise Unreadable(f"the archive ends at byte {size}")
    source, header = _wav_or_none(file, size, rx.offset)
    if source is not None:
        return source
    file.seek(rx.offset)
    if header is not None:
        block = header.channels * header.bits // 8
        return _sound(io.BytesIO(file.read(header.data_start + header.frames * block - rx.offset)), stack)
    mark = file.read(6)
    if mark[:5] == b"AUDIO" and len(mark) == 6:  # kaldiio's archives of FLAC and the like: AUDIO, width, length
        length = int.from_bytes(file.read(mark[5]), "little")
        return _from_bytes(file.read(length), stack)
    member = member_at(file, rx.offset)
    if member is not None:
        if member[1] > size - rx.offset:
            raise Unreadable(f"cut short: the tar promises {member[1]} bytes here, and {size - rx.offset} are left")
        file.seek(rx.offset)
        return _from_bytes(file.read(member[1]), stack, member[0])
    raise Unreadable("no WAV begins at this offset, nor a file of a tar")


def _from_file(rx: Rx, stack):
    file = stack.enter_context(open_file(rx.path))
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise Unreadable("the file is empty")
    source, header = _wav_or_none(file, size, 0)
    if source is not None:
        return source
    if header is not None and header.streamed:
        file.seek(0)
        return _from_bytes(file.read(), stack)
    try:
        return _sound(rx.path, stack)
    except Unreadable as error:
        return _from_bytes(_convert(rx.path, str(error)), stack)


def _convert(path: str, why: str) -> bytes:
    """Converts a recording to a 16-bit WAV by SoX or ffmpeg, whichever reads it. No shell, no file name patterns.

    why: libsndfile's reason for not reading it, for the message.
    """
    said = [f"libsndfile: {why}"]
    extension = os.path.splitext(path)[1][1:].lower()
    commands = [["ffmpeg", "-nostdin", "-v", "error", "-i", f"file:{path}", "-c:a", "pcm_s16le", "-f", "wav", "-"]]
    if extension:  # it tells SoX the format; from standard input, as SoX could take a name for a pattern or an option
        commands.insert(0 if extension in SOX_READS else 1,
                        ["sox", "-D", "-V1", "-t", extension, "-", "-b", "16", "-e", "signed", "-t", "wav", "-"])
    for command in commands:
        tool = command[0]
        if shutil.which(tool) is None:
            said.append(f"{tool}: not installed")
            continue
        with open_file(path) as file:
            done = subprocess.run(command, stdin=file, capture_output=True)
        if done.returncode == 0 and done.stdout:
            return done.stdout
        said.append(f"{tool}: {_last_line(done.stderr) or f'exit status {done.returncode}'}")
    raise Unreadable(f"not a recording, or cut short, or of an unknown format; give a WAV or FLAC ({'; '.join(said)})")


def _last_line(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][-200:] if lines else ""


# ---- pipes


def _checked_output(status: int, out: bytes, stderr: bytes) -> bytes:
    # 141: a writer stopped by SIGPIPE because its reader had all that it wanted and ended well.
    if status not in (0, 128 + signal.SIGPIPE):
        raise Unreadable(f"the command ended with status {status}: {_last_line(stderr) or 'it said nothing'}")
    if not out:
        raise Unreadable(f"the command gave no audio: {_last_line(stderr) or 'it said nothing'}")
    return out


def _from_place(rx: Rx, stack):
    if rx.kind == "held":
        return _from_bytes(rx.data, stack, rx.path.rpartition(".")[2])
    return _from_offset(rx, stack) if rx.kind == "offset" else _from_file(rx, stack)


def _from_pipe(command: str, stack):
    """Runs a command and gives (source, the bytes of its output, which the source reads)."""
    process = start(command, subprocess.PIPE)
    out, err = process.communicate()
    data = _checked_output(process.returncode, out, err)
    source = _from_bytes(data, stack)
    # SoX computes in integers: it cuts off float samples beyond full scale as it reads them, and its status is 0.
    clipped = sum(map(int, _SOX_CLIPPED.findall(err)))
    if clipped > CLIPPED_SHARE * source.info.frames * source.info.channels:
        raise Unreadable(f"SoX cut off {clipped} of the samples that it read, beyond full scale; {_RESCALE}")
    return source, data


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def probe_pipe(command: str, stack) -> None:
    """Checks that a pipe gives samples: reads its first 64 kB, then stops it; reads all where those do not tell.

    Raises Unreadable where it gives none. stack: the ExitStack that ends the command.
    """
    stderr = stack.enter_context(tempfile.TemporaryFile())  # a pipe that nobody reads would block the command
    process = stack.enter_context(start(command, stderr))
    stack.callback(_stop, process)  # before its own exit, which waits for it
    head = process.stdout.read(PROBE_BYTES)
    if len(head) == PROBE_BYTES:
        header = read_header(io.BytesIO(head), len(head), 0)
        if header is not None and header.frames > 0:
            return
    rest = process.stdout.read()
    process.wait()
    stderr.seek(0)
    _require_samples(_from_bytes(_checked_output(process.returncode, head + rest, stderr.read()), stack).info)


@contextlib.contextmanager
def naming(rxfilename: str | Rx):
    """Turns what goes wrong inside into a UserError that names the recording."""
    try:
        yield
    except Unreadable as error:
        raise UserError(f"{rxfilename}: {error}") from None
    except OSError as error:
        raise UserError(f"{rxfilename}: {(error.strerror or str(error)).lower()}") from None
    except UserError as error:
        raise UserError(f"{rxfilename}: {error}") from None


def open_recording(rxfilename: str | Rx, stack, **how) -> Mono:
    """Opens a recording as `Mono`; `stack`, an ExitStack, closes it. how: `any_scale` and `alike` of `Mono`.

    Raises Unreadable, UserError or OSError, which `naming` turns into a UserError that names the recording.
    """
    rx = parse(rxfilename)
    if rx.kind == "pipe":
        source, data = _from_pipe(rx.path, stack)

        def share() -> float:
            return share_of(_from_bytes(data, stack))
    else:
        source = _from_place(rx, stack)

        def share() -> float:
            if rx.kind == "held":
                return share_of(_from_place(rx, stack))
            found = os.stat(rx.path)
            return _share_of_file(rx, found.st_size, found.st_mtime_ns)

    _require_samples(source.info)
    return Mono(source, share, rx.channel, **how)


def _require_samples(found: Info) -> None:
    if found.frames <= 0:
        raise Unreadable("no samples in it")
