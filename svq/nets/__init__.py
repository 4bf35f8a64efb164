"""Backbones. Each is `Net(feat_dim, embed_dim, **options)`: features (B, T, F) -> embeddings (B, D)."""

from __future__ import annotations

import inspect
from functools import partial

from torch import nn

from svq.errors import UserError
from svq.nets.resnet import BasicBlock, BottleneckBlock, ResNet

ARCHITECTURES = {
    "ResNet18": partial(ResNet, block=BasicBlock, blocks=(2, 2, 2, 2)),
    "ResNet34": partial(ResNet, block=BasicBlock, blocks=(3, 4, 6, 3)),
    "ResNet50": partial(ResNet, block=BottleneckBlock, blocks=(3, 4, 6, 3)),
    "ResNet101": partial(ResNet, block=BottleneckBlock, blocks=(3, 4, 23, 3)),
    "ResNet152": partial(ResNet, block=BottleneckBlock, blocks=(3, 8, 36, 3)),
}


def build(arch: str, feat_dim: int = 80, embed_dim: int = 256, **options) -> nn.Module:
    """The network named `arch`, freshly initialised from torch's global random state.

    Raises UserError for an unknown architecture or an option that it does not take.
    """
    if arch not in ARCHITECTURES:
        raise UserError(f"arch '{arch}' is unknown; known: {', '.join(ARCHITECTURES)}")
    make = ARCHITECTURES[arch]
    fixed = ("feat_dim", "embed_dim", "block", "blocks")
    known = {name: p.default for name, p in inspect.signature(make).parameters.items() if name not in fixed}
    for name, value in options.items():
        if name not in known:
            raise UserError(f"arch {arch} takes no option '{name}'; it takes: {', '.join(known)}")
        if type(value) is not type(known[name]) or (type(value) is int and value < 1):
            kind = "a positive integer" if type(known[name]) is int else f"of type {type(known[name]).__name__}"
            raise UserError(f"arch {arch}: option '{name}' is {value!r}; it must be {kind}")
    return make(feat_dim=feat_dim, embed_dim=embed_dim, **options)


def num_parameters(net: nn.Module) -> int:
    """How many learned numbers `net` holds (buffers such as running means are not counted)."""
    return sum(p.numel() for p in net.parameters())
