"""Which arithmetic, and which layout of memory, a run computes in."""

from __future__ import annotations

import contextlib

import torch
from torch import nn


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16. `auto`: where the device has units for it (GPU, AMX)."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def autocast(bf16: bool, device: torch.device):
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def memory_format(net: nn.Module, channels_last: bool, device: torch.device) -> torch.memory_format:
    """The layout to train `net` in: channels-last where that is asked for and safe.

    On the CPU torch 2.13 (oneDNN) writes outside of its buffers, in bfloat16 and channels-last, in the backward
    pass of a strided 1x1 convolution of fewer than 16 input channels, as networks of width 8 have in their
    shortcuts. With 16 and more, without stride, or in the contiguous layout it does not.
    """
    unsafe = device.type == "cpu" and any(_strided_narrow_1x1(module) for module in net.modules())
    return torch.channels_last if channels_last and not unsafe else torch.contiguous_format


def _strided_narrow_1x1(module: nn.Module) -> bool:
    return (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and max(module.stride) > 1
            and module.in_channels < 16)
