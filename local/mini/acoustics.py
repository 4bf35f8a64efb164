"""Makes filters, rooms and noises for 16 kHz signals, float64 arrays (T,)."""

import numpy as np
from scipy import fft, signal

RATE = 16000
NOISES = ("white", "pink", "brown", "hum", "babble")
_SLOPES = {"white": 0.0, "pink": -3.0, "brown": -6.0}  # dB per octave


def tilt_response(frequencies: np.ndarray, db_per_octave: float) -> np.ndarray:
    """Gives the dB at each frequency of a straight line over log-frequency, 0 below 500 Hz."""
    return db_per_octave * np.log2(np.maximum(frequencies, 500.0) / 500.0)


def bump_response(frequencies: np.ndarray, bumps) -> np.ndarray:
    """Gives the dB at each frequency of resonances (centre Hz, gain dB, width in octaves)."""
    octaves = np.log2(np.maximum(frequencies, 20.0))
    out = np.zeros_like(frequencies)
    for centre, gain, width in bumps:
        out += gain * np.exp(-0.5 * ((octaves - np.log2(centre)) / width) ** 2)
    return out


def band_response(frequencies: np.ndarray, low: float, high: float) -> np.ndarray:
    """Gives the dB at each frequency of a pass-band low..high Hz: -24 dB per octave below it, -48 above it."""
    octaves = np.log2(np.maximum(frequencies, 1.0))
    below = np.maximum(np.log2(max(low, 1.0)) - octaves, 0.0)
    above = np.maximum(octaves - np.log2(high), 0.0)
    return np.maximum(-24.0 * below - 48.0 * above, -80.0)


def filtered(wave: np.ndarray, response) -> np.ndarray:
    """Filters a wave with zero phase; response maps frequencies (Hz) to dB."""
    size = fft.next_fast_len(len(wave) + RATE // 10, real=True)
    gains = 10 ** (response(np.arange(size // 2 + 1) * (RATE / size)) / 20)
    return fft.irfft(fft.rfft(wave, size) * gains, size)[: len(wave)]


def room_response(rng: np.random.Generator, rt60: float, direct_db: float) -> np.ndarray:
    """Draws a room impulse response of unit energy, (T,): direct sound and a diffuse tail.

    The tail is Gaussian noise that decays by 60 dB in rt60 seconds; the part above 2 kHz decays
    1.5 times as fast. direct_db is the direct-to-reverberant ratio.
    """
    length = int(RATE * min(rt60, 1.2))
    time = np.arange(length) / RATE
    noise = rng.standard_normal(length)
    slow, fast = signal.butter(2, 2000, "low", fs=RATE), signal.butter(2, 2000, "high", fs=RATE)
    decay = 6.9078  # ln(1000): 60 dB of amplitude
    tail = signal.lfilter(*slow, noise) * np.exp(-decay * time / rt60)
    tail += signal.lfilter(*fast, noise) * np.exp(-1.5 * decay * time / rt60)
    tail[: int(RATE * rng.uniform(0.002, 0.02))] = 0.0  # before the first reflection
    tail *= 10 ** (-direct_db / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    return tail / np.sqrt(np.sum(tail**2))


def reverberated(wave: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Sends the wave through the room; cuts the result to the length of the wave."""
    return signal.fftconvolve(wave, response)[: len(wave)]


def noise(rng: np.random.Generator, kind: str, samples: int, babble: np.ndarray) -> np.ndarray:
    """Draws a noise (samples,) of a kind of NOISES; `babble` (T,) is the murmur to cut from."""
    if kind == "babble":
        return np.roll(babble, -int(rng.integers(len(babble))))[:samples]
    if kind == "hum":
        base, time = rng.uniform(48, 130), np.arange(samples) / RATE
        amplitudes = rng.uniform(0.2, 1.0, 12) / np.arange(1, 13)
        phases = rng.uniform(0, 2 * np.pi, 12)
        orders = np.arange(1, 13)[:, None]
        tones = np.sin(2 * np.pi * base * orders * time + phases[:, None])
        return amplitudes @ tones + 0.05 * rng.standard_normal(samples)
    white = rng.standard_normal(samples)
    slope = _SLOPES[kind] + rng.normal(0, 1)
    return filtered(white, lambda f: slope * np.log2(np.maximum(f, 50.0) / 50.0))


def mixed(wave: np.ndarray, disturbance: np.ndarray, snr: float) -> np.ndarray:
    """Adds the disturbance to the wave, scaled to `snr` dB below it."""
    power, other = np.mean(wave**2), np.mean(disturbance**2)
    return wave + disturbance * np.sqrt(power / max(other, 1e-12)) * 10 ** (-snr / 20)


def to_pcm16(wave: np.ndarray, level: float) -> np.ndarray:
    """Converts to int16 at `level` dBFS (RMS); turns the wave down where the peak would clip."""
    wave = wave * (10 ** (level / 20) / max(np.sqrt(np.mean(wave**2)), 1e-9))
    wave = wave / max(1.0, np.max(np.abs(wave)) / 0.99)
    return np.round(wave * 32767).astype(np.int16)
