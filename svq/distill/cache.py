"""Cached levels: a folder with, for each level, its vectors or frames by utterance and what they were made from.

The files of level `utterance` in an `embedding_levels` folder:

- `parts/utterance.<job>of<jobs>.ark`, `.scp`: Kaldi vectors (float32), or matrices frames x D in two bytes a value
  for a frame-level level; and `.json`, written last: what this job's share was made from.
- `utterance.scp`: all of them, sorted by utterance.
- `utterance.mean.vec`: their mean over the data set (for frames, over all frames of it), for mean normalization.
- `utterance.json`, written last: a `LevelInfo`. The level is complete where this file exists.

Values are kept as they come out of the teacher. A student reads them by utterance through `Targets`, which normalises
them and puts levels side by side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil

import numpy as np
from torch import nn

from svq.atomic import write_json
from svq.backend.embeddings import read_vector as read_mean, write_vector
from svq.config import from_dict, to_dict
from svq.data.datadir import DataDir
from svq.data.features import Matrix, ark_writer, merge_parts, read_matrix, read_vector
from svq.data.frontend import FrontEndConfig
from svq.data.mels import HOP_MS
from svq.data.table import Table
from svq.distill.levels import Clock, Level, find_level
from svq.distill.config import TargetsConfig
from svq.errors import UserError, some_of
from svq.files import open_file, read_json
from svq.network import ModelConfig

FORMAT = 1
MAKER = "steps/teacher_embeddings.sh"
FRAMES_PER_SECOND = 100


@dataclasses.dataclass(frozen=True)
class LevelInfo:
    """Description of a cached level, as its JSON file holds it.

    level, layers, pool: see svq.distill.levels. dim: size of its vectors. per_frame: whether there is a vector for
    every frame; clock: the frames of the input that these are for. utterances: their number. teacher: digest of the
    teacher's weights. front_end: the teacher's. aggregation: digest of the dictionary's weights, for pooling `lde`.
    made_from: digest of all that the values depend on. content: digest of ids and values. mean: name of the file that
    has the mean.
    """

    level: str
    layers: tuple[str, ...]
    pool: str
    dim: int
    per_frame: bool
    clock: Clock
    utterances: int
    teacher: str
    front_end: FrontEndConfig
    aggregation: str
    made_from: str
    content: str
    mean: str
    format: int = FORMAT

    @classmethod
    def read(cls, path) -> "LevelInfo":
        """Reads the description of a level from a JSON file. Raises UserError where it is missing or not valid."""
        try:
            tree = read_json(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; {MAKER} makes it") from None
        except (OSError, ValueError):
            raise UserError(f"{path}: cannot be read; make the level anew with {MAKER}") from None
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise UserError(f"{path}: not of format {FORMAT}; make the level anew with {MAKER}")
        return from_dict(tree, cls, path)


def digest_of(*files, text: str = "") -> str:
    """Computes a digest (BLAKE2b, 32 hexadecimal digits) of the content of files and of a text."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for path in files:
        with open_file(path) as file:
            digest.update(b"\0")
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def teacher_digest(model) -> str:
    """Computes the digest of the weights in a model folder or packed file. Raises UserError where there are none."""
    path = os.fspath(model) if os.fspath(model).endswith(".svq") else os.path.join(model, "model.safetensors")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; a trained teacher is needed")
    return digest_of(path)


# ---- space that levels need ----

def frames_of(folder: DataDir, keys: np.ndarray) -> np.ndarray:
    """Gives the frames of each utterance of `keys` (N,): from utt2num_frames, or approximately from utt2dur.

    Raises UserError where the data directory has neither, or where it lacks an utterance.
    """
    for name, factor in (("utt2num_frames", 1), ("utt2dur", FRAMES_PER_SECOND)):
        if folder.has(name):
            table = folder.table(name)
            try:
                return np.maximum(1, table.float_array()[table.indices(keys)] * factor)
            except KeyError as error:
                raise UserError(f"{table.path}: no line for {error.args[0]}, which is in utt2spk") from None
    raise UserError(f"{folder.path}: neither utt2num_frames nor utt2dur is there; utils/get_utt2dur.sh makes one")


