"""The front end: turns waveforms into a network's input, for extraction, training and measurements alike.

A model's `FrontEndConfig` chooses the features. Networks trained here take Kaldi's log-mels; networks
that svq.bin.import_checkpoint brings in take the features that their makers trained them with.
"""

from __future__ import annotations

import os

import torch
from torch import nn

from svq.data.fbank import CENTRED_FBANKS, Fbank, mean_normalize
from svq.data.front_end_config import VARIANCE_FLOOR as VARIANCE_FLOOR
from svq.data.front_end_config import FrontEndConfig as FrontEndConfig  # users take it from here
from svq.data.mels import HOP_MS, INT16_SCALE, LEAST_LEVEL, PREEMPHASIS
from svq.data.stored import check_frames, read_made, said
from svq.errors import UserError

# The settings assumed for features without feats.yaml: those of other toolkits or made by an older svq.
BY_OTHERS = {"fbank": "kaldi", "window": "povey", "full_scale": INT16_SCALE, "preemphasis": PREEMPHASIS, "high_hz": 0.0,
             "snip_edges": True, "hop_ms": HOP_MS, "waveform_normalize": False, "least_dbfs": None}


class FrontEnd(nn.Module):
    """A front end: waveforms (B, T) float in [-1, 1] -> features (B, frames, num_mels) float32, normalised.

    `bank` is the filter bank without the normalization; it has `shortest`, the fewest
    samples that it takes, and `num_frames(samples)`. Gradients do not flow through.
    """

    def __init__(self, config):
        super().__init__()
        self.config, self.bank = config, filter_bank(config)

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.normalize(self.bank(loud_enough(waveforms, self.config.least_dbfs)))

    @torch.no_grad()
    def normalize(self, feats: torch.Tensor) -> torch.Tensor:
        """Subtracts from log-mels (B, T, F) each utterance's mean, and divides by its deviation, as the config says."""
        if self.config.mean_normalize:
            feats = mean_normalize(feats)
        if self.config.variance_normalize:
            variance = feats.var(dim=1, correction=0, keepdim=True)
            feats = feats / (variance + VARIANCE_FLOOR).sqrt()
        return feats


def loud_enough(waveforms: torch.Tensor, least_dbfs: float | None) -> torch.Tensor:
    """Amplifies each of the waveforms (B, T) whose level is below `least_dbfs`, in dB of full scale, to that level.

    The level is that of the root mean square. None leaves all as they are.
    """
    if least_dbfs is None:
        return waveforms
    level = waveforms.square().mean(dim=1, keepdim=True).sqrt()
    return waveforms * (10 ** (least_dbfs / 20) / level.clamp(min=LEAST_LEVEL)).clamp(min=1)


def filter_bank(config) -> nn.Module:
    """Makes the filter bank of a `FrontEndConfig`: waveforms (B, T) -> log-mels (B, frames, num_mels)."""
    if config.fbank == "kaldi":
        return Fbank(config.num_mels, config.rate, config.window, config.full_scale, config.preemphasis,
                     config.high_hz, config.snip_edges)
    return CENTRED_FBANKS[config.fbank](config.num_mels, config.rate, config.full_scale, config.preemphasis,
                                        config.hop_ms, config.waveform_normalize)


def takes_stored(config, data_dir) -> bool:
    """Says whether a model of front end `config` can take the feats.scp of a data directory, by feats.yaml.

    Without feats.yaml, Kaldi's defaults are assumed (BY_OTHERS); see `check_stored`.
    """
    return not _other_settings(config, read_made(data_dir) or BY_OTHERS)


def check_stored(config, data_dir) -> None:
    """Raises UserError where a model of front end `config` cannot take the features of `data_dir`.

    `config` is compared with feats.yaml, or without one with Kaldi's defaults; nothing then tells rate and mel
    channels. The number of frames must fit utt2dur, where both are known. The number of mel channels shows when
    features are read.
    """
    path, made = os.path.join(data_dir, "feats.scp"), read_made(data_dir)
    differ = _other_settings(config, made or BY_OTHERS)
    if differ:
        theirs = f"log-mels of {said(made, differ)}" if made else "Kaldi's log-mels"
        raise UserError(f"{path}: holds {theirs}, but the model takes others ({said(vars(config), differ)}): "
                        "read the waveforms instead, with input wav")
    check_frames(data_dir)


def _other_settings(config, made: dict) -> list[str]:
    """Lists the settings in `made`, those of stored features, that a model of front end `config` cannot take."""
    done = ("mean_normalize", "variance_normalize")     # the model may repeat these on features that have had them
    return [name for name, value in made.items()
            if (value and not getattr(config, name) if name in done else value != getattr(config, name))]
