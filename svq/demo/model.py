"""Collects what the demo page needs of a model: its file, its calibration, the rules for recordings, and a check."""

from __future__ import annotations

import base64
import os

import numpy as np

import svq
from svq.backend.calibration import mean_text
from svq.data.audio import BLOCK_SECONDS, SILENCE_DB
from svq.data.sources import LEAST_SHARE, LIMIT, RATES
from svq.errors import UserError
from svq.verifier import LITTLE_SECONDS, Verifier

CHECK_SECONDS = 1.0
HOW = "steps/export.sh --front-end true"


def require_onnx(path) -> None:
    """Checks the name of a model before anything is loaded; UserError where it is no .onnx file."""
    if not os.fspath(path).endswith(".onnx"):
        raise UserError(f"{path}: not an .onnx file, which is what a browser runs; make one: {HOW} {path} model.onnx")


def require_waveforms(path, metadata) -> None:
    """Checks that a network takes waveforms of any length, as the page has them; UserError where it does not.

    path: the model, for messages. metadata: its svq.deploy.runtimes.Metadata.
    """
    if metadata.input != "waveform":
        raise UserError(f"{path}: takes features, and a page has waveforms; export it again: {HOW}")
    if metadata.frames is not None:
        raise UserError(f"{path}: takes {metadata.frames} samples and no other number; export it without --seconds")


def rules_of(verifier: Verifier) -> dict:
    """Gives the rules for recordings, under the names of worker/*.js.

    Lengths are samples at the model's rate where the name gives no unit.
    """
    rate = verifier.rate
    return {
        "rate": rate, "dim": verifier.embedder.config.embed_dim,
        "shortest": verifier.embedder.front_end.bank.shortest,
        "block": max(1, round(BLOCK_SECONDS * rate)), "silenceDb": SILENCE_DB,
        "window": max(1, round(verifier.window_seconds * rate)) if verifier.window_seconds else 0,
        "minSeconds": verifier.min_seconds, "littleSeconds": LITTLE_SECONDS,
        "rates": RATES, "limit": LIMIT, "leastShare": LEAST_SHARE,
    }


def check_of(verifier: Verifier) -> dict:
    """Makes a signal (int16) and its embedding (float32), in base64. A browser that computes another one refuses.

    UserError where the embedding is not finite.
    """
    time = np.arange(round(CHECK_SECONDS * verifier.rate)) / verifier.rate
    buzz = sum(np.sin(2 * np.pi * 140 * k * time + k * k) / k for k in range(1, 12) if 140 * k < verifier.rate / 2)
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, len(time))
    samples = np.round(8000 * (buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)) + noise)).clip(-32768, 32767).astype("<i2")
    embedding = verifier.embedder.waveforms((samples / np.float32(32768))[None].astype(np.float32))[0]
    if not np.isfinite(embedding).all():
        raise UserError(f"{verifier.embedder.path}: its embeddings are not finite; export it again")
    return {"samples": text_of(samples), "embedding": text_of(embedding.astype("<f4"))}


def text_of(numbers: np.ndarray) -> str:
    """Encodes the bytes of an array in base64."""
    return base64.b64encode(numbers.tobytes()).decode()


def facts_of(verifier: Verifier, content: bytes, name: str, title: str, digest: str, costs: dict) -> dict:
    """Collects the content of data/model.js.

    content: the bytes of the .onnx file. name, title: to be shown. costs: pTarget, cMiss, cFa and threshold (None:
    Bayes').
    """
    calibration = verifier.calibration
    return {
        "title": title, "name": name, "bytes": len(content), "digest": digest, "svq": svq.__version__,
        "precision": verifier.embedder.metadata.precision, "rules": rules_of(verifier), "costs": costs,
        "calibration": None if calibration is None else {"slope": calibration.slope, "offset": calibration.offset},
        "mean": None if verifier.mean is None else mean_text(verifier.mean),
        "check": check_of(verifier), "onnx": base64.b64encode(content).decode(),
    }
