"""A teacher over a data directory: the values of its levels, one job's share at a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.utils import parametrize

from svq.data.extraction import Utterances, equal_length_batches, readable
from svq.distill.cache import Part
from svq.distill.levels import PROBE, Clock, LevelOutputs
from svq.errors import UserError, some_of
from svq.progress import progress


def sizes(outputs: LevelOutputs, num_mels: int, device="cpu") -> dict[str, tuple[int, Clock | None]]:
    """Of each level: the size of its vectors and, where there is one for every frame, its clock."""
    found = outputs(torch.zeros(1, PROBE[0], num_mels, device=device))
    return {level.name: (found[level.name].shape[-1], outputs.clock(level) if found[level.name].dim() == 3 else None)
            for level in outputs.levels}


def make_part(outputs: LevelOutputs, parts: dict[str, Part], per_frame: set[str], utterances: Utterances,
              batch_frames: int, device="cpu") -> None:
    """Writes one job's share of all levels of `outputs`, as the values come: they may be more than the memory holds.

    per_frame: names of the levels that have a vector for every frame. An utterance without values is an error that
    names it, after all others have been tried, and nothing is written.
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
    """(id, {level: (D,) or (T', D) float32}), a UserError in the place of one that cannot be had.

    Only utterances of the same number of frames share a batch, of `batch_frames` at most.
    """
    unreadable: list[tuple[str, UserError]] = []
    with parametrize.cached():
        for keys, feats in equal_length_batches(readable(utterances, unreadable), batch_frames):
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
