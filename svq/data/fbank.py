"""Log-mel filter banks, batched, in torch: Kaldi's, and those that published networks were trained with.

`Fbank` is the front end of networks trained here. Definition: Kaldi's `compute-fbank-feats --dither=0
--num-mel-bins=80` (src/feat/feature-window.cc, mel-computations.cc, feature-fbank.cc): 25 ms frames every 10 ms, whole
frames only (snip edges), DC removed per frame, pre-emphasis 0.97, povey window, 512-point power spectrum, triangular
filters on the mel scale from 20 Hz to the Nyquist frequency, log floored at float epsilon; input on the 16-bit scale.

Published networks take the same with a Hamming window (`--window-type=hamming`)
or with samples in [-1, 1]: svq.data.frontend chooses.

`SpeechBrainFbank` and `ClovaFbank` are centre-padded short-time Fourier transforms. Both pad the waveform by half a
window at either end, so that frame t is centred on sample t * hop, and use a periodic Hamming window of 25 ms every 10
ms. They differ from each other, and from Kaldi's, in padding, filters and logarithm, which is all that the two classes
say.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

PREEMPHASIS = 0.97
LOW_HZ = 20.0
INT16_SCALE = 32768.0
# Frames in flight at a time on the CPU: the buffers then stay in the L2 cache.
CHUNK_FRAMES = 128


def num_frames(num_samples: int, rate: int = 16000) -> int:
    """Whole 25 ms frames at a 10 ms hop in `num_samples` samples (0 if too short)."""
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    return 0 if num_samples < length else 1 + (num_samples - length) // hop


def mirrored_edges(rate: int) -> tuple[int, int]:
    """Samples to mirror at the start and at the end of a waveform, so that its whole frames are those that Kaldi cuts
    with `--snip-edges=false`: frame t is centred on sample (t + 1/2) hop, and there are (samples + hop / 2) / hop."""
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    start = length // 2 - hop // 2
    return start, length - hop + hop // 2 - start


def with_mirrored_edges(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Waveforms (B, T) with their first `start` samples mirrored before them, and their last `end` after them: the
    outermost sample stands twice, as in Kaldi."""
    return torch.cat([x[:, :start].flip(1), x, x[:, x.shape[1] - end:].flip(1)], dim=1)


def num_samples(frames: int, rate: int = 16000) -> int:
    """The fewest samples that hold `frames` frames: 32240 for 200 frames at 16 kHz."""
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    return length + (frames - 1) * hop


def povey_window(length: int) -> np.ndarray:
    """Kaldi's default window, (length,) float64: a Hann window to the power 0.85."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85


def hamming_window(length: int) -> np.ndarray:
    """Kaldi's Hamming window, (length,) float64: symmetric, 0.08 at both ends."""
    return 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(length) / (length - 1))


WINDOWS = {"povey": povey_window, "hamming": hamming_window}


