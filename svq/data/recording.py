"""A recording as a user hands it over, a file or samples in memory, cut into windows that fit in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from svq.data import audio
from svq.data.rxfilename import Rx
from svq.errors import UserError


def name_of(recording) -> str:
    """What messages call it."""
    return "the samples" if isinstance(recording, np.ndarray) else str(recording)


def windows_of(recording, rate: int, seconds: float, own_rate: int | None = None) -> Iterator[np.ndarray]:
    """Mono float32 (T,) at `rate` Hz: the recording in equal consecutive windows of at most `seconds`; 0: in one.

    recording: a file name (of a file, whatever it looks like), an `Rx` (a file, an offset into an archive, a command),
    or samples (T,) or (T, channels), floats in [-1, 1] or signed integers, at `own_rate` Hz (None: at `rate`).
    Raises UserError that names it.
    """
    if not isinstance(recording, np.ndarray):
        rx = recording if isinstance(recording, Rx) else Rx("file", os.fspath(recording))
        yield from audio.windows(rx, rate, seconds)
        return
    samples = audio.at_rate(_as_floats(recording), rate if own_rate is None else own_rate, rate)
    longest = max(1, round(seconds * rate)) if seconds else len(samples)
    yield from np.array_split(samples, -(-len(samples) // longest))


def _as_floats(samples: np.ndarray) -> np.ndarray:
    """(T,) or (T, channels) float32; UserError for an array that is not a recording."""
    if samples.ndim not in (1, 2) or not samples.size or samples.dtype.kind not in "fi":
        raise UserError(f"the samples: an array {samples.shape} of {samples.dtype} is no recording; give (T,) or "
                        "(T, channels) floats in [-1, 1] or signed integers")
    if samples.dtype.kind == "i":
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    samples = samples.astype(np.float32)
    if not np.isfinite(samples).all():
        raise UserError("the samples: NaN or infinite values among them; record again")
    return samples
