"""The tables of log-mels: windows, mel filters, sizes of frames. NumPy alone.

svq.data.fbank and svq.data.numpy_front_end compute with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PREEMPHASIS = 0.97
LOW_HZ = 20.0
HOP_MS = 10  # from frame to frame, unless a config says otherwise
INT16_SCALE = 32768.0
EPSILON = float(np.finfo(np.float32).eps)  # the least power that Kaldi takes the logarithm of
LEAST_POWER, RANGE_DB = 1e-10, 80  # SpeechBrain's least power, and how far under the peak its decibels reach
LEAST_LEVEL = 1e-12  # root mean square of a waveform that is amplified, at least
OFFSET = 1e-6  # added to clova's powers
# Resemblyzer's windows in frames: their length, the steps between them, and how much of the last one must be speech.
WINDOW, WINDOW_HOP, WINDOW_LEAST = 160, 77, 120


def num_frames(num_samples: int, rate: int = 16000) -> int:
    """Counts the whole 25 ms frames at a 10 ms hop in `num_samples` samples (0 if too short)."""
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    return 0 if num_samples < length else 1 + (num_samples - length) // hop


def mirrored_edges(rate: int) -> tuple[int, int]:
    """Gives the numbers of samples to mirror at the start and at the end of a waveform for `--snip-edges=false`.

    Its whole frames are then those that Kaldi cuts with that option: frame t is centred on sample (t + 1/2) hop, and
    there are (samples + hop / 2) / hop frames.
    """
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    start = length // 2 - hop // 2
    return start, length - hop + hop // 2 - start


def num_samples(frames: int, rate: int = 16000) -> int:
    """Gives the fewest samples that hold `frames` frames: 32240 for 200 frames at 16 kHz."""
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    return length + (frames - 1) * hop


def povey_window(length: int) -> np.ndarray:
    """Computes Kaldi's default window, (length,) float64: a Hann window to the power 0.85."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1))) ** 0.85


def hamming_window(length: int) -> np.ndarray:
    """Computes Kaldi's Hamming window, (length,) float64: symmetric, 0.08 at both ends."""
    return 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(length) / (length - 1))


WINDOWS = {"povey": povey_window, "hamming": hamming_window}


def mel_filters(num_mels: int, fft_size: int, rate: int, high_hz: float = 0.0) -> np.ndarray:
    """Computes Kaldi's triangular mel filters, (fft_size // 2, num_mels) float32.

    high_hz: where the last filter ends; 0 or less counts down from the Nyquist
    frequency. The Nyquist bin is left out, as in Kaldi. Everything is in float32,
    as in Kaldi: the lowest filters catch one bin near a corner, where the rounding
    of the mel scale shows in the result.
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


def frames_of_windows(frames: int) -> int:
    """Gives the number of frames up to the end of Resemblyzer's last window, of a recording of so many centred frames.

    The last window is the last one of which more than WINDOW_LEAST frames are there, or the first.
    """
    return WINDOW_HOP * (max(0, frames - WINDOW_LEAST - 1) // WINDOW_HOP) + WINDOW


def mel(hertz):
    """Converts Hz to mel by O'Shaughnessy, "Speech communication", 1987: 1000 Hz is 1000 mel."""
    return 2595 * np.log10(1 + np.asarray(hertz, dtype=np.float64) / 700)


def mel_corners(num_mels: int, low: float, high: float) -> np.ndarray:
    """Gives frequencies in Hz, (num_mels + 2,) float64, evenly spaced in mel from `low` to `high`."""
    return 700 * (10 ** (np.linspace(mel(low), mel(high), num_mels + 2) / 2595) - 1)


def slaney_corners(num_mels: int, low: float, high: float) -> np.ndarray:
    """Gives frequencies in Hz, (num_mels + 2,) float64, evenly spaced from `low` to `high` on Slaney's scale.

    It is linear up to 1000 Hz, with 3 mels each 200 Hz, and logarithmic above, with 27 mels from 1000 to 6400 Hz
    (Slaney, "Auditory toolbox", 1998; librosa's default).
    """
    knee, step = 15.0, np.log(6.4) / 27

    def slaney(hertz):
        return knee + np.log(hertz / 1000) / step if hertz > 1000 else 3 * hertz / 200

    mels = np.linspace(slaney(low), slaney(high), num_mels + 2)
    return np.where(mels < knee, mels * 200 / 3, 1000 * np.exp(step * (mels - knee)))


def speechbrain_filters(bins: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Computes SpeechBrain's mel filters, (bins, num_mels) float64: triangles in Hz that fall as they rise.

    Both sides span the distance to the next lower centre. bins: frequencies of the bins in Hz, (bins, 1). corners: from
    `mel_corners`. The caller cuts off values below zero.
    """
    left, centre = corners[:-2], corners[1:-1]
    return 1 - np.abs(bins - centre) / (centre - left)


def clova_filters(bins: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Computes clova's mel filters, (bins, num_mels) float64: triangles in Hz between neighbouring centres.

    Arguments, and values below zero, as in `speechbrain_filters`.
    """
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    return np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))


