"""Makes shards of a data directory. Several jobs share the shards; a seed sets the order of the utterances.

A job writes each shard under a temporary name, reads it back, and renames it. The number of jobs changes no shard.
The folder `index` beside the shards has a table of each, with a line for each recording. Its first line has a digest of
what the shard was made from. A job keeps a shard whose table has the right digest, so a killed run resumes.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svq.atomic import atomic_path, atomic_write, remove_leftovers
from svq.data import audio
from svq.data.audio import OVERSHOOT, TO_THE_END, require_sound, spans
from svq.data.datadir import DataDir
from svq.data.features import job_slice
from svq.data.rxfilename import Rx, parse
from svq.data.shard_index import ShardIndex
from svq.data.tarshard import AUDIO, add, entries
from svq.data.wavark import wav_bytes
from svq.data.wavfile import STEPS, as_int16
from svq.errors import UserError, some_of
from svq.files import fingerprint, inputs_digest, open_file

# Roughly the kB that a second of speech at 16 kHz takes; the number of shards is computed from it.
CODECS = {"flac": 17.5, "vorbis": 6.6, "opus": 5.5, "original": 10.0}
# Defaults. Vorbis: the best at which VoxCeleb2 stays under 60 GB (docs/storage.md).
# Opus changes embeddings more than Vorbis of the same size.
QUALITY = {"vorbis": 0.6, "opus": 0.15}
_ORDER = 3  # keeps this random stream apart from those of svq.data.dataset


@dataclass(frozen=True)
class Making:
    """Settings by which shards are made.

    codec: one of CODECS. rate: samples a second. megabytes: approximate size of a shard. seed: of the random order.
    quality: for vorbis and opus, 0 (smallest) to 1, which is 1 minus libsndfile's compression level; None: see QUALITY.
    """

    codec: str = "flac"
    rate: int = 16000
    megabytes: float = 256.0
    quality: float | None = None
    seed: int = 0

    def __post_init__(self):
        if self.codec not in CODECS:
            raise UserError(f"codec {self.codec}: give one of {', '.join(CODECS)}")
        if not self.megabytes > 0:
            raise UserError(f"{self.megabytes} megabytes a shard: give more than 0")
        if self.quality is not None and (self.codec not in ("vorbis", "opus") or not 0 <= self.quality <= 1):
            raise UserError(f"quality {self.quality}: give 0 to 1, and only with codec vorbis or opus")


def plan(folder: DataDir, making: Making) -> list[np.ndarray]:
    """Deals all utterances, in a random order, evenly to shards; gives the numbers of each shard's lines in utt2spk."""
    count = len(folder.utt2spk)
    seconds = folder.utt2dur.float_array().sum() if folder.has("utt2dur") else 8.0 * count
    shards = round(seconds * CODECS[making.codec] * 1000 * making.rate / 16000 / (making.megabytes * 1e6))
    order = np.random.default_rng([_ORDER, making.seed]).permutation(count)
    return np.array_split(order, min(max(shards, 1), count))


def write_part(source, stem, making: Making, job: int, num_jobs: int, progress: Callable = iter) -> None:
    """Writes one job's share of the shards of the data directory `source`, `<stem>.NNNNN.tar`.

    job: which share, from 1 to num_jobs. A shard that was made from the same before is kept. All utterances are tried
    before UserError names those that cannot be read or are silent. A shard with such utterances is not written.
    """
    folder = DataDir(source)
    parts = plan(folder, making)
    load = Loads(folder, making.rate)
    if making.codec == "original":
        for key in folder.utt2spk:
            load.own_file(key)
    failed: list[str] = []
    if job == 1:
        _remove_past(stem, len(parts))
    numbers = range(len(parts))[job_slice(len(parts), job, num_jobs)]
    for number in progress(numbers):
        path, index = shard_path(stem, number), index_path(stem, number)
        keys = [folder.utt2spk.key(line) for line in parts[number]]
        made_from = fingerprint(vars(making), inputs_digest(), [(key, load.said(key)) for key in keys])
        if _is_done(path, index, made_from):
            continue
        remove_leftovers(path)
        try:
            _write_shard(path, index, made_from, folder, parts[number], load, making)
        except _Failed as error:
            failed += error.args[0]
    if failed:
        raise UserError(f"{source}: {len(failed)} utterances cannot be read or are silent: {some_of(failed)}")


def _remove_past(stem, count: int) -> None:
    """Removes the shards from number `count` on, which an earlier run with more shards left."""
    while os.path.exists(index_path(stem, count)):
        for path in (index_path(stem, count), shard_path(stem, count)):
            if os.path.exists(path):
                os.unlink(path)
        count += 1


