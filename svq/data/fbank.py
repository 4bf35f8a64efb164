"""Log-mel filter banks, batched, in torch: Kaldi's, and those that published networks were trained with.

`Fbank` is the front end of networks trained here. Definition: Kaldi's `compute-fbank-feats --dither=0
--num-mel-bins=80` (src/feat/feature-window.cc, mel-computations.cc, feature-fbank.cc): 25 ms frames every 10 ms, whole
frames only (snip edges), DC removed per frame, pre-emphasis 0.97, povey window, 512-point power spectrum, triangular
filters on the mel scale from 20 Hz to the Nyquist frequency, log floored at float epsilon; input on the 16-bit scale.

Published networks take the same with a Hamming window (`--window-type=hamming`)
or with samples in [-1, 1]: svq.data.frontend chooses.

`SpeechBrainFbank`, `ClovaFbank`, `ReDimNetFbank`, `ReDimNet2Fbank` and `ResemblyzerFbank` are padded short-time Fourier
transforms with a window of 25 ms. All but ReDimNet2's pad the waveform by half a transform at either end, so that frame
t is centred on sample t * hop. They differ from each other, and from Kaldi's, in padding, window, filters and logarithm.

The tables (windows, filters, sizes) are those of svq.data.mels, as they are for svq.data.numpy_front_end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from svq.data.mels import (
    EPSILON, HOP_MS, INT16_SCALE, LEAST_POWER, OFFSET, PREEMPHASIS, RANGE_DB, centred_tables, kaldi_tables,
)
from svq.data.mels import num_frames as num_frames, num_samples as num_samples  # users take them from here

# Frames in flight at a time on the CPU: the buffers then stay in the L2 cache.
CHUNK_FRAMES = 128


def with_mirrored_edges(x: torch.Tensor, start: int, end: int) -> torch.Tensor:
    """Mirrors the first `start` samples of waveforms (B, T) before them, and the last `end` after them.

    The outermost sample then stands twice, as in Kaldi.
    """
    return torch.cat([x[:, :start].flip(1), x, x[:, x.shape[1] - end:].flip(1)], dim=1)


class Fbank(nn.Module):
    """Kaldi's log-mels: waveforms (B, T) float in [-1, 1] -> (B, frames, num_mels) float32.

    frames = 1 + (T - 400) // 160 at 16 kHz, (T + 80) // 160 with mirrored edges; ValueError when T is shorter than
    one frame. There is nothing to train: gradients do not flow through.

    Everything up to the power spectrum is computed in float64. In float32, the
    rounding of loud components would show, by up to 0.04 in the log, in the
    nearly empty bands of band-limited speech.

    Args:
        num_mels, rate: mel bands, samples per second.
        window: "povey", Kaldi's default, or "hamming".
        full_scale: the value that a sample of 1.0 counts as; it decides how near to silence the log's floor is.
        preemphasis: the share of the sample before that is subtracted from each one.
        high_hz: where the last filter ends, as Kaldi's --high-freq: 0 or less counts down from the Nyquist frequency.
        snip_edges: True for whole frames only; False mirrors the edges, as Kaldi's --snip-edges=false.
    """

    def __init__(self, num_mels: int = 80, rate: int = 16000, window: str = "povey",
                 full_scale: float = INT16_SCALE, preemphasis: float = PREEMPHASIS, high_hz: float = 0.0,
                 snip_edges: bool = True):
        super().__init__()
        self.num_mels, self.rate, self.preemphasis = num_mels, rate, preemphasis
        self.tables = tables = kaldi_tables(num_mels, rate, window, full_scale, high_hz, snip_edges)
        self.length, self.hop, self.fft_size, self.edges = tables.length, tables.hop, tables.fft_size, tables.edges
        self.shortest = tables.shortest
        self.first_sample_counts = bool(tables.window[0])
        # Each row stands twice: so the product with the filters adds re^2 and im^2 of a bin.
        self.register_buffer("window", torch.from_numpy(tables.window), persistent=False)
        self.register_buffer("mel", torch.from_numpy(tables.filters).repeat_interleave(2, dim=0), persistent=False)
        self.epsilon = EPSILON

    def num_frames(self, samples: int) -> int:
        """Gives the number of frames of `samples` samples; 0 where they are too few."""
        return self.tables.num_frames(samples)

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        if waveforms.dim() != 2:
            raise ValueError(f"expected waveforms (B, T), got shape {tuple(waveforms.shape)}")
        batch, samples = waveforms.shape
        frames = self.num_frames(samples)
        if frames < 1:
            raise ValueError(f"{samples} samples are too few; the shortest recording has {self.shortest}")
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
        """Computes one cache-sized piece: waveforms (b, T') -> output (b, t, num_mels)."""
        frames = self._frames(waveforms)
        spectrum = torch.fft.rfft(frames, n=self.fft_size)
        power = torch.view_as_real(spectrum).flatten(-2)[..., :self.fft_size].square_()
        # On an accelerator float32 products may be set to TF32, which is too coarse here.
        dtype = torch.float32 if power.device.type == "cpu" else torch.float64
        mels = torch.matmul(power.to(dtype), self.mel.to(dtype))
        output.copy_(mels.clamp_(min=self.epsilon).log_())

    def _frames(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Cuts waveforms (b, T') into DC-free, pre-emphasised, windowed frames (b, t, length).

        Within a frame of mean m Kaldi takes (x[i] - m) - 0.97 (x[i-1] - m),
        which is (x[i] - 0.97 x[i-1]) - 0.03 m: the first part is the same in
        all frames that share the sample, so it is done once, before framing.
        A frame's first sample counts as its own predecessor. With the povey
        window this does not matter, as it is zero there.
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
    """Subtracts from features (B, T, F) their mean over the T frames of each utterance."""
    return feats - feats.mean(dim=1, keepdim=True)


class CentredFbank(nn.Module):
    """Log-mels of centred frames: waveforms (B, T) float in [-1, 1] -> (B, frames, num_mels) float32.

    There are 1 + T // hop frames, fewer where less is padded (`ReDimNet2Fbank`).

    T must hold one window, and where edges are mirrored, more than half a transform; ValueError otherwise. Gradients do
    not flow through.

    Args:
        num_mels, rate: mel bands, samples per second.
        full_scale: the value that a sample of 1.0 counts as.
        preemphasis: x[i] - preemphasis * x[i-1] is taken over the whole waveform; the first sample takes the second
            one for its predecessor. 0 leaves the waveform as it is.
        hop_ms: milliseconds from frame to frame.
        normalize: whether each waveform first gets mean 0 and deviation 1.
    """

    kind: str  # of svq.data.mels.CENTRED

    def __init__(self, num_mels: int = 80, rate: int = 16000, full_scale: float = 1.0, preemphasis: float = 0.0,
                 hop_ms: int = HOP_MS, normalize: bool = False):
        super().__init__()
        self.num_mels, self.rate, self.preemphasis, self.normalize = num_mels, rate, preemphasis, normalize
        self.tables = tables = centred_tables(self.kind, num_mels, rate, full_scale, hop_ms)
        self.length, self.hop, self.fft_size = tables.length, tables.hop, tables.fft_size
        self.shortest = tables.shortest
        self.register_buffer("window", torch.from_numpy(tables.window).float(), persistent=False)
        self.register_buffer("mel", torch.from_numpy(tables.filters), persistent=False)

    def num_frames(self, samples: int) -> int:
        """Gives the number of frames of `samples` samples; 0 where they are too few."""
        return self.tables.num_frames(samples)

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        if waveforms.dim() != 2:
            raise ValueError(f"expected waveforms (B, T), got shape {tuple(waveforms.shape)}")
        if waveforms.shape[1] < self.shortest:
            raise ValueError(f"{waveforms.shape[1]} samples are too few; the shortest recording has {self.shortest}")
        frames, silence = self.num_frames(waveforms.shape[1]), self.tables.silence(waveforms.shape[1])
        waveforms = self.padded(F.pad(waveforms.float(), (0, silence)))
        spectrum = torch.stft(waveforms, self.fft_size, self.hop, self.length, self.window, center=False,
                              return_complex=True)[:, : len(self.mel), :frames]
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        if self.tables.limits[0]:
            power = power.clamp(*self.tables.limits)
        # On an accelerator float32 products may be set to TF32, which is too coarse here.
        dtype = torch.float32 if power.device.type == "cpu" else torch.float64
        return self.logarithm(torch.matmul(power.to(dtype), self.mel.to(dtype)).float())

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """Normalizes and pre-emphasises waveforms (B, T) as the settings say, and pads them: (B, T + 2 pad)."""
        if self.normalize:
            x = x - x.mean(dim=1, keepdim=True)
            x = x / (x.square().mean(dim=1, keepdim=True).sqrt() + self.tables.floor)
        if self.preemphasis:
            x = x - self.preemphasis * torch.cat([x[:, 1:2], x[:, :-1]], dim=1)
        return F.pad(x[:, None], (self.tables.pad, self.tables.pad), mode=self.tables.padding)[:, 0]

    def logarithm(self, mels: torch.Tensor) -> torch.Tensor:
        """Takes the logarithm of mel powers (B, frames, num_mels), as the kind of front end defines it."""
        raise NotImplementedError


class SpeechBrainFbank(CentredFbank):
    """SpeechBrain's `Fbank` (speechbrain/lobes/features.py, processing/features.py), in decibels.

    The waveform is padded with zeros. The filters are triangles in Hz that fall as they rise, over the distance to the
    next lower centre. The floor is 80 dB under the largest value of the utterance, so a loud click changes the features
    of all its silence.
    """

    kind = "speechbrain"

    def logarithm(self, mels):
        decibels = 10 * mels.clamp(min=LEAST_POWER).log10()
        return decibels.maximum(decibels.amax(dim=(1, 2), keepdim=True) - RANGE_DB)


class ClovaFbank(CentredFbank):
    """The features of clovaai/voxceleb_trainer: torchaudio's `MelSpectrogram` and log(x + 1e-6).

    The waveform is padded with its mirror image, the transform has 512 points or more, and the filters are triangles in
    Hz between neighbouring centres.
    """

    kind = "clova"

    def logarithm(self, mels):
        return (mels + OFFSET).log()


class ReDimNetFbank(ClovaFbank):
    """The features of ReDimNet (redimnet/layers/features.py): as `ClovaFbank`, with filters from 20 to 7600 Hz."""

    kind = "redimnet"


class ReDimNet2Fbank(CentredFbank):
    """The features of ReDimNet2 (redimnet2/layers/features_tf.py, TFMelBanks).

    The waveform is padded with zeros by half a hop, the window is symmetric, the transform has 512 points or more, and
    the filters are triangles in mel from 20 to 7600 Hz. Powers and mel powers are between 1e-8 and 1e8.
    """

    kind = "redimnet2"

    def logarithm(self, mels):
        least, most = self.tables.limits
        return (mels.clamp(least, most) + least).log()


class ResemblyzerFbank(CentredFbank):
    """The features of Resemblyzer (resemblyzer/audio.py): librosa's `melspectrogram`, mel powers without a logarithm.

    The window is Hann's, the filters are triangles of area 1 on Slaney's scale, and zeros are added before and after the
    waveform, as librosa 0.9 and later does. Zeros also fill the last window of the network, where the features end
    (svq.data.mels.frames_of_windows), as resemblyzer/voice_encoder.py cuts them.
    """

    kind = "resemblyzer"

    def logarithm(self, mels):
        return mels


CENTRED_FBANKS = {bank.kind: bank for bank in (SpeechBrainFbank, ClovaFbank, ReDimNetFbank, ReDimNet2Fbank,
                                               ResemblyzerFbank)}
