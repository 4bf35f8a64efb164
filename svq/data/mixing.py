"""Noise and reverberation of a batch, on the device that trains.

`svq.data.augment.Augment.draw` says what each waveform gets; here it is put on for all of a batch at once, with what
svq.data.augment does on the CPU to one waveform after the other, up to rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from svq.data.augment import Drawn


@dataclasses.dataclass(frozen=True)
class Unmixed:
    """Holds waveforms (B, T) float32 as they were recorded, and what is drawn for them.

    rooms: (R, L) responses, filled up with zeros; in_room: (R,) which waveforms they are for. noises: (N, T), `snr`: (N,) dB;
    in_noise: (N,) likewise. Goes where a tensor goes: `to`, `pin_memory`.
    """

    waveforms: torch.Tensor
    rooms: torch.Tensor
    in_room: torch.Tensor
    noises: torch.Tensor
    snr: torch.Tensor
    in_noise: torch.Tensor

    @classmethod
    def of(cls, items: Sequence[tuple[np.ndarray, Drawn]]) -> Unmixed:
        """Makes the batch of some waveforms (T,), all of one length, each with what is drawn for it."""
        waveforms = torch.from_numpy(np.stack([waveform for waveform, _ in items]))
        in_room = [i for i, (_, drawn) in enumerate(items) if drawn.response is not None]
        in_noise = [i for i, (_, drawn) in enumerate(items) if drawn.noise is not None]
        rooms = torch.zeros(len(in_room), max((len(items[i][1].response) for i in in_room), default=1))
        for room, i in zip(rooms, in_room):
            room[:len(items[i][1].response)] = torch.from_numpy(items[i][1].response)
        noises = [torch.from_numpy(items[i][1].noise) for i in in_noise]
        return cls(waveforms, rooms, torch.tensor(in_room, dtype=torch.int64),
                   torch.stack(noises) if noises else waveforms[:0],
                   torch.tensor([items[i][1].snr for i in in_noise], dtype=torch.float64),
                   torch.tensor(in_noise, dtype=torch.int64))

    @classmethod
    def joined(cls, pieces: Sequence[Unmixed]) -> Unmixed:
        """Makes one batch of the pieces of it, in their order."""
        starts = np.cumsum([0, *(len(piece.waveforms) for piece in pieces)]).tolist()
        longest = max(piece.rooms.shape[1] for piece in pieces)
        rooms = [F.pad(piece.rooms, (0, longest - piece.rooms.shape[1])) for piece in pieces]
        return cls(torch.cat([piece.waveforms for piece in pieces]), torch.cat(rooms),
                   torch.cat([piece.in_room + start for piece, start in zip(pieces, starts)]),
                   torch.cat([piece.noises for piece in pieces]), torch.cat([piece.snr for piece in pieces]),
                   torch.cat([piece.in_noise + start for piece, start in zip(pieces, starts)]))

    def _each(self, change) -> Unmixed:
        return Unmixed(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))

    def to(self, device, non_blocking: bool = False) -> Unmixed:
        """Gives the same on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Unmixed:
        """Gives the same in memory that a GPU reads by itself."""
        return self._each(torch.Tensor.pin_memory)

    @torch.no_grad()
    def mixed(self) -> torch.Tensor:
        """Gives the waveforms (B, T) float32 in their rooms and noises."""
        if not len(self.in_room) and not len(self.in_noise):
            return self.waveforms
        waveforms = self.waveforms.clone()
        if len(self.in_room):
            waveforms[self.in_room] = reverberated(waveforms[self.in_room], self.rooms)
        if len(self.in_noise):
            waveforms[self.in_noise] = with_noise(waveforms[self.in_noise], self.noises, self.snr)
        return waveforms


def reverberated(waveforms: torch.Tensor, rooms: torch.Tensor) -> torch.Tensor:
    """Puts waveforms (B, T) each into its room of `rooms` (B, L), as svq.data.augment.reverberate does."""
    samples = waveforms.shape[1]
    size = fast_length(samples + rooms.shape[1] - 1)
    wet = torch.fft.irfft(torch.fft.rfft(waveforms, size) * torch.fft.rfft(rooms, size), size)[:, :samples]
    before, after = power(waveforms), power(wet)
    gain = (before / after.clamp(min=torch.finfo(torch.float64).tiny)).sqrt()
    return torch.where(((before > 0) & (after > 0))[:, None], wet * gain.float()[:, None], waveforms)


def with_noise(waveforms: torch.Tensor, noises: torch.Tensor, snr: torch.Tensor) -> torch.Tensor:
    """Adds noises (B, T) to waveforms (B, T) at signal-to-noise ratios (B,) in dB, as svq.data.augment.add_noise does."""
    signal, noise = power(waveforms), power(noises)
    gain = (signal / noise.clamp(min=torch.finfo(torch.float64).tiny) * 10 ** (-snr / 10)).sqrt()
    gain = torch.where((signal > 0) & (noise > 0), gain, 0.0)
    return waveforms + gain.float()[:, None] * noises


def power(waveforms: torch.Tensor) -> torch.Tensor:
    """Computes the mean square of each waveform, (B,) float64."""
    return waveforms.square().sum(1, dtype=torch.float64) / waveforms.shape[1]


def fast_length(least: int) -> int:
    """Finds the least length from `least` on without prime factors but 2, 3 and 5: a Fourier transform is quick at it."""
    best = 1 << (least - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            length = three << max(0, -(-least // three) - 1).bit_length()
            best = min(best, length) if length >= least else best
            three *= 3
        five *= 5
    return best