def planned_bytes(dim: int, clock: Clock | None, folder: DataDir) -> int:
    """Estimates the bytes that the archives of a level will take; `clock` None: a level of one vector an utterance."""
    keys = folder.utt2spk.key_array
    ids = int(np.char.str_len(keys).sum()) + len(keys)
    if clock is None:
        return ids + len(keys) * (10 + 4 * dim)
    frames = np.maximum(1, (frames_of(folder, keys) - clock.lost) // clock.stride)
    return ids + len(keys) * 22 + int(frames.sum()) * dim * 2


def free_bytes(folder) -> int:
    """Tells the free bytes of the disk that `folder` is on, or will be."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


# ---- writing ----

class Part:
    """One job's share of one level, in `folder/parts`."""

    def __init__(self, folder, level: Level, job: int, num_jobs: int, made_from: str):
        self.name = os.path.join(folder, "parts", f"{level.file}.{job}of{num_jobs}")
        self.made_from = f"{made_from} {job} of {num_jobs}"

    def is_done(self) -> bool:
        """Says whether the part is there, whole, and made from the same teacher and data."""
        with contextlib.suppress(OSError, ValueError):
            done = read_json(f"{self.name}.json") == {"made_from": self.made_from}
            return done and all(os.path.exists(f"{self.name}.{kind}") for kind in ("ark", "scp"))
        return False

    @contextlib.contextmanager
    def writing(self, per_frame: bool):
        """Yields `write(key, values)`; the share counts as done if the block ends without an exception."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.name}.json")
        compression = "two-byte" if per_frame else "none"
        with ark_writer(f"{self.name}.ark", f"{self.name}.scp", compression, by_id=True) as write:
            yield write
        write_json(f"{self.name}.json", {"made_from": self.made_from})


def invalidate(folder, level: Level) -> None:
    """Removes the files that mark the level as complete; its parts stay."""
    for suffix in ("json", "scp", "mean.vec"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, f"{level.file}.{suffix}"))


def is_whole(folder, level: Level, made_from: str) -> bool:
    """Tells whether the level in `folder` is complete and made from what the digest `made_from` stands for."""
    path = os.path.join(folder, f"{level.file}.json")
    if not os.path.exists(path):
        return False
    with contextlib.suppress(UserError):
        return LevelInfo.read(path).made_from == made_from
    return False


def finish(folder, info: LevelInfo, level: Level, data_dir, num_jobs: int, log: str) -> LevelInfo:
    """Puts the parts of a level together: writes its scp, its mean and its JSON, and removes parts of other runs.

    info: the description but for utterances and content, with which it is returned. log: path of a job's log, JOB
    standing for its number. Raises UserError for a missing part.
    """
    for job in range(1, num_jobs + 1):
        part = Part(folder, level, job, num_jobs, info.made_from)
        if not part.is_done():
            raise UserError(f"{part.name}.scp is missing or made from something else: job {job} was lost; see "
                            f"{log.replace('JOB', str(job))}")
    parts = os.path.join(folder, "parts", f"{level.file}.JOBof{num_jobs}.scp")
    scp = os.path.join(folder, f"{level.file}.scp")
    merge_parts(parts, scp, os.path.join(data_dir, "utt2spk"), num_jobs, log)
    mean, count, content = _summary(scp)
    write_vector(os.path.join(folder, info.mean), mean)
    info = dataclasses.replace(info, utterances=count, content=content)
    write_json(os.path.join(folder, f"{level.file}.json"), to_dict(info))
    _remove_other_parts(folder, level, num_jobs)
    return info


def _summary(scp) -> tuple[np.ndarray, int, str]:
    """Computes the mean of all rows (summed in float64 in order of ids), the number of utterances, and a digest of all.
    """
    total, rows, digest = 0.0, 0, hashlib.blake2b(digest_size=16)
    table = Table.read(scp)
    for key, specifier in table.items():
        values = read_matrix(specifier)  # a vector is a matrix of one row
        total = total + values.sum(axis=0, dtype=np.float64)
        rows += len(values)
        digest.update(key.encode() + b"\0" + np.ascontiguousarray(values, "<f4").tobytes())
    return (total / rows).astype(np.float32), len(table), digest.hexdigest()


def _remove_other_parts(folder, level: Level, num_jobs: int) -> None:
    """Removes the parts left by a run with another number of jobs."""
    part = re.compile(re.escape(level.file) + r"\.\d+of(\d+)\.(ark|scp|json)")
    for name in os.listdir(os.path.join(folder, "parts")):
        match = part.fullmatch(name)
        if match and int(match[1]) != num_jobs:
            os.unlink(os.path.join(folder, "parts", name))


class Targets:
    """A student's targets: the levels of `config` in `folder`, for utterances `keys` (N,) in that order.

    model, net, teacher: path, network and config of the teacher. The mean over the data set is subtracted from each
    level (where the config says so). Each level is then scaled to length 1 (unless the config says otherwise), so that
    all count the same in the cosine of all, whatever their sizes, and levels are put side by side: `dim` values. For frame-level levels (`per_frame`) this
    is done frame by frame. An item is read from disk when it is asked for, a few kilobytes, so that any number of
    workers needs no memory. Raises UserError for a level that is missing, made from another teacher or of other layers,
    or lacks an utterance.
    """

    def __init__(self, folder, config: TargetsConfig, keys: np.ndarray, model, net: nn.Module, teacher: ModelConfig):
        digest = teacher_digest(model)
        self.levels = []
        for name in config.levels:
            level = find_level(name, net)
            path = os.path.join(folder, f"{level.file}.json")
            info = LevelInfo.read(path)
            if info.teacher != digest or info.front_end != teacher.front_end:
                raise UserError(f"{path}: made from another teacher than {model}; make the level anew with {MAKER}")
            if (info.level, info.layers, info.pool) != (level.name, level.layers, level.pool):
                raise UserError(f"{path}: holds level '{info.level}' ({'+'.join(info.layers)}, {info.pool}), the "
                                f"config wants '{name}' ({'+'.join(level.layers)}, {level.pool}); make that "
                                f"with {MAKER}")
            self.levels.append(CachedLevel(folder, level.file, info, keys, config))
        kinds = {level.per_frame for level in self.levels}
        if len(kinds) > 1:
            raise UserError(f"{folder}: levels {', '.join(config.levels)} are of frames and of whole utterances; a "
                            "student learns one or the other")
        self.per_frame = kinds.pop()
        if self.per_frame and teacher.front_end.hop_ms != HOP_MS:
            raise UserError(f"{model}: has a frame every {teacher.front_end.hop_ms} ms; frame by frame a student learns from "
                            f"a teacher of {HOP_MS} ms only: choose levels of whole utterances")
        self.dim = sum(level.dim for level in self.levels)

    def item(self, index: int, first: int, frames: int) -> np.ndarray:
        """Reads the target of utterance `index`: (D,) float32, or per frame (frames, D) from its frame `first` on.

        Frames for which the teacher has no output (beyond its context, or the utterance's end) are zeros.
        """
        if not self.per_frame:
            return np.concatenate([level.vector(index) for level in self.levels])
        parts = [level.frames(index, first, frames) for level in self.levels]
        for part in parts:  # a frame that one level lacks is zero in all levels
            empty = ~part.any(axis=1)
            for other in parts:
                other[empty] = 0
        return np.concatenate(parts, axis=1)


class CachedLevel:
    """A level in a folder, read by utterance. Raises UserError where it lacks one of `keys`."""

    def __init__(self, folder, file: str, info: LevelInfo, keys: np.ndarray, config: TargetsConfig = TargetsConfig()):
        self.per_frame, self.dim, self.clock = info.per_frame, info.dim, info.clock
        self.table = Table.read(os.path.join(folder, f"{file}.scp"))
        position, found = self.table.positions(keys)
        if not found.all():
            lost = [key.decode() for key in keys[~found]]
            raise UserError(f"{self.table.path}: no teacher embedding of {some_of(lost)} ({len(lost)} of {len(keys)}); "
                            f"{MAKER} makes them for all of a data directory")
        self.lines = position
        centred = config.mean_normalize
        self.mean = read_mean(os.path.join(folder, info.mean)) if centred else np.zeros(info.dim, np.float32)
        self.scaled = unit if config.length_normalize else np.asarray
        if len(self.mean) != info.dim:
            raise UserError(f"{os.path.join(folder, info.mean)}: {len(self.mean)} values, the level has {info.dim}; "
                            f"make it anew with {MAKER}")

    def vector(self, index: int) -> np.ndarray:
        """Gives the level of an utterance, (dim,), less the mean and of length 1; UserError for one of another size."""
        specifier = self.table.value(self.lines[index])
        vector = read_vector(specifier)
        if len(vector) != self.dim:
            raise UserError(f"{specifier}: {len(vector)} values, not {self.dim}; make the level anew with {MAKER}")
        return self.scaled(vector - self.mean)

    def frames(self, index: int, first: int, frames: int) -> np.ndarray:
        """Reads `frames` frames from frame `first` on: (frames, D), zeros where the teacher has no output."""
        at = first + np.arange(frames) - self.clock.first
        out = np.zeros((frames, self.dim), dtype=np.float32)
        with Matrix(self.table.value(self.lines[index])) as matrix:
            if matrix.shape[1] != self.dim:
                raise UserError(f"{matrix.specifier}: {matrix.shape[1]} columns, not {self.dim}; make the level anew "
                                f"with {MAKER}")
            row = at // self.clock.stride
            there = (at >= 0) & (row < matrix.shape[0])
            if there.any():
                low = row[there].min()
                rows = matrix.rows(int(low), int(row[there].max() - low) + 1)
                out[there] = self.scaled(rows[row[there] - low] - self.mean)
        return out


def unit(values: np.ndarray) -> np.ndarray:
    """Scales rows (or one vector) to length 1; a row of zeros stays as it is."""
    length = np.sqrt(np.square(values, dtype=np.float64).sum(axis=-1, keepdims=True))
    return (values / np.maximum(length, 1e-20)).astype(np.float32)
