"""Cached levels as a student's targets: read by utterance, normalised, put side by side."""

from __future__ import annotations

import os

import numpy as np
from torch import nn

from svq.backend.embeddings import read_vector as read_mean
from svq.data.features import Matrix, read_vector
from svq.data.table import Table
from svq.distill.cache import MAKER, LevelInfo, teacher_digest
from svq.distill.levels import find_level
from svq.distill.objective import TargetsConfig
from svq.errors import UserError, some_of
from svq.network import ModelConfig


class Targets:
    """The levels of `config` in `folder`, of the teacher `net` in `model`, for utterances `keys` (N,) in that order.

    Each level has the mean over its data set taken off (where the config says so) and is brought to length 1, so that
    each counts the same in the cosine of all, whatever its size; then the levels are put side by side: `dim` values.
    With frame-level levels (`per_frame`) that is done frame by frame.
    Reads a few kilobytes an item where it lies, so workers of any number need no memory for it.
    UserError for a level that is missing, made from another teacher, of other layers, or lacks an utterance.
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
            self.levels.append(CachedLevel(folder, level.file, info, keys, config.mean_normalize))
        kinds = {level.per_frame for level in self.levels}
        if len(kinds) > 1:
            raise UserError(f"{folder}: levels {', '.join(config.levels)} are of frames and of whole utterances; a "
                            "student learns one or the other")
        self.per_frame = kinds.pop()
        self.dim = sum(level.dim for level in self.levels)

    def item(self, index: int, first: int, frames: int) -> np.ndarray:
        """Target of utterance `index`: (D,) float32; per frame (frames, D) for its frames first..first + frames - 1.

        Frames for which the teacher has no output (beyond its context, or the utterance's end) are zeros.
        """
        if not self.per_frame:
            return np.concatenate([level.vector(index) for level in self.levels])
        parts = [level.frames(index, first, frames) for level in self.levels]
        for part in parts:  # a frame that one level lacks is none for all
            empty = ~part.any(axis=1)
            for other in parts:
                other[empty] = 0
        return np.concatenate(parts, axis=1)


class CachedLevel:
    """One level of a folder, by utterance."""

    def __init__(self, folder, file: str, info: LevelInfo, keys: np.ndarray, mean_normalize: bool):
        self.per_frame, self.dim, self.clock = info.per_frame, info.dim, info.clock
        self.table = Table.read(os.path.join(folder, f"{file}.scp"))
        position, found = self.table.positions(keys)
        if not found.all():
            lost = [key.decode() for key in keys[~found]]
            raise UserError(f"{self.table.path}: no teacher embedding of {some_of(lost)} ({len(lost)} of {len(keys)}); "
                            f"{MAKER} makes them for all of a data directory")
        self.lines = position
        self.mean = read_mean(os.path.join(folder, info.mean)) if mean_normalize else np.zeros(info.dim, np.float32)
        if len(self.mean) != info.dim:
            raise UserError(f"{os.path.join(folder, info.mean)}: {len(self.mean)} values, the level has {info.dim}; "
                            f"make it anew with {MAKER}")

    def vector(self, index: int) -> np.ndarray:
        specifier = self.table.value(self.lines[index])
        vector = read_vector(specifier)
        if len(vector) != self.dim:
            raise UserError(f"{specifier}: {len(vector)} values, not {self.dim}; make the level anew with {MAKER}")
        return unit(vector - self.mean)

    def frames(self, index: int, first: int, frames: int) -> np.ndarray:
        """(frames, D), zeros where there is no output."""
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
                out[there] = unit(rows[row[there] - low] - self.mean)
        return out


def unit(values: np.ndarray) -> np.ndarray:
    """Rows (or one vector) scaled to length 1; a row of zeros stays one."""
    length = np.sqrt(np.square(values, dtype=np.float64).sum(axis=-1, keepdims=True))
    return (values / np.maximum(length, 1e-20)).astype(np.float32)
