"""Makes cached levels: estimates the space that each will take, writes one job's share, and puts the shares together.

A job's share is what the teacher gives for this job's part of a data directory.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.config import to_dict
from svq.data.datadir import DataDir
from svq.data.extraction import Utterances, batches
from svq.distill.aggregation import WEIGHTS, load_aggregation
from svq.distill.cache import (
    LevelInfo,
    Part,
    digest_of,
    finish,
    free_bytes,
    invalidate,
    is_whole,
    planned_bytes,
    teacher_digest,
)
from svq.distill.levels import PROBE, Clock, Level, LevelOutputs, find_level
from svq.errors import UserError, some_of
from svq.network import ModelConfig
from svq.progress import progress


class Making:
    """Makes levels of one teacher for one data directory, in the folder `out`.

    net, config: the teacher in `model`, on `device`. names: levels, see svq.distill.levels. aggregation: folder of the
    trained dictionary for levels of pooling lde. input: what is read of `data_dir`, as for Utterances.
    `.levels` are those that `out` does not yet have from these inputs. Raises UserError for levels that the teacher
    does not have, and for a dictionary that is missing or does not fit.
    """

    def __init__(self, net: nn.Module, config: ModelConfig, model, data_dir, out, names: Sequence[str],
                 aggregation=None, input: str = "auto", device: str = "cpu"):
        self.net, self.num_mels, self.front_end = net, config.front_end.num_mels, config.front_end
        self.data_dir, self.out, self.input, self.device = data_dir, out, input, device
        self.folder, self.teacher, self.aggregation = DataDir(data_dir), teacher_digest(model), aggregation
        levels = [find_level(text, net) for text in dict.fromkeys(names)]
        self.aggregations = self._load_aggregations(levels)
        files = [self.folder.path / name for name in ("utt2spk", "wav.scp", "feats.scp") if self.folder.has(name)]
        self.data = digest_of(*files)
        self.made_from = {level.name: self._made_from(level) for level in levels}
        self.levels = [level for level in levels if not is_whole(out, level, self.made_from[level.name])]
        self.sizes = sizes(self._outputs(self.levels), self.num_mels, device) if self.levels else {}

    def _outputs(self, levels: Sequence[Level]) -> LevelOutputs:
        return LevelOutputs(self.net, levels, self.num_mels, self.aggregations).to(self.device)

    def _load_aggregations(self, levels: Sequence[Level]) -> dict[str, nn.Module]:
        learned = [level for level in levels if level.pool == "lde"]
        if learned and not self.aggregation:
            raise UserError(f"level '{learned[0].name}' needs a trained dictionary: name its folder with "
                            "--aggregation; steps/train_aggregation.sh makes it")
        return {level.name: load_aggregation(self.aggregation, level, self.teacher) for level in learned}

    def _aggregation_digest(self, level: Level) -> str:
        return digest_of(os.path.join(self.aggregation, WEIGHTS)) if level.pool == "lde" else ""

    def _made_from(self, level: Level) -> str:
        """Computes the digest of all that the level's values depend on."""
        settings = [self.teacher, to_dict(self.front_end), level.layers, level.pool, self._aggregation_digest(level),
                    self.input, self.data]
        return digest_of(text=json.dumps(settings))

    def check_room(self) -> None:
        """Prints the space that each level will take. Raises UserError where the disk does not have it."""
        total, free = 0, free_bytes(self.out)
        for level in self.levels:
            dim, clock = self.sizes[level.name]
            size = planned_bytes(dim, clock, self.folder)
            each = f"a vector of {dim}" if clock is None else f"frames of {dim}, two bytes a value,"
            print(f"{self.out}: {level.name}: {each} for each of {len(self.folder.utt2spk)} utterances: "
                  f"{megabytes(size)}", flush=True)
            total += size
        print(f"{self.out}: {megabytes(total)} together, {megabytes(free)} free", flush=True)
        if total > free:
            names = ", ".join(level.name for level in self.levels)
            raise UserError(f"{self.out}: {names} would take {megabytes(total)}, but the disk has {megabytes(free)} "
                            "free; make room or choose fewer levels")

    def do_job(self, job: int, num_jobs: int, batch_frames: int) -> None:
        """Writes the job's share of every level, except shares that an earlier run has finished."""
        for level in self.levels:
            invalidate(self.out, level)
        parts = {level.name: Part(self.out, level, job, num_jobs, self.made_from[level.name]) for level in self.levels}
        todo = [level for level in self.levels if not parts[level.name].is_done()]
        if not todo:
            return
        utterances = Utterances(self.data_dir, self.front_end, self.input, job, num_jobs, device=self.device)
        per_frame = {level.name for level in todo if self.sizes[level.name][1] is not None}
        try:
            make_part(self._outputs(todo), {level.name: parts[level.name] for level in todo}, per_frame, utterances,
                      batch_frames, self.device)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise UserError(f"{self.out}: the disk is full; make room and run the same again") from None

    def finish(self, num_jobs: int, log: str) -> None:
        """Puts the shares of all jobs together. Raises UserError where one is missing."""
        for level in self.levels:
            dim, clock = self.sizes[level.name]
            info = LevelInfo(
                level=level.name, layers=level.layers, pool=level.pool, dim=dim, per_frame=clock is not None,
                clock=clock or Clock(), utterances=0, teacher=self.teacher, front_end=self.front_end,
                aggregation=self._aggregation_digest(level), made_from=self.made_from[level.name], content="",
                mean=f"{level.file}.mean.vec")
            info = finish(self.out, info, level, self.data_dir, num_jobs, log)
            print(f"{self.out}: {level.name}: {info.utterances} utterances, {dim} dimensions", flush=True)


