"""The front end without torch, for networks that other runtimes run: the tables of svq.data.mels, applied in NumPy.

It computes in float64 up to the power spectrum and agrees with svq.data.frontend to 1e-4 in the log. For the features
of other toolkits, which svq.data.frontend computes all in float32, values 80 dB under the peak agree to 1e-2.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from svq.data.front_end_config import VARIANCE_FLOOR, FrontEndConfig
from svq.data.mels import EPSILON, LEAST_LEVEL, LEAST_POWER, OFFSET, RANGE_DB, tables_of

CHUNK_FRAMES = 256  # frames computed at a time: bounds the memory that an hour of speech takes


class NumpyFrontEnd:
    """The front end in NumPy: waveforms (B, T) in [-1, 1] -> features (B, frames, num_mels) float32, normalised.

    bank: the `Tables`, with `shortest`, the fewest samples that a waveform needs, and `num_frames(samples)`.
    """

    def __init__(self, config: FrontEndConfig):
        self.config, self.bank = config, tables_of(config)
        self._prepare = self._kaldi_frames if config.fbank == "kaldi" else self._centred_frames
        self._logarithm = {"kaldi": _kaldi_log, "speechbrain": _decibels, "clova": _clova_log, "redimnet": _clova_log,
                           "redimnet2": self._limited_log, "resemblyzer": _plain}[config.fbank]

    def __call__(self, waveforms: np.ndarray) -> np.ndarray:
        """Computes features (B, frames, num_mels); ValueError for waveforms of another shape or less than one frame."""
        if waveforms.ndim != 2:
            raise ValueError(f"expected waveforms (B, T), got shape {waveforms.shape}")
        if waveforms.shape[1] < self.bank.shortest:
            raise ValueError(f"{waveforms.shape[1]} samples are too few; the shortest recording has {self.bank.shortest}")
        return np.stack([self._normalized(self._logarithm(self._mels(self._loud_enough(each)))) for each in waveforms])

    def _loud_enough(self, x: np.ndarray) -> np.ndarray:
        """Amplifies a waveform (T,) as `svq.data.frontend.loud_enough` does."""
        if self.config.least_dbfs is None:
            return x
        level = np.sqrt(np.square(x, dtype=np.float64).mean())
        return x * max(1.0, 10 ** (self.config.least_dbfs / 20) / max(level, LEAST_LEVEL))

    def _mels(self, x: np.ndarray) -> np.ndarray:
        """Computes the mel powers (frames, num_mels) float32 of one waveform (T,)."""
        bank = self.bank
        frames, window = self._prepare(x.astype(np.float64))
        out = np.empty((len(frames), bank.filters.shape[1]), np.float32)
        for start in range(0, len(frames), CHUNK_FRAMES):
            part = slice(start, start + CHUNK_FRAMES)
            spectrum = np.fft.rfft(self._cleaned(frames[part]) * window, bank.fft_size)[:, : len(bank.filters)]
            out[part] = (spectrum.real**2 + spectrum.imag**2).clip(*bank.limits).astype(np.float32) @ bank.filters
        return out

    def _kaldi_frames(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cuts a waveform into frames (frames, length), a view, and gives them with their window."""
        start, end = self.bank.edges
        x = np.concatenate([x[:start][::-1], x, x[len(x) - end:][::-1]])
        return sliding_window_view(x, self.bank.length)[:: self.bank.hop], self.bank.window

    def _centred_frames(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bank, size = self.bank, self.bank.fft_size
        count = bank.num_frames(len(x))
        x = np.pad(x, (0, bank.silence(len(x))))
        if self.config.waveform_normalize:
            x = (x - x.mean()) / (x.std() + bank.floor)
        if self.config.preemphasis:
            x = x - self.config.preemphasis * np.concatenate([x[1:2], x[:-1]])
        window = np.zeros(size)
        start = (size - bank.length) // 2
        window[start : start + bank.length] = bank.window
        padded = np.pad(x, bank.pad, mode=bank.padding)
        return sliding_window_view(padded, size)[:: bank.hop][:count], window

    def _cleaned(self, frames: np.ndarray) -> np.ndarray:
        """Subtracts the mean from Kaldi's frames, then pre-emphasises them; others come back as they are.

        A frame's first sample counts as its own predecessor.
        """
        if self.config.fbank != "kaldi":
            return frames
        frames = frames - frames.mean(axis=1, keepdims=True)
        return frames - self.config.preemphasis * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)

    def _limited_log(self, mels: np.ndarray) -> np.ndarray:
        least, most = self.bank.limits
        return np.log(mels.clip(least, most) + np.float32(least))

    def _normalized(self, feats: np.ndarray) -> np.ndarray:
        if self.config.mean_normalize:
            feats = feats - feats.mean(axis=0, dtype=np.float64)
        if self.config.variance_normalize:
            feats = feats / np.sqrt(feats.var(axis=0, dtype=np.float64) + VARIANCE_FLOOR)
        return feats.astype(np.float32)


def _kaldi_log(mels: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(mels, np.float32(EPSILON)))


def _decibels(mels: np.ndarray) -> np.ndarray:
    decibels = 10 * np.log10(np.maximum(mels, np.float32(LEAST_POWER)))
    return np.maximum(decibels, decibels.max() - RANGE_DB)


def _clova_log(mels: np.ndarray) -> np.ndarray:
    return np.log(mels + np.float32(OFFSET))


def _plain(mels: np.ndarray) -> np.ndarray:
    return mels
