"""Which arithmetic a run computes in."""

from __future__ import annotations

import contextlib

import torch


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16. `auto`: where the device has units for it (GPU, AMX)."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def autocast(bf16: bool, device: torch.device):
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
