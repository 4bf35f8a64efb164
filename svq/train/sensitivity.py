"""Losses on crops of a data directory, for the measurement of sensitivities, and a checkpoint of the samples so far.

svq.bits.sensitivity measures; svq.bin.sensitivity puts both together.
"""

from __future__ import annotations

import itertools
import os

import torch
import torch.nn.functional as F
from torch import nn

from svq.atomic import remove_leftovers
from svq.data.dataset import EpochBatches, TrainSet, make_loader
from svq.data.frontend import FrontEnd, FrontEndConfig, check_stored
from svq.errors import UserError
from svq.train.checkpoint import load_checkpoint, save_checkpoint
from svq.train.objective import AAMSoftmax, Objective


class Crops(nn.Module):
    """Base of functions of a batch of crops as `TrainSet` gives them; computes their features."""

    def __init__(self, front_end: FrontEndConfig, train_set: TrainSet, device):
        super().__init__()
        if train_set.input == "feats":
            check_stored(front_end, train_set.data_dir)
        self.front_end = FrontEnd(front_end)
        self.train_set, self.device = train_set, device

    def features(self, inputs: torch.Tensor) -> torch.Tensor:
        """Computes the network's input (B, T, F) from crops (B, samples) or stored features (B, T, F).

        Raises UserError for stored features of another size than the model takes.
        """
        inputs = inputs.to(self.device)
        if self.train_set.input == "wav":
            return self.front_end(inputs)
        num_mels = self.front_end.config.num_mels
        if inputs.shape[-1] != num_mels:
            raise UserError(f"{self.train_set.data_dir}/feats.scp: features of {inputs.shape[-1]} dimensions, the model "
                            f"takes {num_mels}; make them with the model's front end")
        return self.front_end.normalize(inputs)


class LabelLoss(Crops):
    """The classification loss (scalar) of a batch of crops."""

    def __init__(self, net, head: AAMSoftmax, front_end, train_set, margin: float, device):
        super().__init__(front_end, train_set, device)
        self.objective, self.margin = Objective(net, head), margin
        self.to(device)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        inputs, labels = batch
        return self.objective(self.features(inputs), labels.to(self.device), self.margin)[0]


class Embeddings(Crops):
    """The network's embeddings (B, D) of a batch of crops, at length 1.

    Half the squared distance of two embeddings is one minus their cosine: the loss whose Hessian is measured.
    """

    def __init__(self, net, front_end, train_set, device):
        super().__init__(front_end, train_set, device)
        self.net = net
        self.to(device)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.normalize(self.net(self.features(batch[0])).float())


def endless_batches(train_set: TrainSet, batch_size: int, seed: int, first: int):
    """Yields batches without end, from number `first` on; as in training, every epoch has new crops in a new order."""
    epoch, start = divmod(first, len(EpochBatches(len(train_set), batch_size, seed, 0)))
    for epoch in itertools.count(epoch):
        batches = EpochBatches(len(train_set), batch_size, seed, epoch, start_batch=start)
        yield from make_loader(train_set, batches, epoch, num_workers=0)
        start = 0


class Checkpoint:
    """A file with the samples so far; those of another run are not taken up."""

    def __init__(self, path: str, run_id: str):
        self.path, self.run_id = path, run_id

    def load(self) -> dict[str, list[float]] | None:
        """Reads the samples of each layer from the checkpoint; None where there is none of this run, saying so."""
        remove_leftovers(self.path)
        state = load_checkpoint(self.path)
        if state is None:
            return None
        if state["run_id"] != self.run_id:
            print(f"{self.path} belongs to another model, other data or options: starting anew", flush=True)
            return None
        print(f"resuming from {self.path}", flush=True)
        return state["samples"]

    def save(self, samples: dict[str, list[float]]) -> None:
        """Writes the samples of each layer, whole or not at all."""
        save_checkpoint(self.path, {"run_id": self.run_id, "samples": samples})

    def remove(self) -> None:
        """Removes the checkpoint."""
        if os.path.exists(self.path):
            os.unlink(self.path)
