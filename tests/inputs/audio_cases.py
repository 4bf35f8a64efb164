"""Recordings: WAV headers and samples, other formats, what is no recording at all; each copied by svq.bin.copy_wav."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import soundfile

from svq.bin import copy_wav
from svq.data import audio
from svq.data.datadir import create
from svq.data.table import Table
from tests.builders import voice
from tests.helpers import run_worker
from tests.inputs.outcome import Case

RATE = 16000
SAMPLES = np.float32(np.rint(20000 * voice(1, 0.3, np.random.default_rng(0))) / 32768)
INT16 = (SAMPLES * 32768).astype("<i2")
GARBAGE = np.random.default_rng(1).bytes(5000)


def wav(data: bytes = INT16.tobytes(), rate: int = RATE, channels: int = 1, bits: int = 16, kind: int = 1,
        block: int | None = None, size: int | None = None, before: bytes = b"", more: bytes = b"",
            riff: bytes = b"RIFF",
        fmt_size: int | None = None) -> bytes:
    """A WAV whose header says what it is told to."""
    block = channels * -(-bits // 8) if block is None else block
    layout = struct.pack("<HHIIHH", kind, channels, rate, rate * block & 0xFFFFFFFF, block, bits) + more
    chunks = before + b"fmt " + struct.pack("<I", len(layout) if fmt_size is None else fmt_size) + layout
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return riff + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def copied(folder: Path, value: str) -> np.ndarray:
    """What the worker makes of a recording that a wav.scp names so."""
    data = create(folder / "data", wav={"a": value}, utt2spk={"a": "s"})
    run_worker(copy_wav.main, "part", data, folder / "out.ark")
    return audio.load(Table.read(folder / "out.scp")["a"])


def file(content: bytes, name: str = "a.wav", suffix: str = ""):
    def run(folder: Path) -> np.ndarray:
        (folder / name).write_bytes(content)
        return copied(folder, f"{folder / name}{suffix}")
    return run


def same(expected=SAMPLES):
    return lambda made: made.dtype == np.float32 and np.array_equal(made, np.asarray(expected, np.float32))


def near(expected, tolerance: float = 1e-2):
    return lambda made: len(made) == len(expected) and float(np.abs(made - expected).max()) < tolerance


def encoded(format_: str, subtype: str | None = None) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, SAMPLES, RATE, format=format_, subtype=subtype)
    return held.getvalue()


def cut_short() -> list[Case]:
    whole = wav()
    places = [1, 4, 8, 11, 12, 16, 19, 20, 23, 24, 28, 32, 35, 36, 40, 43, 44, 45, 46, 100, len(whole) // 2,
        len(whole) - 1]
    cases = [Case("WAV cut short", f"{place} bytes", file(whole[:place]), "a.wav: ") for place in places]
    return cases + [Case("WAV cut short", f"an archive, {place} bytes", file(whole[:place], "a.ark", ":0"), "a.ark")
                    for place in (0, 3, 20, 43, 44, 2000)]


def headers() -> list[Case]:
    def case(what, words=None, right=None, **told):
        return Case("WAV headers", what, file(wav(**told)), words, right)

    listed = b"LIST" + struct.pack("<I", 5) + b"odd s" + b"\0"
    guid = struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
    doubled = np.repeat(SAMPLES[:, None], 2, axis=1)
    cases = [case(f"{rate} samples a second", "a.wav: ", rate=rate)
             for rate in (0, 1, 7, 999, 768_001, 10**9, 2**31 - 1, 2**31, 4294967291, 2**32 - 1)]
    cases += [case(f"{n} channels of 16 bits in blocks of 2", "a.wav: ", channels=n, block=2) for n in (0, 2, 3, 255,
        65535)]
    cases += [case(f"{bits} bits in blocks of 2", "a.wav: ", bits=bits, block=2) for bits in (0, 1, 7, 8, 24, 32, 64,
        65535)]
    cases += [case(f"{block} bytes a block", "take 2 bytes", block=block) for block in (1, 3, 4, 255, 65535)]
    cases += [case(f"format {kind}", "a.wav: ", kind=kind) for kind in (0, 2, 17, 49, 0x1234, 0xFFFE, 0xFFFF)]
    cases += [case(f"a format chunk of {size} bytes", "a.wav: ", fmt_size=size) for size in (0, 1, 14, 15, 2**31,
        2**32 - 1)]
    cases += [case(f"{size} bytes of samples promised", "cut short", size=size) for size in (len(INT16) * 2 + 2, 10**6,
        0x7FFEFFFF)]
    cases += [case(f"{size} bytes of samples, streamed", right=same(), size=size) for size in (0, 0x7FFFFFFF,
        0xFFFFFFFF)]
    return cases + [
        case("no block align", right=same(), block=0),
        case("an odd chunk first", right=same(), before=listed),
        case("an extensible format", right=same(), kind=0xFFFE, more=guid),
        case("half of the samples promised", right=same(SAMPLES[:2400]), size=4800),
        case("half a sample at the end", right=same(SAMPLES[:2400]), size=4801),
        case("floats called integers", "a.wav: ", right=None, data=SAMPLES.tobytes(), bits=32, kind=1, block=2),
        case("two channels alike", right=same(), data=(doubled * 32768).astype("<i2").tobytes(), channels=2),
        case("8 bits", right=near(SAMPLES), data=((SAMPLES * 128) + 128.5).astype(np.uint8).tobytes(), bits=8),
        case("RIFX", "a.wav: ", riff=b"RIFX"), case("RF65", "a.wav: ", riff=b"RF65"),
        case("no samples", "a.wav: ", data=b""),
        Case("WAV headers", "no data chunk", file(wav()[:36]), "a.wav: "),
        Case("WAV headers", "data before the format", file(b"RIFF\x10\0\0\0WAVEdata\x04\0\0\0abcd"), "a.wav: "),
    ]


def floats() -> list[Case]:
    def case(what, values, words=None, right=None):
        return Case("samples", what, file(wav(np.asarray(values, "<f4").tobytes(), bits=32, kind=3)), words, right)

    def with_one(value):
        return np.where(np.arange(len(SAMPLES)) == 77, np.float32(value), SAMPLES)

    return [
        *(case(str(value), with_one(value), "holds NaN or infinite samples") for value in (np.nan, np.inf, -np.inf)),
        *(case(f"{value:g}", with_one(value), "beyond 100") for value in (101, -1e4, 1e30, -3e38)),
        *(case(f"{value:g}", with_one(value), right=same(with_one(value))) for value in (99, 2.5, 1e-30, 1e-45)),
        *(case(f"all of {value:g}", np.full(4800, value), "silence") for value in (0, 0.5, -1, 1e-7)),
        case("of one sample", [0.5], "silence"),
        Case("samples", "16 bits of nothing", file(wav(bytes(9600))), "silence"),
        Case("samples", "opposite channels", file(wav(np.stack([INT16, -INT16], 1).tobytes(), channels=2)), "cancel"),
    ]


def others() -> list[Case]:
    flac, ogg, aiff = encoded("FLAC"), encoded("OGG", "VORBIS"), encoded("AIFF")
    kind = "other formats"
    cases = [Case(kind, f"FLAC cut to {n} bytes", file(flac[:n], "a.flac"), "a.flac: ")
             for n in (1, 4, 20, 42, 60, len(flac) // 2)]
    cases += [Case(kind, f"Ogg cut to {n} bytes", file(ogg[:n], "a.ogg"), "a.ogg: ") for n in (1, 4, 28, 100, 1000)]
    cases += [Case(kind, f"AIFF cut to {n} bytes", file(aiff[:n], "a.aiff"), "a.aiff: ") for n in (4, 12, 40)]
    long = b"a AUDIO\x04" + struct.pack("<I", 2**32 - 1) + flac
    inside = b"a AUDIO\x04" + struct.pack("<I", len(flac)) + flac
    texts = {"HTML": b"<!DOCTYPE html><html>404</html>", "text": b"not found\n", "a zip": b"PK\3\4" + GARBAGE,
             "noise": GARBAGE, "a pickle": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x07bad.bad\x94.",
                 "NIST": b"NIST_1A\n   1024\n"}
    cases += [Case(kind, f"{name} called {end}", file(text, f"a.{end}"), f"a.{end}: ")
              for name, text in texts.items() for end in ("wav", "flac", "m4a")]
    return cases + [
        Case(kind, "FLAC", file(flac, "a.flac"), right=same()), Case(kind, "FLAC called .wav", file(flac),
            right=same()),
        Case(kind, "a WAV called .flac", file(wav(), "a.flac"), right=same()),
        Case(kind, "a WAV called .mp3", file(wav(), "a.mp3"), right=same()),
        Case(kind, "FLAC in an archive", file(inside, "a.ark", ":2"), right=same()),
        Case(kind, "FLAC in an archive, 4 GB long", file(long, "a.ark", ":2"), "a.ark", same()),
        Case(kind, "text in an archive", file(b"a 1 2 3\n", "a.ark", ":2"), "a.ark"),
    ]


def no_files() -> list[Case]:
    def made(make):
        def run(folder):
            make(folder / "a.wav")
            return copied(folder, str(folder / "a.wav"))
        return run

    kind = "recordings that are no files"
    return [
        Case(kind, "a FIFO", made(os.mkfifo), "a pipe (FIFO), not a file"),
        Case(kind, "a FIFO in an archive's place", lambda folder: (
            os.mkfifo(folder / "a.ark"), copied(folder, f"{folder}/a.ark:2"))[1], "a pipe (FIFO), not a file"),
        Case(kind, "a folder", made(os.mkdir), "a.wav: is a directory"),
        Case(kind, "nothing there", lambda folder: copied(folder, str(folder / "a.wav")), "a.wav: no such file"),
        Case(kind, "a link to itself", made(lambda path: os.symlink(path, path)), "a.wav: too many levels"),
        Case(kind, "below a file", lambda folder: ((folder / "x").touch(), copied(folder, f"{folder}/x/a.wav"))[1],
             "not a directory"),
        Case(kind, "a name too long", lambda folder: copied(folder, f"{folder}/{'x' * 300}.wav"), "name too long"),
        *(Case(kind, f"{name} in an archive's place", lambda folder, name=name: copied(folder, f"{name}:44"), words)
          for name, words in (("/dev/zero", "a device"), ("/dev/null", "ends at byte 0"))),
        *(Case(kind, name, lambda folder, name=name: copied(folder, name), words)
          for name, words in (("/dev/zero", "a device"), ("/dev/null", "the file is empty"))),
    ]


def cases() -> list[Case]:
    return cut_short() + headers() + floats() + others() + no_files()
