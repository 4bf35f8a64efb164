"""How a foreign checkpoint becomes one of our networks: which one, and where each of its tensors goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from svq.network import ModelConfig

State = dict[str, torch.Tensor]


class Rule(NamedTuple):
    """Tensors whose whole name matches `pattern` go to `name` (as in re.sub), changed by `change` where it is given.

    What differs from the shape that our network has by dimensions of 1 alone (a convolution of kernel 1 for a linear
    layer) needs no `change`.
    """

    pattern: str
    name: str
    change: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Plan:
    """What a family of networks makes of a state dict.

    model: the network and its front end. rules: the first that matches a tensor says where it goes.
    """

    model: ModelConfig
    rules: list[Rule]


@dataclass(frozen=True)
class Family:
    """Networks of one class of one origin.

    name: for people. marks: names of tensors that all of them have and no other family of that origin. plan: called
    with the state dict and the options of the import; ValueError with what it is that no network of the family has.
    """

    name: str
    marks: tuple[str, ...]
    plan: Callable[[State, Options], Plan]


@dataclass(frozen=True)
class Options:
    """What the user says of a checkpoint that its tensors do not: rate, samples a second; num_mels, 0: not said."""

    rate: int = 16000
    num_mels: int = 0


@dataclass(frozen=True)
class Origin:
    """A toolkit: its families; prefixes that its checkpoints may put before every name; tensors that a network for
    embeddings does not need, by pattern, and what they are."""

    name: str
    families: tuple[Family, ...]
    prefixes: tuple[str, ...] = ("module.",)
    left_out: dict[str, str] = field(default_factory=dict)


def count(state: State, pattern: str) -> int:
    """How many different numbers the group of `pattern` takes in the names of `state`: how many layers there are."""
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})
