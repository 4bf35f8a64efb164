"""Weights and features by formula: what a fixture of embeddings is computed from, without storing either.

The numbers are hashes of a name and a position, so that they are the same everywhere and with any version of
numpy or torch.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def uniform(name: str, shape) -> np.ndarray:
    """float64 in [-1, 1) of that shape, by SplitMix64 of the position, begun at the CRC-32 of `name`."""
    with np.errstate(over="ignore"):
        z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-52 - 1


def features(frames: int, channels: int) -> torch.Tensor:
    """(1, frames, channels) float32, uniform in [-3, 3)."""
    return torch.from_numpy(3 * uniform("features", (1, frames, channels))).float()


@torch.no_grad()
def fill_(net: torch.nn.Module) -> torch.nn.Module:
    """Every weight, bias and running statistic of `net`, by its name; in eval mode. Returns `net`."""
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point():
            continue
        values = uniform(name, tensor.shape)
        if name.endswith("running_var"):
            values = 1 + 0.5 * values
        elif name.endswith("weight") and tensor.dim() == 1:
            values = 1 + 0.25 * values
        elif tensor.dim() == 1:
            values = 0.2 * values
        else:
            values = values * (3 / tensor[0].numel()) ** 0.5
        tensor.copy_(torch.from_numpy(values))
    return net.eval()
