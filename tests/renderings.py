"""Front ends of published networks, written down once more: step by step, frame by frame, in float64."""

from __future__ import annotations

import numpy as np

RATE = 16000


def hertz_of(mel):
    return 700 * (10 ** (mel / 2595) - 1)


def mel_of(hertz):
    return 2595 * np.log10(1 + hertz / 700)


def corners(num_mels: int, low: float = 0, high: float = 8000) -> np.ndarray:
    return hertz_of(np.linspace(mel_of(low), mel_of(high), num_mels + 2))


def power_spectra(wave: np.ndarray, fft_size: int, mode: str, hop: int = 160) -> np.ndarray:
    """(1 + T // hop, fft_size // 2 + 1): frames centred on every hop-th sample, periodic Hamming window of 400."""
    padded = np.pad(np.asarray(wave, np.float64), fft_size // 2, mode=mode)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 400)
    around = (fft_size - 400) // 2
    rows = []
    for t in range(1 + len(wave) // hop):
        frame = np.zeros(fft_size)
        frame[around:around + 400] = padded[hop * t + around:hop * t + around + 400] * window
        rows.append(np.abs(np.fft.rfft(frame)) ** 2)
    return np.array(rows)


def speechbrain_filters(num_mels: int) -> np.ndarray:
    """(201, num_mels): each triangle as wide to the right of its centre as to the left."""
    bins, edges, weights = np.arange(201) * 40.0, corners(num_mels), np.zeros((201, num_mels))
    for m in range(num_mels):
        centre, width = edges[m + 1], edges[m + 1] - edges[m]
        for b, hertz in enumerate(bins):
            weights[b, m] = max(0.0, 1 - abs(hertz - centre) / width)
    return weights


def speechbrain(wave: np.ndarray, num_mels: int) -> np.ndarray:
    """Decibels (frames, num_mels), before the mean is taken off."""
    mels = power_spectra(wave, 400, "constant") @ speechbrain_filters(num_mels)
    decibels = 10 * np.log10(np.maximum(mels, 1e-10))
    return np.maximum(decibels, decibels.max() - 80)


def clova_filters(num_mels: int, low: float = 0, high: float = 8000) -> np.ndarray:
    """(257, num_mels): triangles that end where their neighbours have their centres."""
    return triangles(np.arange(257) * 31.25, corners(num_mels, low, high))


def triangles(bins: np.ndarray, edges: np.ndarray) -> np.ndarray:
    weights = np.zeros((len(bins), len(edges) - 2))
    for m in range(len(edges) - 2):
        for b, hertz in enumerate(bins):
            if edges[m] < hertz <= edges[m + 1]:
                weights[b, m] = (hertz - edges[m]) / (edges[m + 1] - edges[m])
            elif edges[m + 1] < hertz < edges[m + 2]:
                weights[b, m] = (edges[m + 2] - hertz) / (edges[m + 2] - edges[m + 1])
    return weights


def clova(wave: np.ndarray, num_mels: int, preemphasis: float) -> np.ndarray:
    """Logarithms (frames, num_mels), before they are normalised."""
    wave = np.asarray(wave, np.float64)
    emphasised = wave - preemphasis * np.append(wave[1], wave[:-1])
    return np.log(power_spectra(emphasised, 512, "reflect") @ clova_filters(num_mels) + 1e-6)


def levelled(wave: np.ndarray, offset: float) -> np.ndarray:
    """The wave with mean 0 and deviation 1, and `offset` against a division by 0."""
    wave = np.asarray(wave, np.float64)
    return (wave - wave.mean()) / (wave.std() + offset)


def redimnet(wave: np.ndarray, num_mels: int, hop: int, level: bool) -> np.ndarray:
    """Logarithms (frames, num_mels) of redimnet/layers/features.py, before the mean is taken off."""
    wave = levelled(wave, 1e-6) if level else np.asarray(wave, np.float64)
    emphasised = wave - 0.97 * np.append(wave[1], wave[:-1])
    return np.log(power_spectra(emphasised, 512, "reflect", hop) @ clova_filters(num_mels, 20, 7600) + 1e-6)


def redimnet2(wave: np.ndarray, num_mels: int, hop: int, level: bool) -> np.ndarray:
    """Logarithms (frames, num_mels) of redimnet2/layers/features_tf.py, before the mean is taken off."""
    wave = levelled(wave, 1e-8) if level else np.asarray(wave, np.float64)
    emphasised = np.pad(wave - 0.97 * np.append(wave[1], wave[:-1]), hop // 2)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    rows = [np.abs(np.fft.rfft(emphasised[start:start + 400] * window, 512))[:256] ** 2
            for start in range(0, len(emphasised) - 399, hop)]
    places = mel_of(np.linspace(0, 8000, 256))
    filters = triangles(places, np.linspace(mel_of(20), mel_of(7600), num_mels + 2))
    return np.log(np.clip(np.clip(rows, 1e-8, 1e8) @ filters, 1e-8, 1e8) + 1e-8)


def slaney_mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def slaney_hertz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def resemblyzer(wave: np.ndarray, num_mels: int) -> np.ndarray:
    """Powers (frames, num_mels) up to the end of the last window, which silence fills."""
    wave = np.asarray(wave, np.float64)
    starts = [0]
    while 160 * (starts[-1] + 77) + 0.75 * 160 * 160 <= len(wave):
        starts.append(starts[-1] + 77)
    edges = [slaney_hertz(mel) for mel in np.linspace(0, slaney_mel(8000), num_mels + 2)]
    weights = np.zeros((201, num_mels))
    for m in range(num_mels):
        low, centre, high = edges[m:m + 3]
        for b in range(201):
            weights[b, m] = max(0, min((40 * b - low) / (centre - low), (high - 40 * b) / (high - centre))) * 2 / (high - low)
    wave = np.concatenate([np.zeros(200), wave, np.zeros(40000)])
    frames = [wave[160 * t:160 * t + 400] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
              for t in range(starts[-1] + 160)]
    return np.array([np.abs(np.fft.rfft(frame)) ** 2 @ weights for frame in frames])
