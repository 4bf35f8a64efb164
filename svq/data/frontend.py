"""What turns waveforms into a network's input: one module for extraction, training and measurements alike.

A model's `svq.models.FrontEndConfig` says which. Networks trained here take Kaldi's log-mels, those that
svq.bin.import_checkpoint brings in take what their makers trained them with.
"""

from __future__ import annotations

import os

import torch
from torch import nn

from svq.data.fbank import INT16_SCALE, PREEMPHASIS, Fbank, mean_normalize
from svq.data.stft_fbank import ClovaFbank, SpeechBrainFbank
from svq.errors import UserError

VARIANCE_FLOOR = 1e-5


class FrontEnd(nn.Module):
    """Waveforms (B, T) float in [-1, 1] -> features (B, frames, num_mels) float32, normalised; no gradients.

    config: a `svq.models.FrontEndConfig`. `bank` is the filter bank without the normalization, with `length`, the
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
    """The filter bank of a `svq.models.FrontEndConfig`."""
    if config.fbank == "kaldi":
        return Fbank(config.num_mels, config.rate, config.window, config.full_scale, config.preemphasis)
    kind = {"speechbrain": SpeechBrainFbank, "clova": ClovaFbank}[config.fbank]
    return kind(config.num_mels, config.rate, config.full_scale, config.preemphasis)


def takes_stored(config) -> bool:
    """Whether feats.scp, as svq.bin.make_fbank writes it, holds what `config` gives before the normalization."""
    found = (config.fbank, config.window, config.full_scale, config.preemphasis)
    return found == ("kaldi", "povey", INT16_SCALE, PREEMPHASIS)


def check_stored(config, data_dir) -> None:
    """UserError where the model cannot take the features of `data_dir`, because its front end is another one."""
    if not takes_stored(config):
        kind = f"fbank {config.fbank}, window {config.window}, full_scale {config.full_scale:g}, " \
               f"preemphasis {config.preemphasis:g}"
        raise UserError(f"{os.path.join(data_dir, 'feats.scp')}: holds Kaldi's log-mels, but the model takes others "
                        f"({kind}): read the waveforms instead, with input wav")
