"""Sessions: how one recording of a speaker differs from the next."""

from dataclasses import dataclass

import numpy as np
from scipy import signal

from svq.errors import UserError

from . import acoustics, text
from .acoustics import RATE
from .espeak import RATE as ESPEAK_RATE
from .espeak import Synthesizer
from .voice import NUM_FORMANTS, Voice, voice_file

MIN_SECONDS, MAX_SECONDS = 2.0, 4.0
MAX_TRIES = 1000

# How far one recording differs from the next at --session-strength 1: so far that the teacher of
# egs/mini is wrong on some per cent of the same-gender pairs of the test set. Jitter of pitch
# and formants makes speakers overlap. Noise and rooms mostly make training slower, so they are mild.
PITCH_JITTER = 0.062  # standard deviation of log pitch
RATE_JITTER = 0.09  # of log speaking rate
FORMANT_JITTER = 0.016  # of log frequency, each formant on its own
CHANNEL_TILT = 1.6  # dB per octave, standard deviation
CHANNEL_BUMP = 2.4  # dB, standard deviation, of each of 4 resonances
SNR_MEAN, SNR_SPREAD = 28.0, 6.0  # dB; the mean falls as strength grows
DIRECT_LOW, DIRECT_HIGH = 4.2, 16.2  # dB, direct over reverberant; falls as well
ROOM_PROBABILITY = 0.45
BANDS = (  # low Hz, high Hz, probability
    (20.0, 8000.0, 0.75),
    (300.0, 3400.0, 0.1),  # telephone
    (100.0, 5000.0, 0.1),
    (60.0, 6500.0, 0.05),
)


@dataclass(frozen=True)
class Session:
    """The circumstances of one recording; factors multiply the habits of the speaker."""

    pitch: float
    rate: float
    formants: np.ndarray
    tilt: float
    bumps: tuple[tuple[float, float, float], ...]
    rt60: float  # seconds, 0 for no room
    direct: float  # dB, direct over reverberant energy
    noise: str
    snr: float  # dB
    low: float
    high: float
    level: float  # dBFS


def draw_session(rng: np.random.Generator, strength: float) -> Session:
    """Draws the circumstances of a recording; at strength 0 only text, level and prosody vary."""
    spread = np.array([probability for _, _, probability in BANDS])
    low, high, _ = BANDS[0 if strength == 0 else rng.choice(len(BANDS), p=spread)]
    room = rng.random() < ROOM_PROBABILITY and strength > 0
    return Session(
        pitch=float(np.exp(strength * rng.normal(0, PITCH_JITTER))),
        rate=float(np.exp(strength * rng.normal(0, RATE_JITTER))),
        formants=np.exp(strength * rng.normal(0, FORMANT_JITTER, NUM_FORMANTS)),
        tilt=strength * rng.normal(0, CHANNEL_TILT),
        bumps=tuple(
            (float(np.exp(rng.uniform(np.log(150), np.log(7000)))),
             strength * rng.normal(0, CHANNEL_BUMP), rng.uniform(0.25, 0.8))
            for _ in range(4)
        ),
        rt60=float(np.exp(rng.uniform(np.log(0.15), np.log(0.8)))) if room else 0.0,
        direct=rng.uniform(DIRECT_LOW, DIRECT_HIGH) - 1.8 * (strength - 1),
        noise=str(rng.choice(acoustics.NOISES)),
        snr=SNR_MEAN + rng.normal(0, SNR_SPREAD) - 20 * np.log10(max(strength, 0.03)),
        low=low,
        high=high,
        level=rng.uniform(-36, -16),
    )


def record(
    rng: np.random.Generator,
    synthesizer: Synthesizer,
    voice: Voice,
    session: Session,
    babble: np.ndarray,
    used: set[str],
) -> tuple[np.ndarray, str]:
    """Makes one utterance: int16 samples (T,) at 16 kHz, 2-4 s, and its text, which joins `used`."""
    clean, words = spoken(rng, synthesizer, voice, session, used)
    return _recorded(rng, clean, voice, session, babble), words


def spoken(
    rng: np.random.Generator,
    synthesizer: Synthesizer,
    voice: Voice,
    session: Session,
    used: set[str],
) -> tuple[np.ndarray, str]:
    """Speaks the first new text of a fitting length, without noise, between two short pauses."""
    pauses = rng.uniform(0.05, 0.2, 2)
    target = rng.uniform(MIN_SECONDS + 0.3, MAX_SECONDS - 0.2) - pauses.sum()
    rate = int(np.clip(voice.rate * session.rate / voice.warp, 85, 400))
    description = voice_file(voice, session.pitch, session.formants)
    seconds_per_word = 0.37
    for _ in range(MAX_TRIES):
        words = text.sentence(rng, int(round(target / seconds_per_word)))
        if words in used:
            continue
        seed = int(rng.integers(1, 2**31))
        wave = synthesizer.speak(description, words, rate, seed)
        wave = _trimmed(_resampled(wave, voice.warp))
        wave = np.pad(wave, [int(pause * RATE) for pause in pauses])
        if MIN_SECONDS <= len(wave) / RATE <= MAX_SECONDS:
            used.add(words)
            return wave, words
        seconds_per_word = (len(wave) / RATE - pauses.sum()) / len(words.split())
    raise UserError(f"no new text of {MIN_SECONDS:g}-{MAX_SECONDS:g} s in {MAX_TRIES} tries")


def _resampled(wave: np.ndarray, warp: float) -> np.ndarray:
    """Resamples to 16 kHz and multiplies all frequencies by warp on the way."""
    return signal.resample_poly(wave, 320, round(441 * warp))


def _trimmed(wave: np.ndarray) -> np.ndarray:
    """Cuts off the silence of the synthesizer (50 dB below the peak) at both ends."""
    loud = np.flatnonzero(np.abs(wave) > 0.003 * np.max(np.abs(wave)))
    return wave[loud[0] : loud[-1] + 1]


def _recorded(rng, wave, voice, session, babble) -> np.ndarray:
    """Gives the speech as the microphone of the session delivers it."""
    wave = acoustics.filtered(
        wave,
        lambda f: acoustics.tilt_response(f, voice.tilt)
        + acoustics.bump_response(f, voice.timbre),
    )
    if session.rt60:
        room = acoustics.room_response(rng, session.rt60, session.direct)
        wave = acoustics.reverberated(wave, room)
    wave = acoustics.mixed(
        wave, acoustics.noise(rng, session.noise, len(wave), babble), session.snr
    )
    wave = acoustics.filtered(
        wave,
        lambda f: acoustics.tilt_response(f, session.tilt)
        + acoustics.bump_response(f, session.bumps)
        + acoustics.band_response(f, session.low, session.high),
    )
    return acoustics.to_pcm16(wave, session.level)
