"""Draws speakers: each has its own voice, an espeak-ng voice file and a timbre filter."""

from dataclasses import dataclass

import numpy as np

# Phoneme tables of espeak-ng's English accents, with the dictionary rules of each.
ACCENTS = {
    "en-us": "3 6",
    "en": "1",
    "en-sc": "1",
    "en-us-nyc": "3 6",
    "en-rp": "1",
    "en-n": "1",
}
NUM_FORMANTS = 9

# How far speakers of a gender lie from one another: standard deviations of logarithms. They are
# wide, so that a network can learn to tell speakers apart from a thousand utterances in a few minutes.
TRACT_SPREAD = 0.09  # all formants together
FORMANT_SPREAD = 0.08  # each formant by itself
WARP_SPREAD = 0.04  # the whole spectrum, fricatives included
PITCH_SPREAD = 0.22
TILT_SPREAD = 2.0  # dB per octave
TIMBRE_SPREAD = 6.0  # dB


@dataclass(frozen=True)
class Voice:
    """The traits of a speaker, the same in every recording.

    pitch: mean fundamental frequency, Hz.  pitch_range: highest over lowest pitch.
    warp: factor on the whole spectrum, by resampling; below 1, as if from a longer vocal tract.
    formants: frequency, strength and width of each formant, per cent of espeak's own (9, 3).
    stress: amplitudes of espeak's eight stress levels.
    tilt: dB per octave above 500 Hz.  timbre: resonances (centre Hz, gain dB, octaves wide).
    """

    gender: str
    accent: str
    pitch: float
    pitch_range: float
    rate: float
    warp: float
    formants: np.ndarray
    stress: tuple[int, ...]
    breath: int
    roughness: int
    voicing: int
    tilt: float
    timbre: tuple[tuple[float, float, float], ...]


def draw_voice(rng: np.random.Generator, gender: str) -> Voice:
    """Draws a speaker of the given gender, 'm' or 'f'."""
    male = gender == "m"
    formants = np.empty((NUM_FORMANTS, 3))
    # One factor for the whole tract, and one for each formant.
    tract = (1.0 if male else 1.15) * np.exp(rng.normal(0, TRACT_SPREAD))
    formants[:, 0] = 100 * tract * np.exp(rng.normal(0, FORMANT_SPREAD, NUM_FORMANTS))
    formants[:, 1] = rng.uniform(40, 160, NUM_FORMANTS)
    formants[:, 2] = rng.uniform(50, 200, NUM_FORMANTS)
    return Voice(
        gender=gender,
        accent=str(rng.choice(list(ACCENTS))),
        pitch=(112.0 if male else 195.0) * np.exp(rng.normal(0, PITCH_SPREAD)),
        pitch_range=rng.uniform(1.2, 1.7),
        rate=rng.uniform(140, 200),
        warp=np.exp(rng.normal(0, WARP_SPREAD)),
        formants=formants,
        stress=tuple(int(x) for x in rng.integers(14, 23, 8)),
        breath=int(rng.integers(0, 9)),
        roughness=int(rng.integers(0, 8)),
        voicing=int(rng.integers(60, 140)),
        tilt=rng.normal(0, TILT_SPREAD),
        timbre=tuple(
            (float(np.exp(rng.uniform(np.log(300), np.log(6000)))), rng.normal(0, TIMBRE_SPREAD), 0.4)
            for _ in range(4)
        ),
    )


def voice_file(voice: Voice, pitch_factor: float, formant_factors: np.ndarray) -> str:
    """Writes the espeak-ng voice file of a speaker on one day.

    pitch_factor multiplies the pitch, formant_factors (9,) the formant frequencies.
    Divides the pitch by the warp, because resampling multiplies it again.
    """
    low = voice.pitch * pitch_factor / np.sqrt(voice.pitch_range) / voice.warp
    lines = [
        "name own",
        "language en",
        f"phonemes {voice.accent}",
        f"dictrules {ACCENTS[voice.accent]}",
        f"pitch {low:.0f} {low * voice.pitch_range:.0f}",
        "stressAmp " + " ".join(map(str, voice.stress)),
        f"roughness {voice.roughness}",
        f"voicing {voice.voicing}",
        "breath " + " ".join([str(voice.breath)] * 8),
    ]
    for number, (frequency, strength, width) in enumerate(voice.formants):
        frequency *= formant_factors[number]
        lines.append(f"formant {number} {frequency:.0f} {strength:.0f} {width:.0f}")
    return "\n".join(lines) + "\n"
