"""A small network as an .onnx file that takes waveforms, with a calibration; and recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from svq import Verifier
from svq.backend.calibration import Calibration, mean_text
from svq.bin import export
from svq.models import save_model
from tests.builders import voice
from tests.deploy.small_nets import small_config, small_net
from tests.helpers import run_worker


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """m/ (a model folder), plain.onnx (no calibration), model.onnx, and a0.wav to c2.wav, three of each voice."""
    folder = tmp_path_factory.mktemp("a place")
    # Not normalized: the timbre by which these voices differ is in the mean of their features.
    config = small_config("ResNet18", mean_normalize=False)
    save_model(folder / "m", small_net(config), config)
    rng = np.random.default_rng(1)
    for speaker, letter in enumerate("abc"):
        for i in range(3):
            soundfile.write(folder / f"{letter}{i}.wav", voice(speaker, 2.0, rng), 16000, subtype="PCM_16")
    run_worker(export.main, "--model", folder / "m", "--out", folder / "plain.onnx", "--front-end", "true")
    verifier = Verifier.load(folder / "plain.onnx")
    mean = np.mean([verifier.embed(wav) for wav in sorted(folder.glob("*.wav"))], axis=0)
    Calibration(9.0, -4.0, score="cosine_none", mean=mean_text(mean)).save(folder / "calibration.json")
    run_worker(export.main, "--model", folder / "m", "--out", folder / "model.onnx", "--front-end", "true",
               "--calibration", folder / "calibration.json")
    return folder