def redimnet2_filters(bins: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Computes ReDimNet2's mel filters, (bins, num_mels) float64: triangles in mel between neighbouring centres.

    Arguments, and values below zero, as in `speechbrain_filters`.
    """
    return clova_filters(mel(bins), mel(corners))
def slaney_filters(bins: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Computes librosa's mel filters, (bins, num_mels) float64: clova's triangles, each of area 1 (norm `slaney`).

    Arguments, and values below zero, as in `speechbrain_filters`.
    """
    return clova_filters(bins, corners) * 2 / (corners[2:] - corners[:-2])


@dataclass(frozen=True)
class Centred:
    """The traits of one kind of centre-padded transform.

    padding: its name in numpy.pad and torch. smallest_fft: the least number of points of the DFT. filters: (frequencies
    of bins, corners) -> mel filters. low_hz, high_hz: where the first filter begins and the last one ends, at most half
    the rate. limits: of powers and mel powers. floor: added to the deviation that a waveform is divided by.
    short: whether padding is half a hop in place of half a transform, the window is symmetric, the Nyquist bin is left
    out, and the other bins are taken for frequencies from 0 to the Nyquist frequency, both included.
    corners: (num_mels, low, high) -> corners of the filters in Hz. window: of COSINES. in_windows: whether features end
    with Resemblyzer's last window, which silence fills.
    """

    padding: str
    smallest_fft: int
    filters: Callable[[np.ndarray, np.ndarray], np.ndarray]
    low_hz: float = 0.0
    high_hz: float = float("inf")
    limits: tuple[float, float] = (0.0, float("inf"))
    floor: float = 0.0
    short: bool = False
    corners: Callable[[int, float, float], np.ndarray] = mel_corners
    window: str = "hamming"
    in_windows: bool = False


COSINES = {"hamming": 0.54, "hann": 0.5}  # a of a - (1 - a) cos(2 pi n / length)
CENTRED = {
    "speechbrain": Centred("constant", 400, speechbrain_filters),
    "clova": Centred("reflect", 512, clova_filters),
    "redimnet": Centred("reflect", 512, clova_filters, LOW_HZ, 7600.0, floor=1e-6),
    "redimnet2": Centred("constant", 512, redimnet2_filters, LOW_HZ, 7600.0, (1e-8, 1e8), 1e-8, short=True),
    "resemblyzer": Centred("constant", 400, slaney_filters, corners=slaney_corners, window="hann", in_windows=True),
}


@dataclass(frozen=True, eq=False)
class Tables:
    """The sizes, window and filters of one config's log-mels.

    length, hop: of frames, in samples. fft_size: points of the DFT. window: (length,) float64, times full scale.
    filters: (bins, num_mels) float32, for the first bins of the power spectrum. edges: samples to mirror at the start
    and the end. padding: the kind of padding, by `pad` samples at either end, before frames as long as a transform are
    cut; None for none. limits: of powers and mel powers. floor: added to the deviation of a waveform. in_windows:
    whether features end with Resemblyzer's last window, which silence fills.
    """

    length: int
    hop: int
    fft_size: int
    window: np.ndarray
    filters: np.ndarray
    edges: tuple[int, int] = (0, 0)
    padding: str | None = None
    pad: int = 0
    limits: tuple[float, float] = (0.0, float("inf"))
    floor: float = 0.0
    in_windows: bool = False

    @property
    def shortest(self) -> int:
        """The fewest samples that a waveform needs: a frame, and with mirror padding, one more than are mirrored."""
        return max(self.length, self.pad + 1) if self.padding == "reflect" else self.length

    def num_frames(self, samples: int) -> int:
        """Gives the number of frames of `samples` samples; 0 where they are too few."""
        if samples < self.shortest:
            return 0
        if self.padding:
            frames = 1 + (samples + 2 * self.pad - self.fft_size) // self.hop
        else:
            frames = 1 + (samples + sum(self.edges) - self.length) // self.hop
        return frames_of_windows(frames) if self.in_windows else frames

    def silence(self, samples: int) -> int:
        """Gives the number of zeros to add at the end of `samples` samples, so that they fill the last window."""
        return max(0, self.num_frames(samples) * self.hop - samples) if self.in_windows else 0


def kaldi_tables(num_mels: int, rate: int, window: str, full_scale: float, high_hz: float = 0.0,
                 snip_edges: bool = True) -> Tables:
    """Computes the tables of Kaldi's log-mels; arguments as in svq.data.front_end_config.FrontEndConfig."""
    length, hop = rate * 25 // 1000, rate * 10 // 1000
    fft_size = 1 << (length - 1).bit_length()
    # The 16-bit scale is a power of two: folded into the window it is exact.
    return Tables(length, hop, fft_size, WINDOWS[window](length) * full_scale,
                  mel_filters(num_mels, fft_size, rate, high_hz), (0, 0) if snip_edges else mirrored_edges(rate))


def centred_tables(kind: str, num_mels: int, rate: int, full_scale: float, hop_ms: int = HOP_MS) -> Tables:
    """Computes the tables of `kind`, one of CENTRED: a window of 25 ms every `hop_ms`."""
    traits, length, hop = CENTRED[kind], rate * 25 // 1000, rate * hop_ms // 1000
    fft_size, a = traits.smallest_fft, COSINES[traits.window]
    while fft_size < length:
        fft_size *= 2
    window = a - (1 - a) * np.cos(2 * np.pi * np.arange(length) / (length - traits.short))
    bins = np.linspace(0, rate // 2, fft_size // 2 + (not traits.short))
    corners = traits.corners(num_mels, traits.low_hz, min(traits.high_hz, rate // 2))
    filters = traits.filters(bins[:, None], corners).clip(min=0)
    pad = hop // 2 + (fft_size - length) // 2 if traits.short else fft_size // 2
    return Tables(length, hop, fft_size, window * full_scale, filters.astype(np.float32), padding=traits.padding,
                  pad=pad, limits=traits.limits, floor=traits.floor, in_windows=traits.in_windows)


def tables_of(config) -> Tables:
    """Computes the tables of a `FrontEndConfig`."""
    if config.fbank == "kaldi":
        return kaldi_tables(config.num_mels, config.rate, config.window, config.full_scale, config.high_hz,
                            config.snip_edges)
    return centred_tables(config.fbank, config.num_mels, config.rate, config.full_scale, config.hop_ms)
