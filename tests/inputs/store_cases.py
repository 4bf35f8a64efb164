"""Stores of voices, cut, altered, or another model's; used by svq.bin.verify, svq.bin.identify and svq.bin.enroll."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import soundfile

from svq.bin import enroll, identify, verify
from tests.helpers import run_worker
from tests.inputs.audio_cases import SAMPLES
from tests.inputs.model_cases import made as made_model
from tests.inputs.outcome import Case

KIND = "stores of voices"


def recording(folder: Path, seed: int = 0) -> Path:
    noise = 0.05 * np.abs(SAMPLES).max() * np.random.default_rng(seed).standard_normal(4 * len(SAMPLES))
    soundfile.write(folder / f"{seed}.wav", np.tile(SAMPLES, 4) + noise, 16000, subtype="PCM_16")
    return folder / f"{seed}.wav"


@functools.cache
def sound() -> bytes:
    """A store with ann and bob."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        for seed, name in enumerate(("ann", "bob")):
            run_worker(enroll.main, "--model", made_model("svq")[0], "--store", f"{folder}/v.svs", "--name", name,
                       recording(Path(folder), seed))
        return (Path(folder) / "v.svs").read_bytes()


def said(worker, *arguments) -> dict:
    with redirect_stdout(io.StringIO()) as out:
        run_worker(worker.main, "--json", "true", *arguments)
    return json.loads(out.getvalue())


def verified(folder: Path, model=None) -> float:
    return said(verify, "--model", model or made_model("svq")[0], "--store", folder / "v.svs", "--name", "ann",
                "--", recording(folder, 2))["score"]


def identified(folder: Path) -> float:
    found = said(identify, "--model", made_model("svq")[0], "--store", folder / "v.svs", recording(folder, 2))
    return {row["name"]: row["score"] for row in found["ranking"]}["ann"]


def listed(folder: Path) -> list[str]:
    return [row["name"] for row in said(enroll, "--store", folder / "v.svs", "--list", "true")["voices"]]


@functools.cache
def expected() -> float:
    """By recordings, without a store."""
    with tempfile.TemporaryDirectory() as folder:
        return said(verify, "--model", made_model("svq")[0], recording(Path(folder), 0), "--",
                    recording(Path(folder), 2))["score"]


def is_right(score: float) -> bool:
    return score == expected()


def cases() -> list[Case]:
    def raw(what, change, words="v.svs: ", right=None, use=verified):
        def run(folder):
            change(folder / "v.svs")
            return use(folder)
        return Case(KIND, what, run, words, right)

    def written(change):
        return lambda path: path.write_bytes(change(sound()))

    def told(*keys, value, words="v.svs: not a store of voices that can be used", use=verified):
        def change(path):
            about = tree = json.loads(sound())
            for key in keys[:-1]:
                tree = tree[key]
            tree[keys[-1]] = value
            rest = {key: item for key, item in about.items() if key != "digest"}
            about["digest"] = hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
            path.write_text(json.dumps(about))
        return raw(f"{use.__name__}, {'.'.join(map(str, keys))}: {value!r}"[:60], change, words, use=use)

    def turned(at):
        return lambda data: data[: at % len(data)] + bytes([data[at % len(data)] ^ 1]) + data[at % len(data) + 1 :]

    row = json.loads(sound())["voices"]["bob"]
    values = {("dim",): (0, 3, "4"), ("mean",): (None, "&", "AAAA"), ("backend",): ("plda",), ("model",): (None, {}),
              ("model", "network"): (3, "a\nb"), ("voices",): (None, []), ("voices", "ann"): (None, []),
              ("voices", "ann", "vector"): ("", "&", None, "AADAfwAAAAAAAAAAAAAAAA=="), ("voices", "a\nb"): (row,),
              ("voices", "ann", "recordings"): (0, "1", 1.5), ("voices", "ann", "seconds"): (-1, "x")}
    found = [told(*keys, value=value, use=use) for keys, many in values.items() for value in many
             for use in ((verified, listed) if keys[0] == "voices" else (verified,))]
    return found + [
        raw("sound", written(lambda data: data), None, is_right),
        raw("sound, all names", written(lambda data: data), None, is_right, identified),
        raw("sound, listed", written(lambda data: data), None, ["ann", "bob"].__eq__, listed),
        raw("CR LF", written(lambda data: data.replace(b"\n", b"\r\n")), None, is_right),
        *(raw(f"cut to {n} bytes", written(lambda data, n=n: data[:n])) for n in (0, 1, 10, 100, 300, -3)),
        *(raw(f"bit {at} turned", written(turned(at)), "v.svs: ", is_right) for at in range(7, 900, 41)),
        told("format", value=2, words="v.svs: format version 2, this svq reads 1; update svq"),
        told("format", value="1", words="v.svs: format version 1"),
        told("model", "network", value="0" * 64, words="has another network"),
        told("model", "arithmetic", value="int8:0", words="computes the same network in other arithmetic"),
        told("mean", value="AACAPwAAgD8AAIA/AACAPw==", words="another calibration, or --mean"),
        raw("a name twice", written(lambda data: data.replace(b'"bob"', b'"ann"')), "'ann' is given twice"),
        raw("a pickle", written(lambda data: pickle.dumps({"format": 1})), "v.svs: not a whole store"),
        raw("a model", written(lambda data: made_model("svq")[0].read_bytes()), "v.svs: not a whole store"),
        raw("a recording", written(lambda data: b"RIFF\xff\x00\x00\x00WAVE"), "v.svs: not a whole store"),
        raw("a list", written(lambda data: b"[]"), "v.svs: JSON, but not a store"),
        raw("depth", written(lambda data: b"[" * 10**5), "v.svs: not a whole store"),
        raw("a FIFO", os.mkfifo, "a pipe (FIFO), not a file"), raw("a folder", os.mkdir, "Is a directory"),
        raw("nothing there", lambda path: None, "v.svs: no such file; svq.bin.enroll makes one"),
        raw("of a folder's network", written(lambda data: data), "has another network",
            use=lambda folder: verified(folder, made_model("folder")[0])),
    ]
