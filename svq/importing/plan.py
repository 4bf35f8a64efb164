"""How a foreign checkpoint becomes one of our networks: its tensors by name, which network, and where each tensor goes.

No code of a file is ever run.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from svq.errors import UserError
from svq.files import require_file
from svq.network import ModelConfig, load_tensors

State = dict[str, torch.Tensor]
WRAPPERS = ("model", "state_dict", "model_state_dict", "embedding_model")


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


def read_state(path) -> dict[str, torch.Tensor]:
    """The state dict in `path`: .safetensors, or a file of torch.save, on the CPU, floating point as float32.

    The state dict may lie under one of WRAPPERS beside other things (epoch, optimizer). UserError for what is not a
    whole checkpoint, holds more than tensors, or values that are not finite.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder; name the checkpoint file in it")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file")
    found = load_tensors(path) if path.endswith(".safetensors") else _load(path)
    state = _unwrapped(found)
    if not state:
        raise UserError(f"{path}: holds no state dict (tensors by name); save one: torch.save(net.state_dict(), ...)")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise UserError(f"{path}: {name} is no plain tensor of numbers but {tensor.layout}, {tensor.dtype}, "
                            f"{list(tensor.shape)}")
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds values that are not finite; copy the file again")
    return state


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it holds real numbers, each of them in memory: not sparse, complex, quantized, empty or repeated."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or not tensor.numel():
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _load(path: str):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(require_file(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "nsupported" in text and "invalid load key" not in text:  # an instruction that makes no tensor
            what = next((line.strip() for line in text.splitlines() if "nsupported" in line), "")
            what = what.partition("WeightsUnpickler error: ")[2] or what
            raise UserError(f"{path}: holds more than tensors ({what.split('. ')[0]}), which is not read because "
                            "a pickle can run code; save its state dict alone") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError,
            UnicodeDecodeError, MemoryError, OverflowError) as error:
        if "TorchScript" in str(error):
            raise UserError(f"{path}: a TorchScript archive; import the checkpoint that it was made from") from None
    raise UserError(f"{path}: neither a whole file of torch.save nor .safetensors: not a checkpoint, or cut short; "
                    "copy it again")


def _unwrapped(found) -> dict[str, torch.Tensor] | None:
    """The state dict in what a file held; None where there is none."""
    if not isinstance(found, Mapping):
        return None
    for wrapper in WRAPPERS:
        if isinstance(found.get(wrapper), Mapping):
            return _unwrapped(found[wrapper])
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()):
        return None
    return dict(found)