def megabytes(size: int) -> str:
    """Writes a number of bytes in megabytes."""
    return f"{size / 1e6:,.1f} MB"


def sizes(outputs: LevelOutputs, num_mels: int, device="cpu") -> dict[str, tuple[int, Clock | None]]:
    """Finds for each level the size of its vectors and, where there is one for every frame, its clock (else None)."""
    found = outputs(torch.zeros(1, PROBE[0], num_mels, device=device))
    return {level.name: (found[level.name].shape[-1], outputs.clock(level) if found[level.name].dim() == 3 else None)
            for level in outputs.levels}


def make_part(outputs: LevelOutputs, parts: dict[str, Part], per_frame: set[str], utterances: Utterances,
              batch_frames: int, device="cpu") -> None:
    """Writes one job's share of all levels of `outputs`, value by value, as the memory may not hold them all.

    per_frame: names of the levels that have a vector for every frame. Raises UserError that names the utterances
    without values, after all others have been tried; nothing is then written.
    """
    failed = {}
    with contextlib.ExitStack() as stack:
        writers = {name: stack.enter_context(part.writing(name in per_frame)) for name, part in parts.items()}
        values = level_values(outputs, utterances, batch_frames, device)
        for key, found in progress(values, len(utterances), "levels"):
            if isinstance(found, UserError):
                failed[key] = found
                continue
            for name, write in writers.items():
                write(key, found[name])
        _refuse_failed(utterances, failed)


def _refuse_failed(utterances: Utterances, failed: dict[str, UserError]) -> None:
    for key in sorted(failed):
        print(f"{key}: {failed[key]}", file=sys.stderr)
    if failed:
        raise UserError(f"{utterances.table.path}: {len(failed)} of {len(utterances)} utterances have no teacher "
                        f"embeddings: {some_of(sorted(failed))}")


def level_values(outputs: LevelOutputs, utterances, batch_frames: int,
                 device="cpu") -> Iterator[tuple[str, dict[str, np.ndarray] | UserError]]:
    """Yields (id, {level: (D,) or (T', D) float32}) for every utterance, or (id, UserError) where it has no values.

    Only utterances of the same number of frames share a batch, of at most `batch_frames` frames.
    """
    unreadable: list[tuple[str, UserError]] = []
    with parametrize.cached():
        for keys, feats in batches(utterances, batch_frames, unreadable):
            yield from _of_batch(outputs, keys, feats.to(device))
    yield from unreadable


def _of_batch(outputs: LevelOutputs, keys: Sequence[str], feats: torch.Tensor):
    frames = feats.shape[1]
    try:
        with torch.inference_mode():
            found = {name: value.float().cpu().numpy() for name, value in outputs(feats).items()}
    except RuntimeError:
        if frames >= outputs.shortest:
            raise
        for key in keys:
            yield key, UserError(f"{frames} frames are fewer than the teacher's layers see; "
                                 "take the utterance out of the data directory")
        return
    for row, key in enumerate(keys):
        values = {name: value[row] for name, value in found.items()}
        bad = [name for name, value in values.items() if not np.isfinite(value).all()]
        yield key, UserError(f"its level {bad[0]} is not finite ({frames} frames)") if bad else values
