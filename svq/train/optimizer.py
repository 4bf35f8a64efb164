"""The optimizer with its parameter groups, and the arithmetic that a run computes in."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from svq.quant.api import quantizers
from svq.train.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig, module: nn.Module) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, or AdamW, over three groups: matrices with weight decay; norms and
    biases without; quantizer scales without and with their own factor on the learning rate (`factor`).
    """
    scales = {id(p) for _, _, quantizer in quantizers(module) for p in quantizer.parameters()}
    groups: dict[str, list] = {"matrix": [], "vector": [], "scale": []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            kind = "scale" if id(parameter) in scales else "matrix" if parameter.dim() > 1 else "vector"
            groups[kind].append(parameter)
    decay = {"matrix": config.weight_decay, "vector": 0.0, "scale": 0.0}
    factor = {"matrix": 1.0, "vector": 1.0, "scale": config.scale_lr}
    listed = [
        {"params": parameters, "weight_decay": decay[kind], "factor": factor[kind], "lr": 0.0}
        for kind, parameters in groups.items()
        if parameters
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(listed)
    return torch.optim.SGD(listed, lr=0.0, momentum=config.momentum, nesterov=config.momentum > 0)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


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
