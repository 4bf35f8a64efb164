"""Speech that is none, and trainings on it: what the checks of a GPU share."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from svq.config import from_dict
from svq.data.augment import Drawn
from svq.data.fbank import num_samples
from svq.train.config import TrainConfig
from svq.train.distributed import World
from svq.train.loop import Trainer
from svq.train.objective import AAMSoftmax, Objective


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the networks and batches are that are checked, and those that are measured."""

    checked: tuple[str, dict]                # architecture and its options
    batch: int
    frames: int
    measured: tuple[tuple[str, str, dict], ...]  # name, architecture, options
    big_batch: int
    big_frames: int
    speakers: int


FULL = Size(("ResNet18", {"width": 16}), 16, 200,
            (("ResNet34 w32", "ResNet34", {"width": 32}), ("ECAPA-1024", "ECAPA1024", {})), 256, 200, 5994)
TOY = Size(("FCStudent", {"width": 16, "layers": 2, "splice": 3}), 8, 20,
           (("ResNet18 w4", "ResNet18", {"width": 4}), ("student", "FCStudent", {"width": 16, "layers": 2})), 4, 20, 20)


class Speech:
    """Stands for a svq.data.dataset.TrainSet: buzzes whose pitch belongs to the speaker, and noise. A quarter of them get a
    room and a quarter noise where `augmented`."""

    input, data_dir, targets, shards, rate, seed = "wav", "synthetic", None, None, 16000, 1

    def __init__(self, speakers: int, utterances: int, frames: int, augmented: bool = False):
        self.num_speakers, self.count, self.frames, self.augmented = speakers, utterances, frames, augmented
        self.samples = num_samples(frames)

    def __len__(self) -> int:
        return self.count

    def utterance(self, index: int) -> str:
        return f"utt{index}"

    def item(self, epoch: int, index: int) -> tuple:
        speaker, rng = index % self.num_speakers, np.random.default_rng([epoch, index])
        t = np.arange(self.samples) / self.rate
        buzz = sum(np.sin(2 * np.pi * (90 + 7 * speaker) * k * t + rng.uniform(0, 6)) / k for k in range(1, 6))
        wav = (0.1 * buzz + 0.02 * rng.standard_normal(self.samples)).astype(np.float32)
        if not self.augmented:
            return wav, speaker
        drawn = Drawn()
        if index % 4 == 1:
            drawn = Drawn(response=(rng.standard_normal(8000) * np.exp(-np.arange(8000) / 900)).astype(np.float32))
        elif index % 4 == 3:
            drawn = Drawn(None, rng.standard_normal(self.samples).astype(np.float32), 10.0)
        return (wav, drawn), speaker


def config_of(arch: str, net: dict, batch: int, frames: int, **others) -> TrainConfig:
    """Settings of a training as the recipes have them, without what reads recordings."""
    tree = {"model": {"arch": arch, "net": net, "embed_dim": 32 if net.get("width", 99) < 32 else 256},
            "data": {"crop_seconds": frames / 100, "num_workers": 0},
            "spec_augment": {"prob": 0.6}, "batch_size": batch, "epochs": 3, "average": 1, "precision": "fp32", "num_threads": 1,
            "schedule": {"lr": 0.002, "final_lr": 0.001, "warmup_epochs": 1, "margin_start_epoch": 1, "margin_full_epoch": 2}}
    return from_dict(tree | others, TrainConfig)


def trainer_of(config: TrainConfig, speech: Speech, folder, device: torch.device, world: World | None = None,
               quant=None) -> Trainer:
    """A training from the weights of seed 1, quantized where `quant` says how."""
    from svq.quant import quantize_

    torch.manual_seed(1)
    net = config.model.build()
    if quant is not None:
        quantize_(net, quant)
    objective = Objective(net, AAMSoftmax(config.model.embed_dim, speech.num_speakers, config.scale))
    return Trainer(config, objective, speech, folder, "check", world or World(device=device))


def losses(trainer: Trainer) -> np.ndarray:
    """Of the curves of a training, a number for each row."""
    return np.array([row[4] for row in trainer.curves.rows])


def settled(net: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """`net` with running statistics that fit noise, so that it gives embeddings that differ; in eval mode."""
    net.to(device).train()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _ in range(10):
            net(torch.randn(8, 60, 80, generator=generator).to(device))
    return net.eval()
