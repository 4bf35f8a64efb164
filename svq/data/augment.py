"""Online augmentation of training speech: noise, reverberation, SpecAugment.

With probability 0.6 an utterance gets either reverberation or one kind of noise.
The noise levels are those of Snyder et al., "X-vectors", ICASSP 2018, section 3.3;
drawing one kind per utterance is WeSpeaker's way. Every draw comes from the
generator that is passed in, so the result is a pure function of the waveform and
the generator's state.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

from svq.data import audio
from svq.data.augment_config import AugmentConfig, SpecAugmentConfig
from svq.data.datadir import DataDir
from svq.data.table import Table
from svq.data.wavfile import as_float32, as_int16
from svq.errors import UserError

CATEGORIES = ("noise", "music", "speech")


class Augment:
    """Adds noise or reverberation: `augment(wav, rng) -> wav`, (T,) float32 to (T,) float32.

    noise_dir, rir_dir: Kaldi data directories; one may be None. A clip's category
    is read from noise_dir/utt2category, or from utt2spk where that is missing. A
    label with "music" in it means music, one with "speech" or "babble" speech, any
    other noise. Further options are the fields of `AugmentConfig`. UserError if both
    directories are None or one is empty.
    """

    def __init__(self, noise_dir=None, rir_dir=None, prob: float = 0.6, rate: int = 16000, **options):
        self.config = AugmentConfig(noise_dir and os.fspath(noise_dir), rir_dir and os.fspath(rir_dir),
                                    prob, **options)
        self.rate = rate
        if not noise_dir and not rir_dir:
            raise UserError("augmentation needs a noise_dir, a rir_dir or both; without them turn it off")
        self.noise = _Clips(noise_dir, rate, self.config.cache_mb) if noise_dir else None
        self.rirs = _Clips(rir_dir, rate, self.config.cache_mb) if rir_dir else None
        if rir_dir:
            import scipy.fft  # noqa: F401  slow: import it only for rooms, and before the loader processes start
        if self.noise:
            self.members = _by_category(noise_dir, self.noise)
            self.categories = [name for name in CATEGORIES if len(self.members[name])]

    @classmethod
    def from_config(cls, config: AugmentConfig, rate: int = 16000) -> "Augment":
        """Makes an Augment of the settings, for samples at `rate` Hz."""
        return cls(rate=rate, **vars(config))

    def __call__(self, wav: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = self.draw(len(wav), rng)
        if drawn.response is not None:
            wav = reverberate(wav, drawn.response)
        return wav if drawn.noise is None else add_noise(wav, drawn.noise, drawn.snr)

    def draw(self, samples: int, rng: np.random.Generator) -> Drawn:
        """Draws what to do with a waveform of so many samples."""
        if rng.random() >= self.config.prob:
            return Drawn()
        kinds = ["reverb"] * bool(self.rirs) + ["noise"] * bool(self.noise)
        if len(kinds) == 2 and self.config.both:
            kinds.append("both")
        kind = kinds[rng.integers(len(kinds))]
        response = self._draw_room(rng) if kind in ("reverb", "both") else None
        return Drawn(response, *(self._draw_noise(samples, rng) if kind in ("noise", "both") else ()))

    def _draw_room(self, rng: np.random.Generator) -> np.ndarray | None:
        response = self.rirs.whole(int(rng.integers(len(self.rirs))))
        return from_direct_path(response, int(self.config.rir_seconds * self.rate))

    def _draw_noise(self, samples: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        category = self.categories[rng.integers(len(self.categories))]
        members = self.members[category]
        low, high = self.config.babble if category == "speech" else (1, 1)
        noise = np.zeros(samples, dtype=np.float32)
        for _ in range(rng.integers(low, high + 1)):
            # Drawn before the clip is read: the draws never depend on its content.
            clip, where = int(members[rng.integers(len(members))]), rng.random()
            noise += _unit_power(self.noise.crop(clip, samples, where))
        return noise, rng.uniform(*getattr(self.config, f"{category}_snr"))


@dataclass(frozen=True)
class Drawn:
    """Holds what is drawn for one waveform.

    response: of a room, as `from_direct_path` gives it, or None. noise: (T,), as long as the waveform, to be added at
    `snr` dB, or None.
    """

    response: np.ndarray | None = None
    noise: np.ndarray | None = None
    snr: float = 0.0


def add_noise(wav: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Adds `noise` (T,) to `wav` (T,), scaled to a signal-to-noise ratio of `snr` dB.

    If either is silent, no such ratio exists: `wav` is returned unchanged.
    """
    signal, power = _power(wav), _power(noise)
    if signal == 0 or power == 0:
        return wav
    gain = np.sqrt(signal / power * 10 ** (-snr / 10))
    return wav + np.float32(gain) * noise


