"""What turns waveforms into a network's input: one module for extraction, training and measurements alike.

A model's `FrontEndConfig` says which. Networks trained here take Kaldi's log-mels, those that
svq.bin.import_checkpoint brings in take what their makers trained them with.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from svq.config import check_choices, to_dict
from svq.data.fbank import INT16_SCALE, LOW_HZ, PREEMPHASIS, ClovaFbank, Fbank, SpeechBrainFbank, mean_normalize
from svq.data.stored import check_frames, read_made, said
from svq.errors import UserError

VARIANCE_FLOOR = 1e-5
# What features without feats.yaml, of other toolkits or made by an older svq, are taken to be made with.
BY_OTHERS = {"fbank": "kaldi", "window": "povey", "full_scale": INT16_SCALE, "preemphasis": PREEMPHASIS, "high_hz": 0.0,
             "snip_edges": True}


@dataclass(frozen=True)
class FrontEndConfig:
    """What turns a recording into the network's input: the settings of `FrontEnd`.

    rate: samples per second. num_mels: log-mel channels.
    mean_normalize: whether each utterance's mean over time is taken off every channel.
    variance_normalize: whether every channel is then divided by its standard deviation over the utterance.
    fbank: whose definition of log-mels: kaldi, speechbrain (decibels, floor 80 dB under the peak) or clova
        (torchaudio's mel spectrogram, log(x + 1e-6)).
    window: povey or hamming. full_scale: what a sample at full scale counts, 32768 for 16-bit numbers.
    preemphasis: what part of the sample before is taken off each one.
    These three are by default what belongs to `fbank`: Kaldi's are povey, 32768 and 0.97, the others' hamming, 1 and 0.
    high_hz: where the last filter ends, in Hz; 0 or less counts down from the Nyquist frequency (Kaldi's --high-freq).
    snip_edges: whole frames only; false: the edges are mirrored, a frame every 10 ms (Kaldi's --snip-edges).
    Both are for fbank kaldi alone. sherpa-onnx has high_hz -400 and snip_edges false.
    """

    rate: int = 16000
    num_mels: int = 80
    mean_normalize: bool = True
    variance_normalize: bool = False
    fbank: Literal["kaldi", "speechbrain", "clova"] = "kaldi"
    window: Literal["povey", "hamming"] | None = None
    full_scale: float | None = None
    preemphasis: float | None = None
    high_hz: float = 0.0
    snip_edges: bool = True

    def __post_init__(self):
        check_choices(self)
        own = (("povey", 32768.0, 0.97) if self.fbank == "kaldi" else ("hamming", 1.0, 0.0))
        for name, value in zip(("window", "full_scale", "preemphasis"), own):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, least, most in (("rate", 1_000, 768_000), ("num_mels", 1, 1024)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between {least} and {most}")
        if self.fbank != "kaldi":
            for name, only in (("window", "hamming"), ("high_hz", 0.0), ("snip_edges", True)):
                if getattr(self, name) != only:
                    raise ValueError(f"{name} is {getattr(self, name)}; fbank {self.fbank} takes {only} only")
        highest = self.high_hz if self.high_hz > 0 else self.rate / 2 + self.high_hz
        if not LOW_HZ < highest <= self.rate / 2:
            raise ValueError(f"high_hz is {self.high_hz:g}: the last filter would end at {highest:g} Hz; it must be above "
                             f"{LOW_HZ:g} and at most half the rate, {self.rate / 2:g}")
        if not 0 < self.full_scale < float("inf"):
            raise ValueError(f"full_scale is {self.full_scale}; it must be above 0")
        if not 0 <= self.preemphasis <= 1:
            raise ValueError(f"preemphasis is {self.preemphasis}; it must be between 0 and 1")

    def as_short_dict(self) -> dict:
        """Only what a reader cannot tell: rate, num_mels, mean_normalize, and all that `fbank` does not imply."""
        own = to_dict(FrontEndConfig(fbank=self.fbank))
        own["fbank"] = FrontEndConfig.fbank
        always = ("rate", "num_mels", "mean_normalize")
        return {name: value for name, value in to_dict(self).items() if name in always or value != own[name]}


class FrontEnd(nn.Module):
    """Waveforms (B, T) float in [-1, 1] -> features (B, frames, num_mels) float32, normalised; no gradients.

    `bank` is the filter bank without the normalization, with `length`, the
    fewest samples that it takes, and `num_frames(samples)`.
    """

    def __init__(self, config):
        super().__init__()
        self.config, self.bank = config, filter_bank(config)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.normalize(self.bank(waveforms))

    @torch.no_grad()
    def normalize(self, feats: torch.Tensor) -> torch.Tensor:
        """Log-mels (B, T, F) less each utterance's mean, and over its deviation, where the config says so."""
        if self.config.mean_normalize:
            feats = mean_normalize(feats)
        if self.config.variance_normalize:
            variance = feats.var(dim=1, correction=0, keepdim=True)
            feats = feats / (variance + VARIANCE_FLOOR).sqrt()
        return feats


def filter_bank(config) -> nn.Module:
    """The filter bank of a `FrontEndConfig`."""
    if config.fbank == "kaldi":
        return Fbank(config.num_mels, config.rate, config.window, config.full_scale, config.preemphasis,
                     config.high_hz, config.snip_edges)
    kind = {"speechbrain": SpeechBrainFbank, "clova": ClovaFbank}[config.fbank]
    return kind(config.num_mels, config.rate, config.full_scale, config.preemphasis)


def takes_stored(config, data_dir) -> bool:
    """Whether feats.scp of a data directory holds what `config` gives before the normalization: see `check_stored`."""
    return not _other_settings(config, read_made(data_dir) or BY_OTHERS)


def check_stored(config, data_dir) -> None:
    """UserError where the model cannot take the features of `data_dir`, because its front end is another one.

    Compared with feats.yaml; where there is none, with Kaldi's defaults, as nothing tells rate and mel channels. The
    frames must be as many as utt2dur says, where both are known. How many mel channels there are is seen in reading.
    """
    path, made = os.path.join(data_dir, "feats.scp"), read_made(data_dir)
    differ = _other_settings(config, made or BY_OTHERS)
    if differ:
        theirs = f"log-mels of {said(made, differ)}" if made else "Kaldi's log-mels"
        raise UserError(f"{path}: holds {theirs}, but the model takes others ({said(vars(config), differ)}): "
                        "read the waveforms instead, with input wav")
    check_frames(data_dir)


def _other_settings(config, made: dict) -> list[str]:
    """Which of the settings that stored features were made with the model cannot take."""
    done = ("mean_normalize", "variance_normalize")     # what the model does anyway may have been done before
    return [name for name, value in made.items()
            if (value and not getattr(config, name) if name in done else value != getattr(config, name))]