def shard_path(stem, number: int) -> str:
    return f"{stem}.{number:05d}.tar"


def index_path(stem, number: int) -> str:
    return os.path.join(os.path.dirname(stem) or ".", "index", f"{os.path.basename(stem)}.{number:05d}")


def index_part(shards: Sequence[str], stem, job: int, num_jobs: int, progress: Callable = iter) -> None:
    """Writes the tables of one job's share of existing shards; job: 1 to num_jobs. UserError names a faulty shard."""
    for number in progress(range(len(shards))[job_slice(len(shards), job, num_jobs)]):
        path = shards[number]
        made_from = fingerprint(str(path), inputs_digest())
        if not _is_done(path, index_path(stem, number), made_from):
            rows = list(index_rows(path))
            write_index(index_path(stem, number), made_from, os.path.getsize(path), rows)


def tables_of(stem, shards: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Gives pairs (shard, its table): of the given `shards` or, if none, of all up to the last with a table of `stem`.

    UserError if there is no such table.
    """
    if shards:
        return [(path, index_path(stem, number)) for number, path in enumerate(shards)]
    folder = os.path.dirname(index_path(stem, 0))
    name = os.path.basename(stem)
    numbers = sorted(int(found[-5:]) for found in (os.listdir(folder) if os.path.isdir(folder) else ())
                     if re.fullmatch(re.escape(name) + r"\.[0-9]{5}", found))
    if not numbers:
        raise UserError(f"{folder}: no tables of shards {name}: run the step again")
    return [(shard_path(stem, number), index_path(stem, number)) for number in range(numbers[-1] + 1)]


def check(data_dir, progress: Callable = iter) -> int:
    """Checks all recordings of a data directory of shards; gives how many there are. UserError names a faulty shard."""
    keys = DataDir(data_dir).utt2spk.key_array
    index = ShardIndex(data_dir, keys)
    for path, number in progress([(path, number) for number, path in enumerate(index.paths)]):
        rows = np.flatnonzero(index.shard == number)
        wanted = dict(zip(index.offset[rows].tolist(), rows.tolist()))
        for entry in entries(path):
            row = wanted.pop(entry.offset, None)
            if row is not None and (entry.crc != index.crc[row] or entry.key != keys[row].decode()):
                raise UserError(f"{path}: {entry.key}: altered since the shard was made; copy it back or make it again")
        if wanted:
            raise UserError(f"{path}: lacks {some_of(keys[row].decode() for row in wanted.values())}; copy it back or make it again")
    return len(keys)


def _is_done(path: str, index: str, made_from: str) -> bool:
    try:
        with open_file(index, "r", encoding="utf-8") as file:
            words = file.readline().split()
        return words == ["#", made_from, str(os.path.getsize(path))]
    except OSError:
        return False


class _Failed(Exception):
    """Carries the utterances of a shard that cannot be read; the shard is not written."""


def _write_shard(path, index, made_from, folder: DataDir, lines: np.ndarray, load: "Loads", making: Making) -> None:
    """Writes one shard and its table. Tries all utterances, then raises _Failed if some cannot be read."""
    failed, crcs = [], {}
    with atomic_path(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for line in lines:
                key, speaker = folder.utt2spk.key(line), folder.utt2spk.value(line)
                try:
                    suffix, data = load.encoded(key, making)
                except UserError as error:
                    print(f"{key}: {error}", file=sys.stderr)
                    failed.append(key)
                    continue
                add(tar, key, speaker, suffix, data)
                crcs[key] = zlib.crc32(data)
        if failed:
            raise _Failed(failed)
        rows = list(index_rows(temporary))
        if {row[0]: row[4] for row in rows} != crcs:
            raise UserError(f"{path}: what was read back is not what was written; check the disk")
        size = os.path.getsize(temporary)
    write_index(index, made_from, size, rows)


def index_rows(path) -> Iterator[tuple[str, str, int, int, int, float]]:
    """Yields (utterance, speaker, offset, bytes, CRC-32, seconds) for each recording of a shard."""
    for entry in entries(path):
        rx = Rx("held", f"{path}: {entry.key}.{entry.suffix}", data=entry.data)
        yield entry.key, entry.speaker, entry.offset, len(entry.data), entry.crc, audio.duration(rx)


def write_index(path, made_from: str, size: int, rows: Sequence[tuple]) -> None:
    """Writes the table of one shard: a line of the digest `made_from` and the shard's size in bytes, then the rows."""
    with atomic_write(path) as file:
        file.write(f"# {made_from} {size}\n")
        file.writelines(f"{key} {speaker} {offset} {count} {crc:08x} {seconds:.6g}\n"
                        for key, speaker, offset, count, crc, seconds in rows)


class Loads:
    """Loader of a data directory's utterances: cuts them from recordings where there are segments, and encodes them."""

    def __init__(self, folder: DataDir, rate: int):
        self.recordings, self.rate = folder.recordings, rate
        self.spans = {utt: span for utt, *span in spans(folder)} if folder.has_segments else None

    def said(self, key: str) -> list:
        """Gives the recording of an utterance and, where there are segments, its start and end there in seconds."""
        return [str(self._recording(key)), *(self.spans[key][1:] if self.spans is not None else ())]

    def _recording(self, key: str) -> str | Rx:
        try:
            return self.recordings[key if self.spans is None else self.spans[key][0]]
        except KeyError as error:
            raise UserError(f"{self.recordings.path}: no line for {error.args[0]}, which is in utt2spk") from None

    def samples(self, key: str) -> np.ndarray:
        """Gives the samples of an utterance, (T,) float32 at `rate`; UserError if it cannot be read or is silent."""
        recording = self._recording(key)
        if self.spans is None:
            found = audio.load(recording, self.rate)
        else:
            name, start, end = self.spans[key]
            found = audio.load(recording, self.rate, start, None if end == TO_THE_END else end - start, alike=True)
            if end != TO_THE_END and len(found) / self.rate < end - start - OVERSHOOT:
                raise UserError(f"{start:g} to {end:g} s is no part of `{name}`: it ends at {start + len(found) / self.rate:g} s")
        require_sound(recording if self.spans is None else f"{start:g} to {end:g} s of `{name}`", found, self.rate)
        return found

    def encoded(self, key: str, making: Making) -> tuple[str, bytes]:
        """Gives (suffix, bytes) of an utterance as a shard holds it; UserError if it cannot be read or encoded.

        Codec flac keeps the samples of 16-bit recordings exactly; original takes the file as it is. Of a recording with
        samples beyond full scale, which no codec holds, the samples are kept as floats in a WAV.
        """
        samples = self.samples(key)
        if making.codec == "original":
            path, suffix = self.own_file(key)
            return suffix, Path(path).read_bytes()
        if np.abs(samples).max(initial=0.0) > 1:
            return "wav", wav_bytes(samples, making.rate)
        return _flac(samples, making.rate) if making.codec == "flac" else _lossy(samples, making)

    def own_file(self, key: str) -> tuple[str, str]:
        """Gives (path, suffix) of an utterance that is a whole audio file, as codec original needs; else UserError."""
        rx = parse(self._recording(key))
        suffix = os.path.splitext(rx.path)[1][1:].lower()
        if self.spans is not None or rx.kind != "file" or rx.channel is not None or suffix not in AUDIO:
            raise UserError(f"{self.recordings.path}: {key}: {rx} is no file of its own (flac, wav, m4a, ...), "
                            "as codec original needs; take codec flac")
        return rx.path, suffix


def _flac(samples: np.ndarray, rate: int) -> tuple[str, bytes]:
    """Encodes samples as 16-bit FLAC, finer ones (resampled, MP3, Vorbis) rounded."""
    whole = np.clip(np.round(samples * STEPS), -32768, 32767).astype(np.int16)
    data = _encode(whole, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    _, back = _decode(data)
    if not np.array_equal(as_int16(back), whole):
        raise UserError("FLAC did not give back the samples that it was given")
    return "flac", data


def _lossy(samples: np.ndarray, making: Making) -> tuple[str, bytes]:
    quality = QUALITY[making.codec] if making.quality is None else making.quality
    data = _encode(samples, making.rate, format="OGG", subtype=making.codec.upper(), compression_level=1.0 - quality)
    rate, back = _decode(data)
    if rate != making.rate or len(back) != len(samples):
        raise UserError(f"{making.codec} gave back {len(back)} samples at {rate} Hz for {len(samples)}; take codec flac")
    return "ogg", data


def _encode(samples: np.ndarray, rate: int, **how) -> bytes:
    import soundfile

    out = io.BytesIO()
    try:
        soundfile.write(out, samples, rate, **how)
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        raise UserError(f"{how['subtype']} at {rate} Hz cannot be written here ({error}); take codec flac") from None
    return out.getvalue()


def _decode(data: bytes) -> tuple[int, np.ndarray]:
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return rate, samples
