"""Networks on disk: `config.yaml` + `model.safetensors`, or one packed `model.svq`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from svq import nets
from svq.config import check_choices, dump_config, load_config, to_dict
from svq.errors import UserError
from svq.quant import QuantConfig, quantize_
from svq.quant.batchnorm_fold import drop_folded_
from svq.quant.nested_members import at_precision_, member_config
from svq.tensors import load_state, load_tensors, save_tensors


@dataclass(frozen=True)
class FrontEndConfig:
    """What turns a recording into the network's input: svq.data.frontend.

    rate: samples per second. num_mels: log-mel channels.
    mean_normalize: whether each utterance's mean over time is taken off every channel.
    variance_normalize: whether every channel is then divided by its standard deviation over the utterance.
    fbank: whose definition of log-mels: kaldi, speechbrain (decibels, floor 80 dB under the peak) or clova
        (torchaudio's mel spectrogram, log(x + 1e-6)).
    window: povey or hamming. full_scale: what a sample at full scale counts, 32768 for 16-bit numbers.
    preemphasis: what part of the sample before is taken off each one.
    These three are by default what belongs to `fbank`: Kaldi's are povey, 32768 and 0.97, the others' hamming, 1 and 0.
    """

    rate: int = 16000
    num_mels: int = 80
    mean_normalize: bool = True
    variance_normalize: bool = False
    fbank: Literal["kaldi", "speechbrain", "clova"] = "kaldi"
    window: Literal["povey", "hamming"] | None = None
    full_scale: float | None = None
    preemphasis: float | None = None

    def __post_init__(self):
        check_choices(self)
        own = (("povey", 32768.0, 0.97) if self.fbank == "kaldi" else ("hamming", 1.0, 0.0))
        for name, value in zip(("window", "full_scale", "preemphasis"), own):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, least, most in (("rate", 1_000, 768_000), ("num_mels", 1, 1024)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between {least} and {most}")
        if self.fbank != "kaldi" and self.window != "hamming":
            raise ValueError(f"window is {self.window}; fbank {self.fbank} takes hamming only")
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


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a network and feed it. `net` holds the options of `arch`.

    folded: batch norms that were folded into the layer before them: name of the norm -> name of the layer.
    """

    arch: str = "ResNet34"
    net: dict = field(default_factory=dict)
    embed_dim: int = 256
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    quant: QuantConfig | None = None
    folded: dict | None = None

    def __post_init__(self):
        if not 1 <= self.embed_dim <= 1 << 20:
            raise ValueError(f"embed_dim is {self.embed_dim}; it must be between 1 and {1 << 20}")

    def build(self) -> nn.Module:
        """The float network, initialised from torch's global random state."""
        net = nets.build(self.arch, self.front_end.num_mels, self.embed_dim, **self.net)
        return drop_folded_(net, self.folded) if self.folded else net


def save_model(folder, net: nn.Module, config: ModelConfig) -> None:
    """Writes `folder/model.safetensors` and `folder/config.yaml`, the weights last."""
    dump_config(config, os.path.join(folder, "config.yaml"))
    save_tensors(os.path.join(folder, "model.safetensors"), net.state_dict())


def load_model(path, precision: int | None = None) -> tuple[nn.Module, ModelConfig]:
    """The network at `path`, in eval mode, and its config.

    `path`: a folder with config.yaml and model.safetensors (float or quantization-aware), or a packed
    `.svq` file. The network maps features (B, T, F) to embeddings (B, D).
    precision: of a nested model, the bits wanted; network and config are then those of that precision alone. Without it
        a folder gives the nested network, set to its highest precision, and a packed file the highest one alone.
    Raises UserError for a missing or damaged file, for tensors that do not fit the config, for a precision that the
    model has not.
    """
    path = os.fspath(path)
    if path.endswith(".svq"):
        from svq.quant.packing import load_packed

        return load_packed(path, precision)
    if not os.path.isdir(path):
        raise UserError(f"{path}: neither a model folder nor a .svq file")
    config = load_config(os.path.join(path, "config.yaml"), ModelConfig)
    net = config.build()
    if config.quant is not None:
        quantize_(net, config.quant)
    load_state(net, load_tensors(os.path.join(path, "model.safetensors")), path)
    if precision is not None:
        config = replace(config, quant=member_config(config.quant, precision, path))
        at_precision_(net, precision)
    return net.eval(), config
