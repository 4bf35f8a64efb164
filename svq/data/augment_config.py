"""The schema of augmentation, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class AugmentConfig:
    """Settings of the online augmentation of waveforms. SNRs are in dB, drawn uniformly from [low, high]."""

    noise_dir: str | None = None  # Kaldi data directory of noise, music and speech clips
    rir_dir: str | None = None  # Kaldi data directory of room impulse responses
    prob: float = 0.6  # share of utterances that are augmented
    both: bool = False  # a third choice beside noise and reverberation: the two together
    noise_snr: tuple[float, float] = (0.0, 15.0)
    music_snr: tuple[float, float] = (5.0, 15.0)
    speech_snr: tuple[float, float] = (13.0, 20.0)
    babble: tuple[int, int] = (3, 7)  # how many speech clips are summed, [least, most]
    rir_seconds: float = 1.0  # length of a response from its direct path on; the rest is cut off
    cache_mb: int = 512  # memory for clips, per process, at 16 bits a sample; clips that do not fit are read each time
    # Rooms and noise are drawn and read as ever, but put on where the network trains, a batch at a time (svq.data.mixing):
    # for a GPU that is faster than the processes that read for it. The same up to rounding.
    on_device: bool | None = field(default=None, metadata={"left_out": True})

    def __post_init__(self):
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob is {self.prob}; it must lie between 0 and 1")
        for name in ("noise_snr", "music_snr", "speech_snr", "babble"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] > pair[1]:
                raise ValueError(f"{name} is {list(pair)}; it must be [low, high]")
        if self.babble[0] < 1:
            raise ValueError("babble must be at least one clip")
        if self.rir_seconds <= 0:
            raise ValueError(f"rir_seconds is {self.rir_seconds}; it must be positive")


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Settings of SpecAugment (Park et al., Interspeech 2019, section 2) without time warping."""

    prob: float = 0.6  # share of utterances that are masked
    num_freq_masks: int = 1
    max_freq: int = 8  # widest frequency mask, in mel bands
    num_time_masks: int = 1
    max_time: int = 10  # widest time mask, in frames

    def __post_init__(self):
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob is {self.prob}; it must lie between 0 and 1")
        for name in ("num_freq_masks", "max_freq", "num_time_masks", "max_time"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
