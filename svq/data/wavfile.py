"""WAV files: reads the header without touching the samples, and turns float samples into 16-bit integers.

So a segment costs one seek and one read, and takes half the bytes on disk and in memory where nothing is lost by it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from svq.errors import UserError

# Sizes that a program writes when it streams to a pipe and cannot know the length.
_UNKNOWN = 0x7FFF0000
_PLAIN = (1, 3, 6, 7)  # integer PCM, float, A-law, mu-law: each sample has bytes of its own


@dataclass(frozen=True)
class WavHeader:
    """The header of a WAV file. rate: in Hz. data_start: offset of the first sample in the file. frames: per channel.

    `complete` is False when the header promises more than the file holds (frames then counts what is there), and
    `streamed` is True when the header leaves the length open.
    """

    rate: int
    channels: int
    bits: int
    format: int  # 1: integer PCM, 3: float; others are left to libsndfile
    data_start: int
    frames: int
    complete: bool
    streamed: bool

    @property
    def dtype(self) -> str | None:
        """NumPy's name of 16-bit integers and of 32-bit floats; None for the others, which libsndfile reads."""
        return {(1, 16): "<i2", (3, 32): "<f4"}.get((self.format, self.bits))


def read_header(file, size: int, offset: int = 0) -> WavHeader | None:
    """Parses the WAV header at `offset` of a seekable binary file of `size` bytes; None if there is no WAV there.

    UserError where the header contradicts itself about the bytes of a sample: one of its two numbers would give half
    of the samples, or noise.
    """
    file.seek(offset)
    head = file.read(12)
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    at, layout = offset + 12, None
    while True:
        chunk = file.read(8)
        if len(chunk) < 8:
            return None
        name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        at += 8
        if name == b"data":
            break
        if name == b"fmt ":
            body = file.read(min(length, 40))
            if length < 16 or len(body) < 16:
                return None
            layout = struct.unpack("<HHIIHH", body[:16])
            if layout[0] == 0xFFFE and len(body) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the real one opens the GUID
                layout = (struct.unpack("<H", body[24:26])[0], *layout[1:])
        at += length + (length & 1)  # chunks are padded to even lengths
        file.seek(at)
    if layout is None:
        return None
    format_, channels, rate, _, block, bits = layout
    if format_ in _PLAIN and bits:
        expected = channels * -(-bits // 8)
        if block not in (0, expected):  # 0: not filled in
            raise UserError(f"its WAV header contradicts itself: {channels} x {bits} bits take {expected} bytes, and "
                            f"it says {block} (block align); mend the header (`sox IN OUT` believes the bits)")
        block = expected
    if channels == 0 or rate == 0 or block == 0:
        return None
    present = max(size - at, 0)
    streamed = length >= _UNKNOWN or (length == 0 and present >= block)
    frames = (present if streamed else min(length, present)) // block
    return WavHeader(rate, channels, bits, format_, at, frames, streamed or length <= present, streamed)


STEPS = np.float32(32768)  # of a 16-bit sample between 0 and full scale


def as_int16(samples: np.ndarray) -> np.ndarray | None:
    """Turns `samples` (any shape, float32) times 32768 into int16; None where 16 bits do not hold them exactly."""
    scaled = samples * STEPS
    if not np.all((scaled >= -32768) & (scaled <= 32767)):
        return None
    whole = scaled.astype("<i2")
    return whole if np.array_equal(whole, scaled) else None


def as_float32(samples: np.ndarray) -> np.ndarray:
    """Turns int16 samples back into the float32 samples that `as_int16` was given; copies float samples."""
    return samples / STEPS if samples.dtype.kind == "i" else samples.astype(np.float32)