def mel_filters(num_mels: int, fft_size: int, rate: int, high_hz: float = 0.0) -> np.ndarray:
    """Kaldi's triangular mel filters, (fft_size // 2, num_mels) float32.

    high_hz: where the last one ends; 0 or less: so far below the Nyquist frequency.
    The Nyquist bin is left out, as in Kaldi. Computed in float32 like Kaldi:
    the lowest filters catch one bin near a corner, where the rounding of the
    mel scale shows in the result.
    """
    def mel(hertz):
        hertz = np.asarray(hertz, dtype=np.float32)
        return np.float32(1127.0) * np.log(np.float32(1.0) + hertz / np.float32(700.0))

    low, high = mel(LOW_HZ), mel(high_hz if high_hz > 0 else 0.5 * rate + high_hz)
    step = (high - low) / np.float32(num_mels + 1)
    bins = mel(np.float32(rate / fft_size) * np.arange(fft_size // 2, dtype=np.float32))
    index = np.arange(num_mels, dtype=np.float32)
    left, centre, right = (low + (index + np.float32(k)) * step for k in range(3))
    bins = bins[:, None]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


class Fbank(nn.Module):
    """Waveforms (B, T) float in [-1, 1] -> log-mels (B, frames, num_mels) float32.

    frames = 1 + (T - 400) // 160 at 16 kHz, (T + 80) // 160 with mirrored edges; ValueError when T is shorter than
    one frame. There is nothing to train: gradients do not flow through.

    Up to the power spectrum it computes in float64: in float32 the rounding of
    loud components shows in the bands of band-limited speech that hold nearly
    nothing, by up to 0.04 in the log.

    Args:
        num_mels, rate: mel bands, samples per second.
        window: "povey", Kaldi's default, or "hamming".
        full_scale: what a sample of 1.0 counts; it decides how near to silence the log's floor is.
        preemphasis: what part of the sample before is taken off each one.
        high_hz: where the last filter ends, as Kaldi's --high-freq: 0 or less counts down from the Nyquist frequency.
        snip_edges: whole frames only; else the edges are mirrored, as by Kaldi's --snip-edges=false.
    """

    def __init__(self, num_mels: int = 80, rate: int = 16000, window: str = "povey",
                 full_scale: float = INT16_SCALE, preemphasis: float = PREEMPHASIS, high_hz: float = 0.0,
                 snip_edges: bool = True):
        super().__init__()
        self.edges = (0, 0) if snip_edges else mirrored_edges(rate)
        self.num_mels, self.rate, self.preemphasis = num_mels, rate, preemphasis
        self.length, self.hop = rate * 25 // 1000, rate * 10 // 1000
        self.fft_size = 1 << (self.length - 1).bit_length()
        # The 16-bit scale is a power of two: folded into the window it is exact.
        coefficients = WINDOWS[window](self.length) * full_scale
        self.first_sample_counts = bool(coefficients[0])
        mel = torch.from_numpy(mel_filters(num_mels, self.fft_size, rate, high_hz))
        # Each row twice: the filters then add re^2 and im^2 of a bin by themselves.
        self.register_buffer("window", torch.from_numpy(coefficients), persistent=False)
        self.register_buffer("mel", mel.repeat_interleave(2, dim=0), persistent=False)
        self.epsilon = float(np.finfo(np.float32).eps)

    def num_frames(self, samples: int) -> int:
        """Frames that `samples` samples give; 0 where they are too few."""
        return 0 if samples < self.length else num_frames(samples + sum(self.edges), self.rate)

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        if waveforms.dim() != 2:
            raise ValueError(f"expected waveforms (B, T), got shape {tuple(waveforms.shape)}")
        batch, samples = waveforms.shape
        frames = self.num_frames(samples)
        if frames < 1:
            raise ValueError(f"{samples} samples are shorter than one frame of {self.length}")
        if any(self.edges):
            waveforms = with_mirrored_edges(waveforms, *self.edges)
        output = self.mel.new_empty(batch, frames, self.num_mels)
        size = CHUNK_FRAMES if waveforms.device.type == "cpu" else 1 << 16
        rows = max(1, size // frames)
        for b in range(0, batch, rows):
            for t in range(0, frames, size):
                last = min(t + size, frames)
                piece = waveforms[b:b + rows, t * self.hop:(last - 1) * self.hop + self.length]
                self._chunk(piece.double(), output[b:b + rows, t:last])
        return output

    def _chunk(self, waveforms: torch.Tensor, output: torch.Tensor) -> None:
        """One cache-sized piece, (b, T') -> output (b, t, num_mels)."""
        frames = self._frames(waveforms)
        spectrum = torch.fft.rfft(frames, n=self.fft_size)
        power = torch.view_as_real(spectrum).flatten(-2)[..., :self.fft_size].square_()
        # On an accelerator float32 products may be set to TF32, which is too coarse here.
        dtype = torch.float32 if power.device.type == "cpu" else torch.float64
        mels = torch.matmul(power.to(dtype), self.mel.to(dtype))
        output.copy_(mels.clamp_(min=self.epsilon).log_())

    def _frames(self, waveforms: torch.Tensor) -> torch.Tensor:
        """DC-free, pre-emphasised, windowed frames (b, t, length).

        Within a frame of mean m Kaldi takes (x[i] - m) - 0.97 (x[i-1] - m),
        which is (x[i] - 0.97 x[i-1]) - 0.03 m: the first part is the same in
        all frames that share the sample, so it is done once, before framing.
        A frame's first sample counts as its own predecessor, which does not
        matter with the povey window: that is zero there.
        """
        emphasised = torch.zeros_like(waveforms)
        torch.sub(waveforms[:, 1:], waveforms[:, :-1], alpha=self.preemphasis, out=emphasised[:, 1:])
        samples = waveforms.unfold(1, self.length, self.hop)
        mean = samples.mean(-1, keepdim=True)
        frames = emphasised.unfold(1, self.length, self.hop) - (1 - self.preemphasis) * mean
        if self.first_sample_counts:
            frames[..., :1] = (1 - self.preemphasis) * (samples[..., :1] - mean)
        return frames.mul_(self.window)


def mean_normalize(feats: torch.Tensor) -> torch.Tensor:
    """Features (B, T, F) less their mean over the T frames of each utterance."""
    return feats - feats.mean(dim=1, keepdim=True)


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