def from_direct_path(response: np.ndarray, longest: int) -> np.ndarray | None:
    """Gives the impulse response (R,) of a room from its direct path on, divided by its peak; None if it is silent.

    The direct path is the first sample of at least half the peak: from there on, speech is not delayed out of the crop.
    The response is cut off `longest` samples later.
    """
    size = np.abs(response)
    peak = size.max(initial=0.0)
    if peak == 0:
        return None
    first = int(np.argmax(size >= 0.5 * peak))
    return response[first:first + longest] / peak


def reverberate(wav: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Puts `wav` (T,) into the room of a response that `from_direct_path` gave; gives (T,) samples of the same power.

    `wav` is returned unchanged if it is silent.
    """
    power = _power(wav)
    if power == 0:
        return wav
    wet = convolved(wav, response)
    wet_power = _power(wet)
    if wet_power == 0:
        return wav
    return (wet * np.float32(np.sqrt(power / wet_power))).astype(np.float32, copy=False)


_BLOCK = 4096  # samples; a transform of twice as many fits in a processor's cache, and several run at a time


def convolved(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolves `signal` (T,) with `response` (R,), both float32, and gives the first T samples, float32.

    It cuts both into blocks, multiplies their spectra and sums the products: twice as fast as one long transform.
    """
    from scipy.fft import irfft, rfft

    ours, theirs = (-(-len(part) // _BLOCK) for part in (signal, response[:len(signal)]))
    blocks = np.zeros((ours + theirs, 2 * _BLOCK), np.float32)
    for rows, part in ((blocks[:ours], signal), (blocks[ours:], response[:len(signal)])):
        padded = np.zeros(len(rows) * _BLOCK, np.float32)
        padded[:len(part)] = part
        rows[:, :_BLOCK] = padded.reshape(-1, _BLOCK)
    spectra = rfft(blocks, axis=1)
    products = np.zeros((ours, spectra.shape[1]), np.complex64)
    for i in range(theirs):
        products[i:] += spectra[ours + i] * spectra[:ours - i]
    parts = irfft(products, axis=1)
    out = parts[:, :_BLOCK].copy()
    out[1:] += parts[:-1, _BLOCK:]
    return out.reshape(-1)[:len(signal)]


def spec_augment(feats: torch.Tensor, seed: int, config: SpecAugmentConfig = SpecAugmentConfig(),
                 rank: int = 0, world_size: int = 1) -> torch.Tensor:
    """Sets random bands and spans of features (B, T, F) to 0, drawn anew for each utterance (SpecAugment).

    Mask widths are uniform in 0..max, positions uniform where the mask fits.
    Use it after mean normalization, where 0 is the mean. The draws depend on `seed`
    alone, not on the device. Rank r of world_size gets the masks that its slice of
    the whole batch would get in one process.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, frames, bands = feats.shape
    total, mine = batch * world_size, slice(batch * rank, batch * (rank + 1))
    chosen = torch.rand(total, 1, generator=generator) < config.prob
    bands_hit = _masks(total, bands, config.num_freq_masks, config.max_freq, generator) & chosen
    frames_hit = _masks(total, frames, config.num_time_masks, config.max_time, generator) & chosen
    hit = frames_hit[mine, :, None].to(feats.device) | bands_hit[mine, None, :].to(feats.device)
    return feats.masked_fill(hit, 0.0)


def _masks(batch: int, size: int, count: int, widest: int, generator) -> torch.Tensor:
    """Draws `count` random intervals in 0..size-1 for each item of a batch; gives their unions, (batch, size) bool."""
    widths = (torch.rand(batch, count, 1, generator=generator) * (min(widest, size) + 1)).floor()
    starts = (torch.rand(batch, count, 1, generator=generator) * (size - widths + 1)).floor()
    position = torch.arange(size)
    return ((position >= starts) & (position < starts + widths)).any(dim=1)


class _Clips:
    """Random access to the recordings of a Kaldi data directory, at `rate` samples a second.

    The first clips of the listing, up to `cache_mb` of int16, stay in memory once
    they are read (as float32 if int16 cannot hold them exactly). The listing alone
    decides which, so a crop never depends on what was read before. Of the other
    clips each crop is read from disk. Recordings may have any scale: rooms are
    scaled by their peak, noise by its power.
    """

    def __init__(self, folder, rate: int, cache_mb: int):
        self.folder, self.rate = os.fspath(folder), rate
        self.wav = DataDir(folder).wav
        self.seconds = self._durations()
        self.kept = np.cumsum(self.seconds) * rate * 2 <= cache_mb * 1e6
        self.cache: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.wav)

    def _durations(self) -> np.ndarray:
        """Gives the seconds of each recording, (N,), from utt2dur or, without that file, from the recordings."""
        path = os.path.join(self.folder, "utt2dur")
        if not os.path.exists(path):
            return np.array([audio.duration(value) for value in self.wav.values()])
        return _aligned(Table.read(path), self.wav).float_array()

    def whole(self, i: int) -> np.ndarray:
        """Gives the whole of clip `i`, (T,) float32."""
        if not self.kept[i]:
            return self._load(i)
        if i not in self.cache:
            clip = self._load(i)
            whole = as_int16(clip)
            self.cache[i] = clip if whole is None else whole
        return as_float32(self.cache[i])

    def _load(self, i: int, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
        return audio.load(self.wav.value(i), self.rate, start, seconds, any_scale=True)

    def crop(self, i: int, samples: int, where: float) -> np.ndarray:
        """Cuts (samples,) float32 from clip `i`; `where` in [0, 1) says how far into it. Short clips are repeated."""
        if self.kept[i]:
            if i not in self.cache:
                self.whole(i)
            clip = self.cache[i]
            start = int(where * (max(0, len(clip) - samples) + 1))
            clip = clip[start:start + samples]
        else:
            available = int(self.seconds[i] * self.rate)
            start = int(where * (max(0, available - samples) + 1))
            clip = self._load(i, start / self.rate, samples / self.rate)
        return as_float32(wrap(clip, samples))


def wrap(signal: np.ndarray, samples: int) -> np.ndarray:
    """Repeats `signal` along its first axis and gives the first `samples` items; ValueError if it is empty."""
    if len(signal) == 0:
        raise ValueError("an empty signal cannot be repeated")
    if len(signal) < samples:
        signal = np.concatenate([signal] * -(-samples // len(signal)))
    return signal[:samples]


def _by_category(folder, clips: _Clips) -> dict[str, np.ndarray]:
    """Gives for each category the indices of its clips in `clips`."""
    names = [os.path.join(folder, name) for name in ("utt2category", "utt2spk")]
    path = next((name for name in names if os.path.exists(name)), None)
    labels = np.char.lower(_aligned(Table.read(path), clips.wav).value_array() if path else
                           np.full(len(clips), b"noise"))
    music = np.char.find(labels, b"music") >= 0
    speech = (np.char.find(labels, b"speech") >= 0) | (np.char.find(labels, b"babble") >= 0)
    masks = {"music": music, "speech": speech & ~music, "noise": ~music & ~speech}
    return {name: np.flatnonzero(mask) for name, mask in masks.items()}


def _aligned(table: Table, wav: Table) -> Table:
    """Gives the lines of `table` for the keys of `wav`, in the order of `wav`; UserError naming a missing key."""
    try:
        order = table.indices(wav.key_array)
    except KeyError as error:
        raise UserError(f"{table.path}: no line for {error.args[0]}, which is in {wav.path}") from None
    return Table.from_pairs(table.items(order), table.path)


def _power(wav: np.ndarray) -> float:
    return float(np.dot(wav, wav)) / max(1, len(wav))


def _unit_power(wav: np.ndarray) -> np.ndarray:
    power = _power(wav)
    return wav / np.float32(np.sqrt(power)) if power > 0 else wav
