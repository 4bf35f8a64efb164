"""Small networks with the batch norms of a trained one, and features to try them on."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from svq.data.frontend import FrontEndConfig
from svq.network import ModelConfig

# On processors with AMX, OpenVINO 2026.4.1 crashes in an INT8 convolution over time of 16 channels; of 32 it does not.
SIZES = {"ResNet18": {"width": 8}, "ECAPA512": {"channels": 16, "wide": 24}, "XVector": {"width": 32, "wide": 24},
         "ECAPASpeechBrain": {"channels": 16, "wide": 24}, "DFResNet56": {"width": 4}, "FCStudent": {"width": 16},
         "CAMPPlus": {"width": 4, "channels": 32, "growth": 16, "bottleneck": 32, "layers": (2, 2, 2)},
         "ReDimNetB2": {"width": 4, "frequency_strides": (1, 2), "depths": (1, 1), "expansions": (100, 200),
                        "reductions": (20,), "group_width": 2},
         "ReDimNet2B6": {"width": 4, "form": "resnet_se", "frequency_strides": (2, 2), "time_strides": (2, 2),
                         "depths": (1, 1), "expansions": (100, 50), "reductions": (40, 20), "head_width": 6,
                         "group_norm": True, "dual": True},
         "ERes2NetBase": {"width": 4}, "ERes2NetV2": {"width": 4},
         "SimAMResNet34": {"width": 4}, "GeminiDFResNet60": {"width": 4, "pooling": "mqmhastp"},
         "RepVGGA0": {"widths": [4, 8, 8, 16], "merged": True}}


def small_config(arch: str, **front_end) -> ModelConfig:
    return ModelConfig(arch, SIZES[arch], 16, FrontEndConfig(**front_end))


def trained_like(net: torch.nn.Module) -> torch.nn.Module:
    """`net` in eval mode, whose batch norms are not the identity."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                torch.nn.init.uniform_(module.weight, -0.3, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


def small_net(config: ModelConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return trained_like(config.build())


def feats(frames: int, seed: int = 0, batch: int = 2) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((batch, frames, 80)).cumsum(1) / 4
    return (x - x.mean(1, keepdims=True)).astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
