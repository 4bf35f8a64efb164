"""Plans for the import of a foreign checkpoint: its tensors by name, the network they make, and where each tensor goes.

No code of a file is ever run.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from svq.errors import UserError, some_of
from svq.importing.source import Source, described, find_source
from svq.network import ModelConfig, load_tensors

State = dict[str, torch.Tensor]
WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "embedding_model")
# Packages whose objects (settings, what the task is) lie beside the tensors in checkpoints, and single such classes.
PROGRAMS = ("pyannote", "pytorch_lightning", "lightning", "lightning_fabric", "omegaconf")
LONE_CLASSES = ("torch.torch_version.TorchVersion", "argparse.Namespace", "pathlib.PosixPath", "typing.Any")


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
    svq.importing.poolings.TOLD; empty: not given. front_end: whose, for an ONNX file that does not say; empty: not
    given. These are the user's.

    model_config: the network's arguments that lie beside the tensors in some files; None where there are none.
    """

    rate: int = 16000
    num_mels: int = 0
    pooling: str = ""
    front_end: str = ""
    model_config: Mapping | None = None


@dataclass(frozen=True)
class Origin:
    """A toolkit. families: its networks. prefixes: its checkpoints may put them before every name. left_out: tensors
    that a network for embeddings does not need, by pattern, and what they are."""

    name: str
    families: tuple[Family, ...]
    prefixes: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


def count(state: State, pattern: str) -> int:
    """Counts the different numbers that the group of `pattern` matches in the names of `state`, that is, the layers."""
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})


def read_state(path) -> State:
    """Reads the state dict in `path`, as `read_checkpoint` does."""
    return read_checkpoint(path)[0]


def read_checkpoint(path) -> tuple[State, Mapping | None]:
    """Reads the state dict in `path`, a .safetensors or a file of torch.save, or an archive with one such file in it: on
    the CPU, floating point as float32.

    Gives with it what lies beside it as `model_config`, None where there is nothing.

    The state dict may lie under one of WRAPPERS beside other things (epoch, optimizer). UserError for a file that is no
    whole checkpoint, holds more than tensors, or has values that are not finite.
    """
    source = find_source(path)
    where = source.where
    found = _load_safetensors(source) if source.name.endswith(".safetensors") else _load(source)
    state = _unwrapped(found)
    if not state:
        raise UserError(f"{where}: holds no state dict (tensors by name){_held(found)}; save one: "
                        "torch.save(net.state_dict(), ...)")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise UserError(f"{where}: {name} is no plain tensor of numbers but {tensor.layout}, {tensor.dtype}, "
                            f"{list(tensor.shape)}")
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{where}: {name} holds values that are not finite; copy the file again")
    told = found.get("model_config") if isinstance(found, Mapping) else None
    return state, told if isinstance(told, Mapping) else None


def _held(found) -> str:
    """Says what the content of a file is instead of a state dict."""
    if isinstance(found, Mapping):
        return f": it has {some_of(map(str, found), 4)}" if found else ": it is empty"
    return f": it is one {type(found).__name__}"


def _load_safetensors(source: Source) -> State:
    if source.content is None:
        return load_tensors(source.where)
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(source.content)
    except SafetensorError as error:
        raise UserError(f"{source.where}: not a complete safetensors file ({error}); copy it again") from None


def _is_plain(tensor: torch.Tensor) -> bool:
    """Says whether a tensor holds real numbers, each in memory: not sparse, complex, quantized, empty or repeated."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or not tensor.numel():
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def _load(source: Source):
    path = source.where
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_stand_ins(source)):
            warnings.simplefilter("ignore")
            return torch.load(source.opened(), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "nsupported" in text and "invalid load key" not in text and not described(source):  # an instruction that makes no tensor
            what = next((line.strip() for line in text.splitlines() if "nsupported" in line), "")
            what = what.partition("WeightsUnpickler error: ")[2] or what
            raise UserError(f"{path}: holds more than tensors ({what.split('. ')[0]}), which is not read because "
                            "a pickle can run code; save its state dict alone") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError,
            UnicodeDecodeError, MemoryError, OverflowError) as error:
        if "TorchScript" in str(error):
            raise UserError(f"{path}: a TorchScript archive; import the checkpoint that it was made from") from None
    raise UserError(f"{path}: {described(source)}neither a whole file of torch.save nor .safetensors: not a checkpoint, or "
                    "cut short; copy it again")


class StandIn:
    """A stand-in for an object of a training program in a checkpoint: it keeps nothing and does nothing."""

    def __init__(self, *args, **options):
        pass

    def __setstate__(self, state):
        pass


def _stand_ins(source: Source) -> list[tuple[type, str]]:
    """Lists stand-ins for the classes of PROGRAMS that a checkpoint names beside its tensors, by those names.

    torch's reader, which runs no code, makes objects of allowed classes only; it gets StandIn for these. Any other name
    stays forbidden.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(source.opened())
    except Exception:  # whatever is wrong with the file: torch.load says it
        return []
    return [(StandIn, name) for name in names if name.partition(".")[0] in PROGRAMS or name in LONE_CLASSES]


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
