"""Float samples as 16-bit integers, where nothing is lost by it: half the bytes on disk and in memory."""

from __future__ import annotations

import numpy as np

STEPS = np.float32(32768)  # of a 16-bit sample between 0 and full scale


def as_int16(samples: np.ndarray) -> np.ndarray | None:
    """The int16 samples that are `samples` (any shape, float32) times 32768; None where no 16 bits hold one of them."""
    scaled = samples * STEPS
    if not np.all((scaled >= -32768) & (scaled <= 32767)):
        return None
    whole = scaled.astype("<i2")
    return whole if np.array_equal(whole, scaled) else None


def as_float32(samples: np.ndarray) -> np.ndarray:
    """The float32 samples that `as_int16` was given; of float samples a copy."""
    return samples / STEPS if samples.dtype.kind == "i" else samples.astype(np.float32)
