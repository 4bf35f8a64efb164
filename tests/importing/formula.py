"""Weights, features and a waveform that anyone can make again: the fixtures hold only what networks make of them."""

from __future__ import annotations

import zlib

import numpy as np
import torch

RATE = 16000
FRAMES = 83  # usual length of the features


def checkpoint(shapes: dict[str, tuple[int, ...]], gain: float = 1.0) -> dict[str, torch.Tensor]:
    """A state dict of these names and shapes; each tensor depends on its own name and shape alone.

    Scales are such that values neither die out nor blow up on the way through a network; matrices and kernels are
    multiplied by `gain`.
    """
    state = {name: torch.from_numpy(np.asarray(tensor(name, tuple(shape)))) for name, shape in shapes.items()}
    return {name: values * gain if values.dim() > 1 else values for name, values in state.items()}


def compact(shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Layer by layer: "norm 32" (batch norm; "plain norm" without scale and shift), "8x4x3" (weight), "8x4x3 + bias"; a
    tensor that is no layer's stands under its own name, as "= 8x1"."""
    text, done = {}, set()
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        if name in done:
            continue
        if f"{layer}.running_mean" in shapes:
            text[layer] = f"{'' if f'{layer}.weight' in shapes else 'plain '}norm {shapes[f'{layer}.running_mean'][0]}"
        elif kind == "weight":
            text[layer] = "x".join(map(str, shape)) + (" + bias" if f"{layer}.bias" in shapes else "")
        else:
            text[name] = "= " + "x".join(map(str, shape))
            continue
        done |= {key for key in shapes if key.rpartition(".")[0] == layer}
    return text


def expand(layers: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """What `compact` was given."""
    shapes = {}
    for name, text in layers.items():
        sizes = tuple(map(int, text.removeprefix("= ").removesuffix(" + bias").split(" ")[-1].split("x")))
        if text.startswith("= "):
            shapes[name] = sizes
        elif "norm" in text:
            kinds = ("running_mean", "running_var") if text.startswith("plain") else \
                ("weight", "bias", "running_mean", "running_var")
            shapes |= {f"{name}.{kind}": sizes for kind in kinds} | {f"{name}.num_batches_tracked": ()}
        else:
            shapes[f"{name}.weight"] = sizes
            if text.endswith(" + bias"):
                shapes[f"{name}.bias"] = sizes[:1]
    return shapes


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.int64(1234)
    random = np.random.RandomState(zlib.crc32(name.encode()))  # its stream is the same in every version of numpy
    if name.endswith("running_var"):
        values = 1 + 0.5 * random.random_sample(shape)
    elif len(shape) > 1:
        values = random.standard_normal(shape) * (1.5 / np.prod(shape[1:])) ** 0.5
    elif name.endswith("weight"):
        values = 0.7 + 0.1 * random.standard_normal(shape)
    else:
        values = 0.1 * random.standard_normal(shape)
    return values.astype(np.float32)


def features(num_mels: int, frames: int = FRAMES) -> torch.Tensor:
    """Features (1, frames, num_mels) float32, of no recording."""
    return torch.from_numpy(np.random.RandomState(1).standard_normal((1, frames, num_mels)).astype(np.float32))


def waveform(samples: int = 16077) -> torch.Tensor:
    """(1, samples) float32: a gliding tone with harmonics that comes and goes, in noise."""
    time = np.arange(samples) / RATE
    phase = 2 * np.pi * (120 * time + 30 * time**2)
    tone = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 25))
    noise = np.random.RandomState(2).standard_normal(samples)
    wave = 0.1 * tone * np.sin(2 * np.pi * 1.5 * time) ** 2 + 0.01 * noise
    return torch.from_numpy(wave.astype(np.float32))[None]
