"""Plans for the import of a foreign checkpoint: its tensors by name, the network they make, and where each tensor goes.

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
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "embedding_model")


class Rule(NamedTuple):
    """A rule for tensors whose whole name matches `pattern`: they go to `name` (as in re.sub), changed by `change`.

    A tensor that differs from our shape by dimensions of 1 alone (a convolution of kernel 1 for a linear layer) needs
    no `change`.
    """

    pattern: str
    name: str
    change: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Plan:
    """A plan for the import of one state dict.

    model: the network and its front end. rules: the first that matches a tensor says where it goes.
    """

    model: ModelConfig
    rules: list[Rule]


@dataclass(frozen=True)
class Family:
    """Networks of one class of one origin.

    name: for people. marks: names of tensors that all of them have and no other family of that origin. plan: makes a
    Plan from the state dict and the options of the import; ValueError that says what no network of the family has.
    """

    name: str
    marks: tuple[str, ...]
    plan: Callable[[State, Options], Plan]


@dataclass(frozen=True)
class Options:
    """Facts that tensors do not tell. rate: samples a second. num_mels: 0: not given. pooling: one of
    svq.importing.poolings.TOLD; empty: not given. These are the user's.

    model_config: the network's arguments that lie beside the tensors in some files; None where there are none.
    """

    rate: int = 16000
    num_mels: int = 0
    pooling: str = ""
    model_config: Mapping | None = None


@dataclass(frozen=True)
class Origin:
    """A toolkit. families: its networks. prefixes: its checkpoints may put them before every name. left_out: tensors
    that a network for embeddings does not need, by pattern, and what they are."""

    name: str
    families: tuple[Family, ...]
    prefixes: tuple[str, ...] = ("module.",)
    left_out: dict[str, str] = field(default_factory=dict)


def count(state: State, pattern: str) -> int:
    """Counts the different numbers that the group of `pattern` matches in the names of `state`, that is, the layers."""
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})


def read_state(path) -> State:
    """Reads the state dict in `path`, as `read_checkpoint` does."""
    return read_checkpoint(path)[0]


def read_checkpoint(path) -> tuple[State, Mapping | None]:
    """Reads the state dict in `path`, a .safetensors or a file of torch.save: on the CPU, floating point as float32.

    Gives with it what lies beside it as `model_config`, None where there is nothing.

    The state dict may lie under one of WRAPPERS beside other things (epoch, optimizer). UserError for a file that is no
    whole checkpoint, holds more than tensors, or has values that are not finite.
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
    told = found.get("model_config") if isinstance(found, Mapping) else None
    return state, told if isinstance(told, Mapping) else None


def _is_plain(tensor: torch.Tensor) -> bool:
    """Says whether a tensor holds real numbers, each in memory: not sparse, complex, quantized, empty or repeated."""
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
    """Finds the state dict in the content of a file; None where there is none."""
    if not isinstance(found, Mapping):
        return None
    for wrapper in WRAPPERS:
        if isinstance(found.get(wrapper), Mapping):
            return _unwrapped(found[wrapper])
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()):
        return None
    return dict(found)
