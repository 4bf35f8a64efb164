"""LDE aggregation: a learned dictionary that turns the frames of several layers of a teacher into one vector."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import nn

from svq.config import dump_config, load_config
from svq.distill.levels import Level, LevelOutputs
from svq.errors import UserError
from svq.nets import LARGEST_WIDTH
from svq.nets.pooling import LearnableDictionaryEncoding
from svq.network import load_state, load_tensors, save_tensors

WEIGHTS, CONFIG = "aggregation.safetensors", "aggregation.yaml"


@dataclass(frozen=True)
class AggregationConfig:
    """Config of a saved aggregation: its level and layers, its teacher (digest of the weights), and its sizes."""

    level: str
    layers: tuple[str, ...]
    teacher: str
    inputs: int
    channels: int
    components: int
    dim: int

    def __post_init__(self):
        for name in ("inputs", "channels", "components", "dim"):
            if not 1 <= getattr(self, name) <= LARGEST_WIDTH:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 1 and {LARGEST_WIDTH}")

    @property
    def numbers(self) -> int:
        """The number of entries of its matrices."""
        return self.channels * (self.inputs + self.components * self.dim)

    def build(self) -> "Aggregation":
        """Makes the dictionary, with random weights."""
        return Aggregation(self.inputs, self.channels, self.components, self.dim)


class Aggregation(nn.Module):
    """An affine map to `channels`, learnable dictionary encoding and a linear map: frames (B, C, T) -> (B, dim).

    Learnable dictionary encoding: Cai, Chen, Li, "Exploring the encoding layer and loss function in end-to-end
    speaker and language recognition system", Odyssey 2018. They encode 128 channels in 64 components. The thousands of
    channels of several layers together would make the last map a hundred times as large, hence the first map.
    """

    def __init__(self, inputs: int, channels: int = 128, components: int = 64, dim: int = 512):
        super().__init__()
        self.reduce = nn.Conv1d(inputs, channels, 1)
        self.encoding = LearnableDictionaryEncoding(channels, components)
        self.embedding = nn.Linear(channels * components, dim)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.encoding(self.reduce(frames)))


class AggregatingTeacher(nn.Module):
    """A frozen teacher with an aggregation that is trained: features (B, T, F) -> (B, dim).

    The teacher is not in the module's state: only the aggregation is trained, averaged and saved.
    """

    def __init__(self, outputs: LevelOutputs, level: Level, aggregation: Aggregation):
        super().__init__()
        self.aggregation, self.level = aggregation, level
        self.frozen = [outputs]  # in a list: not registered as a module

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        return self.aggregation(self.frozen[0].frames(feats, self.level))

    def _apply(self, fn, *args, **kwargs):
        self.frozen[0]._apply(fn, *args, **kwargs)  # so that the teacher, too, moves to the device
        return super()._apply(fn, *args, **kwargs)


def save_aggregation(folder, aggregation: Aggregation, config: AggregationConfig) -> None:
    """Writes an aggregation to `folder/aggregation.yaml` and, last, `folder/aggregation.safetensors`."""
    dump_config(config, os.path.join(folder, CONFIG))
    save_tensors(os.path.join(folder, WEIGHTS), aggregation.state_dict())


def load_aggregation(folder, level: Level, teacher: str) -> Aggregation:
    """Loads the aggregation in `folder`, in eval mode.

    Raises UserError where it is missing or damaged, and where it is not for the layers of `level` and the teacher with
    the digest `teacher`.
    """
    path = os.path.join(folder, WEIGHTS)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; level '{level.name}' needs it: make it with steps/train_aggregation.sh")
    config = load_config(os.path.join(folder, CONFIG), AggregationConfig)
    if config.teacher != teacher:
        raise UserError(f"{folder}: trained for another teacher; make it anew with steps/train_aggregation.sh")
    if config.layers != level.layers:
        raise UserError(f"{folder}: aggregates {', '.join(config.layers)}; level '{level.name}' is of "
                        f"{', '.join(level.layers)}")
    state = load_tensors(path)
    if config.numbers > sum(tensor.numel() for tensor in state.values()):
        raise UserError(f"{folder}/{CONFIG}: has {config.numbers:,} numbers, and {path} holds fewer; make it anew with "
                        "steps/train_aggregation.sh")
    aggregation = config.build()
    load_state(aggregation, state, path)
    return aggregation.eval()
