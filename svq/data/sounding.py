"""How much of a recording is sound at all: the check that a network cannot make.

A network gives an embedding of anything, of digital silence too, and two silences are alike: their cosine is
near 1. This is no voice activity detector; what is louder than SILENCE_DB may be noise.
"""

from __future__ import annotations

import numpy as np

from svq.errors import UserError

SILENCE_DB = -80.0  # under a full-scale square wave: 3 steps of a 16-bit sample. Quiet rooms are at -70 and above.
BLOCK_SECONDS = 0.01


def sounding_seconds(samples: np.ndarray, rate: int) -> float:
    """Seconds of mono `samples` (T,), full scale 1, at `rate` Hz, that are louder than SILENCE_DB.

    The level is that of 10 ms, without the constant part of all the samples: a microphone's offset is no sound.
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
    """What is said of a recording, or a part of one, that has no sound in so many seconds."""
    return f"silence: nothing in its {seconds:.3g} s is above {SILENCE_DB:g} dBFS; record it again or leave it out"


def require_sound(name, samples: np.ndarray, rate: int) -> None:
    """UserError that begins with `name` where `sounding_seconds` finds nothing: its embedding would mean nothing."""
    if not sounding_seconds(samples, rate):
        raise UserError(f"{name}: {silence(len(samples) / rate)}")
