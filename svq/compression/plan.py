"""Decides how a network is quantized and finetuned for a target size, before anything is made.

The plan says how the network is finetuned and which objective gives layers their bits. The settings become the configs
that the recipe's steps take.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Literal

import yaml

from svq.atomic import atomic_write
from svq.compression.inputs import Speech
from svq.config import check_choices, from_dict
from svq.errors import UserError
from svq.numbers import number

# torch takes seconds to load, so functions import it where they look at a network.
METHODS = ("kmqat", "uniform", "pot", "apot", "integer")
CANDIDATES = (1, 2, 3, 4, 5, 6, 8)
CALIBRATION_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """The user's settings for a compression.

    target_bytes: largest size of the packed file. utterances: how many there are to calibrate and finetune on.
    finetune: what the quantized network learns. candidates: bits to choose from; none given: 1 to 8. 1 is left out then
    without calibration and finetuning, because rounding to one bit destroys a network, and for `integer`, which has no
    such grid. method, per_channel: see svq.quant.QuantConfig; per_channel None: not decided yet. steps: of finetuning,
    about, since only whole epochs are trained; `epochs` above 0 goes before it.
    """

    target_bytes: int
    utterances: int
    finetune: Literal["none", "embedding", "labels"] = "embedding"
    calibrate: bool = True
    method: str = "kmqat"
    per_channel: bool | None = None
    candidates: tuple[int, ...] = ()
    calibration_utts: int = 128
    steps: int = 400
    epochs: int = 0
    lr: float = 3e-4
    crop_seconds: float = 1.5
    batch_size: int = 32
    margin: float = 0.2
    seed: int = 1
    num_threads: int = 2

    def __post_init__(self):
        check_choices(self)

    @property
    def fitted(self) -> bool:
        """Whether the quantized network is fitted to speech: calibrated, finetuned or both."""
        return self.calibrate or self.finetune != "none"

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits that a layer may get, ascending: the candidates, or those that the method works at."""
        lowest = 1 if self.fitted and self.method != "integer" else 2
        return tuple(sorted(set(self.candidates or (bits for bits in CANDIDATES if bits >= lowest))))

    @property
    def made(self) -> tuple[str, ...]:
        """The names of the steps that are taken; each has a folder of its own."""
        return ("rounded", *["calibrated"] * self.calibrate, *["finetuned"] * (self.finetune != "none"))

    @property
    def reserve(self) -> int:
        """Bytes of the target that are left free, because a batch norm may leave the range of half precision."""
        return self.target_bytes // 1000 if self.fitted else 0

    def quant(self) -> dict:
        """Gives the `quant` part of the configs, a dict."""
        found = {"method": self.method, "per_channel": self.per_channel is not False}
        if self.method == "integer":
            found |= {"scheme": "affine", "range": "mse"}
        elif 1 in self.bits:
            found["binary"] = "adaptive"
        return found

    def tree(self, step: str) -> dict:
        """Gives the config of a step, a dict without the model. The config of `rounded` also allocates the bits."""
        found = {"quant": self.quant(), "seed": self.seed, "num_threads": self.num_threads}
        if step == "rounded":
            found["allocate"] = {"candidates": list(self.bits), "bytes": self.target_bytes, "reserve": self.reserve}
        if step == "calibrated":
            found["ptq"] = {"calibrate": True, "utterances": self.calibration_utts, "crop_seconds": CALIBRATION_SECONDS}
        if step == "finetuned":
            found |= self._finetuning()
        return found

    def _finetuning(self) -> dict:
        """Gives the training part of the config of `finetuned`.

        A calibrated network that learns embeddings alone starts near to them. Statistics of single batches and weight
        decay would lead it away, so it has neither.
        """
        batch, near = min(self.batch_size, self.utterances), self.calibrate and self.finetune == "embedding"
        found = {
            "data": {"input": "wav", "crop_seconds": self.crop_seconds, "num_workers": 1},
            "schedule": {"lr": self.lr, "final_lr": self.lr / (10 if near else 100), "warmup_epochs": 0.2,
                         "decay": "exponential", "margin": self.margin, "margin_start_epoch": 0,
                         "margin_full_epoch": 0},
            "optimizer": {"name": "adamw", "weight_decay": 0.0 if near else 0.05, "scale_lr": 0.1},
            "scale": 32, "epochs": self.epochs or max(1, round(self.steps / (self.utterances // batch))),
            "batch_size": batch, "average": 1,
            "distill": {"embedding_weight": 10.0, "label_weight": 1.0 if self.finetune == "labels" else 0.0},
        }
        return found | ({"freeze_batch_norm": True} if near else {})

    def check(self) -> None:
        """Checks the configs of all steps; UserError for a value out of range."""
        from svq.train.config import TrainConfig

        if self.method == "integer" and 1 in self.bits:
            raise UserError("--candidates: method integer quantizes to 2 bits or more; leave 1 out")
        for step in self.made:
            from_dict(self.tree(step), TrainConfig, "compress")


def most_utterances(steps: int, epochs: int, batch_size: int) -> int | None:
    """Computes how many recordings `steps` steps of finetuning see at most; None, any number, where epochs are given.

    UserError for a number out of range.
    """
    for name, value, lowest in (("steps", steps, 1), ("epochs", epochs, 0), ("batch-size", batch_size, 1)):
        if value < lowest:
            raise UserError(f"--{name} {value}: must be at least {lowest}")
    return None if epochs else steps * batch_size


def target_bytes(megabytes: str) -> int:
    """Converts megabytes (10^6 bytes), a decimal number as text, exactly to bytes; UserError unless positive."""
    try:
        number(megabytes)
        size = int(Fraction(megabytes) * 10**6)
    except ValueError:
        size = 0
    if size < 1:
        raise UserError(f"--target-mb {megabytes}: must be a positive number, in 10^6 bytes")
    return size


def fitting(net, model, settings: Settings) -> Settings:
    """Decides `per_channel` where the user has not, and checks that the target size can be met; gives the settings.

    Plain rounding gets a codebook for each channel where the target has room for them. A network fitted to speech gets
    one for each layer, which does as well there. net: the float network. model: its ModelConfig. UserError where no
    packed file can be as small, or where the float network is no larger than the target.
    """
    from svq.pack.file import packed_bytes
    from svq.quant import QuantConfig

    target = settings.target_bytes
    whole = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if target >= whole:
        raise UserError(f"--target-mb: the float network has {whole:,} bytes and fits into {target:,} as it is; lower "
                        "the target")
    lowest = settings.bits[0]
    either = (False,) if settings.fitted else (True, False)
    for per_channel in either if settings.per_channel is None else (settings.per_channel,):
        settings = dataclasses.replace(settings, per_channel=per_channel)
        quant = from_dict(settings.quant(), QuantConfig, "compress", "quant.")
        smallest = packed_bytes(net, dataclasses.replace(quant, bits=lowest), model) + settings.reserve
        if smallest <= target:
            return settings
    finer = "; with --calibrate true, 1 bit is possible" if not settings.fitted and settings.method != "integer" else ""
    raise UserError(f"--target-mb: a file of {target:,} bytes cannot be met: the smallest, with {lowest} bits for "
                    f"every layer, has {smallest:,} bytes; raise the target to {-(-smallest // 10**4) / 100:g}"
                    f"{finer if lowest > 1 else ''}")


def config_path(folder, step: str) -> Path:
    """Gives the path of a step's config in the folder of a compression."""
    return Path(folder) / "conf" / f"{step}.yaml"


def write_settings(folder, settings: Settings) -> None:
    """Writes the configs of all steps into the folder of a compression; whoever reads them checks their values."""
    for step in settings.made:
        with atomic_write(config_path(folder, step)) as file:
            file.write("# Written by steps/compress.sh.\n")
            yaml.safe_dump(settings.tree(step), file, sort_keys=False, default_flow_style=None, width=110)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a compression. finetune: none, embedding or labels. objective: of the sensitivities. head: the
    classifier's origin: own, fitted or none. per_channel: whether each channel has a codebook."""

    finetune: str
    objective: str
    head: str
    per_channel: bool


def finetuning(asked: str, speech: Speech, data, batch_size: int) -> str:
    """Decides how the network is finetuned: none, embedding or labels.

    asked: one of these, or auto, true, false. data: the speech's data directory, for messages. UserError where `speech`
    is too little for what is asked.
    """
    if asked == "auto":
        if speech.utterances >= batch_size:
            return "embedding"
        print(f"{data}: {speech.utterances} recordings do not fill a batch of {batch_size}: not finetuned",
              file=sys.stderr)
        return "none"
    kind = {"true": "labels" if speech.labelled else "embedding", "false": "none"}.get(asked, asked)
    if kind == "labels" and not speech.labelled:
        raise UserError(f"{data}/utt2spk: {speech.utterances} utterances of {len(speech.speakers)} speakers are no "
                        "labels to finetune with; take --finetune embedding")
    if kind != "none" and speech.utterances < 2:
        raise UserError(f"{data}: a single recording is too little to finetune on; take --finetune none")
    return kind


def make_plan(settings: Settings, speech: Speech, objective: str, model, origin: str, options) -> Plan:
    """Makes the plan of a compression, and checks it.

    objective: auto, labels or embedding. model, origin, options: see `starting_point`. UserError for a size that cannot
    be met, for values out of range, and for labels of a single speaker.
    """
    settings.check()
    per_channel = fitting(*starting_point(model, origin, options), settings).per_channel
    if objective == "auto":
        objective = "labels" if settings.finetune == "labels" else "embedding"
    if objective == "labels" and len(speech.speakers) < 2:
        raise UserError("--objective labels needs two speakers or more in --data; take embedding")
    head = "none"
    if "labels" in (objective, settings.finetune):
        head = "own" if has_head_of(model, origin, speech) else "fitted"
    return Plan(settings.finetune, objective, head, per_channel)


def starting_point(model, origin: str, options=None):
    """Loads the float network that is to be compressed; gives it and its ModelConfig.

    origin: the toolkit of the checkpoint `model`, read with `options` (svq.importing.Options), or svq for a model
    folder. UserError for a model that cannot be read or is quantized already.
    """
    from svq.models import load_model, merge_branches_

    if origin != "svq":
        from svq.importing import import_checkpoint

        found = import_checkpoint(model, origin, None, options)
        return found.net, merge_branches_(found.net, found.config)

    if not os.path.isdir(model):
        raise UserError(f"{model}: --from svq takes the folder of a float model, with config.yaml and "
                        "model.safetensors")
    net, config = load_model(model)
    if config.quant is not None:
        raise UserError(f"{model}: is quantized already; compress the float model that it was made from")
    return net, config


def has_head_of(model, origin: str, speech: Speech) -> bool:
    """Says whether the model folder `model` has a classifier for exactly the speakers of `speech`."""
    from svq.train.folders import read_speakers

    if origin != "svq" or not os.path.exists(os.path.join(model, "head.safetensors")):
        return False
    return read_speakers(model) == speech.speakers
