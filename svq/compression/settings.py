"""How a network is quantized and finetuned for a target size: the config that the recipe's steps take."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import yaml

from svq.atomic import atomic_write
from svq.config import from_dict
from svq.errors import UserError

# torch, which takes seconds to load, is imported where a network is looked at.
FINETUNED = (1, 2, 3, 4, 5, 6, 8)
UNTRAINED = (2, 3, 4, 5, 6, 8)  # one bit, not finetuned, destroys a network


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the user may choose. finetune: whether the quantized network is trained. candidates: bits to choose from.

    method, per_channel: see svq.quant.QuantConfig; per_channel None is not decided yet. Empty candidates: FINETUNED or
    UNTRAINED. K-means levels are fitted to all weights: with a tenth left out, as in the paper (retention 0.9), a
    network that is not finetuned is destroyed, and one that is starts from there.
    """

    finetune: bool
    labelled: bool
    target_bytes: int
    utterances: int
    method: str = "kmqat"
    per_channel: bool | None = None
    candidates: tuple[int, ...] = ()
    epochs: int = 4
    lr: float = 3e-4
    crop_seconds: float = 2.0
    batch_size: int = 32
    margin: float = 0.2
    seed: int = 1
    num_threads: int = 2

    @property
    def bits(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.candidates or (FINETUNED if self.finetune else UNTRAINED))))

    @property
    def reserve(self) -> int:
        """Bytes of the target that are left free: finetuning may move a batch norm out of what half precision holds."""
        return self.target_bytes // 1000 if self.finetune else 0

    def quant(self) -> dict:
        """The `quant` part of the config."""
        found = {"method": self.method, "per_channel": self.per_channel is not False}
        if self.method == "kmqat":
            found["retention"] = 1.0
        if 1 in self.bits:
            found["binary"] = "adaptive"
        return found

    def tree(self) -> dict:
        """The config as svq.bin.train, quantize and allocate read it; nothing about the model, which is given."""
        found = {
            "data": {"input": "wav", "crop_seconds": self.crop_seconds, "num_workers": 1},
            "schedule": {"lr": self.lr, "final_lr": self.lr / 100, "warmup_epochs": 0.2, "decay": "exponential",
                         "margin": self.margin, "margin_start_epoch": 0, "margin_full_epoch": 0},
            "optimizer": {"name": "adamw", "weight_decay": 0.05, "scale_lr": 0.1},
            "scale": 32, "epochs": self.epochs, "batch_size": min(self.batch_size, self.utterances), "average": 1,
            "seed": self.seed, "num_threads": self.num_threads,
            "quant": self.quant(),
            "allocate": {"candidates": list(self.bits), "bytes": self.target_bytes, "reserve": self.reserve},
        }
        if self.finetune:
            found["distill"] = {"embedding_weight": 10.0, "label_weight": 1.0 if self.labelled else 0.0}
        return found

    def check(self, where="compress") -> None:
        """UserError for a value out of range."""
        from svq.train.config import TrainConfig

        from_dict(self.tree(), TrainConfig, where)


def target_bytes(megabytes: str) -> int:
    """10^6 bytes, exactly as written in decimal; UserError unless positive."""
    try:
        size = int(Fraction(megabytes) * 10**6)
    except (ValueError, ZeroDivisionError):
        size = 0
    if size < 1:
        raise UserError(f"--target-mb {megabytes}: must be a positive number, in 10^6 bytes")
    return size


def fitting(net, model, settings: Settings) -> Settings:
    """`settings` with `per_channel` decided: a codebook for each channel where the target has room for them.

    net: the float network. model: its ModelConfig. UserError where no packed file can be as small, or the float
    network is no larger.
    """
    from svq.quant import QuantConfig
    from svq.quant.packing import packed_bytes

    target = settings.target_bytes
    whole = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if target >= whole:
        raise UserError(f"--target-mb: {target:,} bytes have room for the float network, {whole:,} bytes: nothing is "
                        "to be compressed; lower the target")
    lowest = settings.bits[0]
    for per_channel in (True, False) if settings.per_channel is None else (settings.per_channel,):
        settings = dataclasses.replace(settings, per_channel=per_channel)
        quant = from_dict(settings.quant(), QuantConfig, "compress", "quant.")
        smallest = packed_bytes(net, dataclasses.replace(quant, bits=lowest), model) + settings.reserve
        if smallest <= target:
            return settings
    finer = "; 1 bit is possible with finetuning" if lowest > 1 and not settings.finetune else ""
    raise UserError(f"--target-mb: a file of {target:,} bytes cannot be met: the smallest, with {lowest} bits for "
                    f"every layer, has {smallest:,} bytes; raise the target to {-(-smallest // 10**4) / 100:g}{finer}")


def write_settings(path, settings: Settings) -> None:
    """Writes the config; its values are checked where it is read."""
    with atomic_write(path) as file:
        file.write("# Written by utils/compress.sh.\n")
        yaml.safe_dump(settings.tree(), file, sort_keys=False, default_flow_style=None, width=110)
