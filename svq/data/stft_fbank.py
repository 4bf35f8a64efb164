"""Log-mel filter banks over a centre-padded short-time Fourier transform, as published networks were trained with.

Both pad the waveform by half a window at either end, so that frame t is centred on sample t * hop, and use a periodic
Hamming window of 25 ms every 10 ms. They differ from each other, and from Kaldi's (svq.data.fbank), in padding, filters
and logarithm, which is all that the two classes say.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def mel(hertz):
    """The mel scale of O'Shaughnessy, "Speech communication", 1987: 1000 Hz is 1000 mel."""
    return 2595 * np.log10(1 + np.asarray(hertz, dtype=np.float64) / 700)


def mel_corners(num_mels: int, rate: int) -> np.ndarray:
    """(num_mels + 2,) float64: frequencies in Hz, evenly spaced in mel from 0 to half of `rate`."""
    return 700 * (10 ** (np.linspace(0, mel(rate // 2), num_mels + 2) / 2595) - 1)


class CentredFbank(nn.Module):
    """Waveforms (B, T) float in [-1, 1] -> log-mels (B, 1 + T // hop, num_mels) float32; no gradients.

    T must hold one window; ValueError otherwise.

    Args:
        num_mels, rate: mel bands, samples per second.
        full_scale: what a sample of 1.0 counts.
        preemphasis: the filter x[i] - preemphasis * x[i-1] over the whole waveform; its first sample takes the second
            one for its predecessor. 0 leaves the waveform as it is.
    """

    padding: str
    smallest_fft: int

    def __init__(self, num_mels: int = 80, rate: int = 16000, full_scale: float = 1.0, preemphasis: float = 0.0):
        super().__init__()
        self.num_mels, self.rate, self.preemphasis = num_mels, rate, preemphasis
        self.length, self.hop = rate * 25 // 1000, rate * 10 // 1000
        self.fft_size = self.smallest_fft
        while self.fft_size < self.length:
            self.fft_size *= 2
        window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(self.length) / self.length)
        bins = np.linspace(0, rate // 2, self.fft_size // 2 + 1)
        filters = self.filters(bins[:, None], mel_corners(num_mels, rate)).clip(min=0)
        self.register_buffer("window", torch.from_numpy(window * full_scale).float(), persistent=False)
        self.register_buffer("mel", torch.from_numpy(filters).float(), persistent=False)

    def num_frames(self, samples: int) -> int:
        """Frames that `samples` samples give; 0 where they are too few."""
        return 0 if samples < self.length else 1 + samples // self.hop

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        if waveforms.dim() != 2:
            raise ValueError(f"expected waveforms (B, T), got shape {tuple(waveforms.shape)}")
        if waveforms.shape[1] < self.length:
            raise ValueError(f"{waveforms.shape[1]} samples are shorter than one frame of {self.length}")
        waveforms = waveforms.float()
        if self.preemphasis:
            before = F.pad(waveforms, (1, 0), mode="reflect")[:, :-1]
            waveforms = waveforms - self.preemphasis * before
        spectrum = torch.stft(waveforms, self.fft_size, self.hop, self.length, self.window, center=True,
                              pad_mode=self.padding, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        # On an accelerator float32 products may be set to TF32, which is too coarse here.
        dtype = torch.float32 if power.device.type == "cpu" else torch.float64
        return self.logarithm(torch.matmul(power.to(dtype), self.mel.to(dtype)).float())

    def filters(self, bins: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """Filters (bins, num_mels) from the bins' frequencies (bins, 1); what is below zero is cut off."""
        raise NotImplementedError

    def logarithm(self, mels: torch.Tensor) -> torch.Tensor:
        """(B, frames, num_mels) powers -> the features."""
        raise NotImplementedError


class SpeechBrainFbank(CentredFbank):
    """SpeechBrain's `Fbank` (speechbrain/lobes/features.py, processing/features.py), in decibels.

    Padded with zeros. Triangles in Hz that fall as they rose, over the distance to the next lower centre. The floor is
    80 dB under the largest value of the utterance, so that a loud click changes the features of all its silence.
    """

    padding = "constant"
    smallest_fft = 400

    def filters(self, bins, corners):
        left, centre = corners[:-2], corners[1:-1]
        return 1 - np.abs(bins - centre) / (centre - left)

    def logarithm(self, mels):
        decibels = 10 * mels.clamp(min=1e-10).log10()
        return decibels.maximum(decibels.amax(dim=(1, 2), keepdim=True) - 80)


class ClovaFbank(CentredFbank):
    """The features of clovaai/voxceleb_trainer: torchaudio's `MelSpectrogram` and log(x + 1e-6).

    Padded with the mirrored waveform, 512-point transform, triangles in Hz between neighbouring centres.
    """

    padding = "reflect"
    smallest_fft = 512

    def filters(self, bins, corners):
        left, centre, right = corners[:-2], corners[1:-1], corners[2:]
        return np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))

    def logarithm(self, mels):
        return (mels + 1e-6).log()
