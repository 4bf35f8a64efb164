"""The arithmetic of a run: in which type, in which layout, compiled or not."""

from __future__ import annotations

import contextlib

import torch
from torch import nn


def low_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Gives the type that products are computed in, bfloat16 or float16; None: float32 throughout.

    precision: as in TrainConfig. `auto` is bfloat16 where the device multiplies in it (GPU, AMX, AVX-512 BF16).
    """
    if precision != "auto":
        return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
    if device.type == "cuda":
        found = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = ("amx_tile", "avx512_bf16")
        found = any(getattr(torch.cpu, f"_is_{unit}_supported", lambda: False)() for unit in units)
    return torch.bfloat16 if found else None


def autocast(dtype: torch.dtype | None, device: torch.device):
    """Makes a context in which products are computed in `dtype`."""
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


LEAST_SCALE = 2.0 ** -10  # of a loss in float16: a gradient that is too large for such a scale is none of rounding


def gradient_scaler(dtype: torch.dtype | None, device: torch.device) -> torch.amp.GradScaler:
    """Makes what scales losses so that gradients in float16 do not vanish, and leaves out steps whose gradients overflow.

    It does nothing for other types.
    """
    return torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)


@contextlib.contextmanager
def as_written(net: nn.Module):
    """Makes a context in which a compiled `net` runs as it is written: for inputs of other sizes, and copies."""
    compiled, net._compiled_call_impl = net._compiled_call_impl, None
    try:
        yield net
    finally:
        net._compiled_call_impl = compiled


def memory_format(net: nn.Module, channels_last: bool, device: torch.device) -> torch.memory_format:
    """Chooses the layout to train `net` in: channels-last where that is asked for and safe.

    On the CPU, in bfloat16 and channels-last, torch 2.13 (oneDNN) writes outside of its buffers in the backward pass of
    a strided 1x1 convolution of fewer than 16 input channels. Networks of width 8 have such convolutions in their
    shortcuts. With 16 channels or more, without stride, or in the contiguous layout this does not happen.
    """
    unsafe = device.type == "cpu" and any(_strided_narrow_1x1(module) for module in net.modules())
    return torch.channels_last if channels_last and not unsafe else torch.contiguous_format


def _strided_narrow_1x1(module: nn.Module) -> bool:
    return (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and max(module.stride) > 1
            and module.in_channels < 16)
