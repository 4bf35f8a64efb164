"""Front ends as part of an exported graph: waveforms (B, samples) -> features, out of convolutions and products.

A frame's mean, pre-emphasis, window and Fourier transform are linear: they are one matrix, computed in float64, which
a convolution over the waveform applies. It runs in float32, because neither runtime convolves in float64. Kaldi's
features of 16-bit recordings then differ from svq.data.frontend's by about 0.001 in the log at most, by 0.01 under a
constant offset a hundred times the speech. In bands that hold nothing but the rounding of floating-point samples, as of
band-limited noise that never had 16 bits, it can be half.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from svq.data.frontend import VARIANCE_FLOOR, FrontEnd


class GraphFrontEnd(nn.Module):
    """Waveforms (B, samples) in [-1, 1] -> normalized features (B, T, F), as `FrontEnd(config)` gives them."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        bank = FrontEnd(config).bank
        self.bank, self.hop, self.kaldi = bank, bank.hop, config.fbank == "kaldi"
        matrix = kaldi_matrix(bank) if self.kaldi else centred_matrix(bank)
        self.register_buffer("matrix", torch.from_numpy(matrix).float()[:, None])
        mel = bank.mel[::2] if self.kaldi else bank.mel
        self.register_buffer("mel", mel.float().t().contiguous()[:, :, None])

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        spectrum = F.conv1d(self._padded(waveforms)[:, None], self.matrix, stride=self.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        mels = F.conv1d(real.square() + imaginary.square(), self.mel)
        return self._normalized(self._logarithm(mels)).transpose(1, 2)

    def _padded(self, x: torch.Tensor) -> torch.Tensor:
        if self.kaldi:
            return x
        if self.bank.preemphasis:
            x = x - self.bank.preemphasis * torch.cat([x[:, 1:2], x[:, :-1]], dim=1)
        half = self.bank.fft_size // 2
        return F.pad(x[:, None], (half, half), mode=self.bank.padding)[:, 0]

    def _logarithm(self, mels: torch.Tensor) -> torch.Tensor:
        return mels.clamp(min=self.bank.epsilon).log() if self.kaldi else self.bank.logarithm(mels)

    def _normalized(self, feats: torch.Tensor) -> torch.Tensor:
        """(B, F, T): FrontEnd.normalize, over the last dimension."""
        if self.config.mean_normalize:
            feats = feats - feats.mean(dim=-1, keepdim=True)
        if self.config.variance_normalize:
            spread = feats - feats.mean(dim=-1, keepdim=True)
            feats = feats / (spread.square().mean(dim=-1, keepdim=True) + VARIANCE_FLOOR).sqrt()
        return feats


def fourier(bins: int, size: int) -> np.ndarray:
    """(2 bins, size) float64: cosines, then negative sines, of the first `bins` frequencies of a `size`-point DFT."""
    angles = 2 * np.pi * (np.outer(np.arange(bins), np.arange(size)) % size) / size
    return np.concatenate([np.cos(angles), -np.sin(angles)])


def kaldi_matrix(bank) -> np.ndarray:
    """(2 bins, samples of a frame): mean off, pre-emphasis, window and DFT of a `svq.data.fbank.Fbank`."""
    length, size = bank.length, bank.fft_size
    emphasis = np.eye(length) - bank.preemphasis * np.eye(length, k=-1)
    emphasis[0, 0] = 1 - bank.preemphasis  # a frame's first sample counts as its own predecessor
    frame = bank.window.numpy()[:, None] * (emphasis @ (np.eye(length) - 1 / length))
    return fourier(size // 2, size)[:, :length] @ frame


def centred_matrix(bank) -> np.ndarray:
    """(2 bins, points of the DFT): window, in the middle, and DFT of a `svq.data.stft_fbank.CentredFbank`."""
    size, length = bank.fft_size, bank.length
    window = np.zeros(size)
    start = (size - length) // 2
    window[start:start + length] = bank.window.double().numpy()
    return fourier(size // 2 + 1, size) * window
