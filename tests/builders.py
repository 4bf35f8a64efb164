"""Small dummy data, so that a test stays at five lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from svq.data.datadir import create


def voice(speaker: int, seconds: float, rng: np.random.Generator, rate: int = 16000) -> np.ndarray:
    """A buzz (T,) float32 whose pitch and timbre belong to the speaker, with noise that belongs to the utterance."""
    t = np.arange(round(seconds * rate)) / rate
    pitch = 100 * 1.12**speaker * (1 + 0.02 * rng.standard_normal())
    tilt = 0.6 + 0.35 * np.cos(speaker + np.arange(1, 11))
    harmonics = np.sin(2 * np.pi * pitch * np.outer(np.arange(1, 11), t) + rng.uniform(0, 6.28, (10, 1)))
    wave = tilt @ harmonics * (1.2 + np.sin(2 * np.pi * 3 * t + rng.uniform(0, 6.28)))
    wave = 0.3 * wave / np.abs(wave).max() + 0.01 * rng.standard_normal(len(t))
    return wave.astype(np.float32)


def data_dir(tmp_path, speakers: int = 3, utts: int = 4, seconds: float = 1.0, seed: int = 0, name: str = "data") -> Path:
    """A valid Kaldi data directory `tmp_path/name` with real 16 kHz WAVs beside it; returns its path.

    Speakers are spk00, spk01, ...; utterances spk00-utt00, ...; genders alternate f, m.
    """
    rng = np.random.default_rng(seed)
    folder = Path(tmp_path) / f"{name}_wav"
    folder.mkdir(parents=True, exist_ok=True)
    wav, utt2spk, utt2dur = {}, {}, {}
    for s in range(speakers):
        for u in range(utts):
            utt = f"spk{s:02d}-utt{u:02d}"
            samples = voice(s, seconds, rng)
            soundfile.write(folder / f"{utt}.wav", samples, 16000, subtype="PCM_16")
            wav[utt], utt2spk[utt], utt2dur[utt] = folder / f"{utt}.wav", f"spk{s:02d}", len(samples) / 16000
    gender = {f"spk{s:02d}": "fm"[s % 2] for s in range(speakers)}
    return create(Path(tmp_path) / name, wav=wav, utt2spk=utt2spk, utt2dur=utt2dur, spk2gender=gender)
