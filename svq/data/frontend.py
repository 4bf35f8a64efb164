"""What turns waveforms into a network's input: one module for extraction, training and measurements alike.

A model's `FrontEndConfig` says which. Networks trained here take Kaldi's log-mels, those that
svq.bin.import_checkpoint brings in take what their makers trained them with.
"""

from __future__ import annotations

import os

import torch
from torch import nn

from svq.data.fbank import ClovaFbank, Fbank, SpeechBrainFbank, mean_normalize
from svq.data.front_end_config import VARIANCE_FLOOR as VARIANCE_FLOOR
from svq.data.front_end_config import FrontEndConfig as FrontEndConfig  # users take it from here
from svq.data.mels import INT16_SCALE, PREEMPHASIS
from svq.data.stored import check_frames, read_made, said
from svq.errors import UserError

# What features without feats.yaml, of other toolkits or made by an older svq, are taken to be made with.
BY_OTHERS = {"fbank": "kaldi", "window": "povey", "full_scale": INT16_SCALE, "preemphasis": PREEMPHASIS, "high_hz": 0.0,
             "snip_edges": True}


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
