"""Tensors by name: written to safetensors files, read from them, and put into a network."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from svq.atomic import atomic_path
from svq.errors import UserError


def save_tensors(path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_tensors(path) -> dict[str, torch.Tensor]:
    """Reads a safetensors file; UserError when it is missing or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise UserError(f"{path}: not a complete safetensors file ({error}); make or copy it again") from None


def load_state(net: nn.Module, state: dict[str, torch.Tensor], where, assign: bool = False) -> None:
    """`net.load_state_dict(state)`, every tensor accounted for; UserError naming what does not fit.

    assign: the tensors themselves become those of `net`, which may be on the meta device, instead of copies.
    """
    expected = net.state_dict()
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    if missing or extra:
        raise UserError(f"{where}: weights do not fit the config: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, the config asks for {list(expected[name].shape)}"
            raise UserError(f"{where}: {name} has shape {shapes}")
    net.load_state_dict(state, assign=assign)
