"""`FrontEndConfig`: the settings of a front end. No torch here: configs are checked in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from svq.config import check_choices, to_dict
from svq.data.mels import CENTRED, HOP_MS, LOW_HZ, WINDOWS

VARIANCE_FLOOR = 1e-5  # added to a channel's variance before it is divided by its root


@dataclass(frozen=True)
class FrontEndConfig:
    """The settings of `FrontEnd`, which turns a recording into the network's input.

    rate: samples per second. num_mels: log-mel channels.
    mean_normalize: whether each utterance's mean over time is subtracted from every channel.
    variance_normalize: whether every channel is then divided by its standard deviation over the utterance.
    fbank: whose definition of log-mels: kaldi, speechbrain (decibels, floor 80 dB under the peak), clova
        (torchaudio's mel spectrogram, log(x + 1e-6)), redimnet (the same from 20 to 7600 Hz), redimnet2 (mels of 256
        frequencies, which are not quite those of the transform's bins) or resemblyzer (librosa's mel powers, without a
        logarithm, up to the end of the last window of 1.6 s).
    window: povey or hamming; of resemblyzer hann. full_scale: the value that a sample at full scale counts as, 32768
        for 16-bit numbers. preemphasis: the share of the sample before that is subtracted from each one.
    The defaults of these three go by `fbank`: povey, 32768 and 0.97 for kaldi, hamming, 1 and 0.97 for redimnet and
    redimnet2, hamming or hann, 1 and 0 for the others.
    high_hz: where the last filter ends, in Hz; 0 or less counts down from the Nyquist frequency (Kaldi's --high-freq).
    snip_edges: true for whole frames only; false mirrors the edges, a frame every 10 ms (Kaldi's --snip-edges).
    Both are for fbank kaldi alone. sherpa-onnx has high_hz -400 and snip_edges false.
    hop_ms: milliseconds from frame to frame.
    waveform_normalize: whether each waveform first gets mean 0 and deviation 1.
    Both are for fbank redimnet and redimnet2 alone; all others have a frame every 10 ms.
    least_dbfs: a recording with a lower level (root mean square, in dB of full scale) is amplified to it; null: none is.
    """

    rate: int = 16000
    num_mels: int = 80
    mean_normalize: bool = True
    variance_normalize: bool = False
    fbank: Literal["kaldi", "speechbrain", "clova", "redimnet", "redimnet2", "resemblyzer"] = "kaldi"
    window: Literal["povey", "hamming", "hann"] | None = None
    full_scale: float | None = None
    preemphasis: float | None = None
    high_hz: float = 0.0
    snip_edges: bool = True
    hop_ms: int = HOP_MS
    waveform_normalize: bool = False
    least_dbfs: float | None = None

    def __post_init__(self):
        check_choices(self)
        redimnet = self.fbank in ("redimnet", "redimnet2")
        own = ("povey", 32768.0, 0.97) if self.fbank == "kaldi" else (CENTRED[self.fbank].window, 1.0, 0.97 if redimnet else 0.0)
        for name, value in zip(("window", "full_scale", "preemphasis"), own):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, least, most in (("rate", 1_000, 768_000), ("num_mels", 1, 1024), ("hop_ms", 1, 25)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between {least} and {most}")
        if self.fbank != "kaldi":
            for name, only in (("window", own[0]), ("high_hz", 0.0), ("snip_edges", True)):
                if getattr(self, name) != only:
                    raise ValueError(f"{name} is {getattr(self, name)}; fbank {self.fbank} takes {only} only")
        elif self.window not in WINDOWS:
            raise ValueError(f"window is {self.window}; fbank kaldi takes {' or '.join(WINDOWS)} only")
        if not redimnet:
            for name, only in (("hop_ms", HOP_MS), ("waveform_normalize", False)):
                if getattr(self, name) != only:
                    raise ValueError(f"{name} is {getattr(self, name)}; fbank {self.fbank} takes {only} only")
        if self.least_dbfs is not None and not -100 <= self.least_dbfs <= 0:
            raise ValueError(f"least_dbfs is {self.least_dbfs}; it must be between -100 and 0, or null")
        highest = self.high_hz if self.high_hz > 0 else self.rate / 2 + self.high_hz
        if not LOW_HZ < highest <= self.rate / 2:
            raise ValueError(f"high_hz is {self.high_hz:g}: the last filter would end at {highest:g} Hz; it must be above "
                             f"{LOW_HZ:g} and at most half the rate, {self.rate / 2:g}")
        if not 0 < self.full_scale < float("inf"):
            raise ValueError(f"full_scale is {self.full_scale}; it must be above 0")
        if not 0 <= self.preemphasis <= 1:
            raise ValueError(f"preemphasis is {self.preemphasis}; it must be between 0 and 1")

    def as_short_dict(self) -> dict:
        """Gives rate, num_mels and mean_normalize, and of the other settings those that `fbank` does not imply."""
        own = to_dict(FrontEndConfig(fbank=self.fbank))
        own["fbank"] = FrontEndConfig.fbank
        always = ("rate", "num_mels", "mean_normalize")
        return {name: value for name, value in to_dict(self).items() if name in always or value != own[name]}
