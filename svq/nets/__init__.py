"""Backbones. Each is `Net(feat_dim, embed_dim, **options)`: features (B, T, F) -> embeddings (B, D).

No network knows of quantization: quantizers attach from outside (svq/quant).
"""

from __future__ import annotations

import inspect

import torch
from torch import nn

from svq.errors import UserError
from svq.nets import ecapa, resnet, seresnet, student, tdnn

FAMILIES = (
    resnet,
    seresnet,
    tdnn,
    ecapa,
    student,
)
ARCHITECTURES = {name: make for family in FAMILIES for name, make in family.NETWORKS.items()}

NOT_OPTIONS = ("feat_dim", "embed_dim", "block", "blocks", "stem", "strides")  # sizes given apart, what makes the name
KINDS = {int: "a positive integer", float: "a number", bool: "true or false", str: "a string",
         tuple: "a list of positive integers"}


MOST_NUMBERS = 10**9  # learned numbers of a network: 4 GB
LARGEST = {"layers": 1000, "segments": 1000}  # of an option that says how often something is repeated
LARGEST_WIDTH = 1 << 16  # of any other integer: channels
_UNUSUAL = 4  # times its default: a size from which on the numbers are counted before memory is taken


def build(arch: str, feat_dim: int = 80, embed_dim: int = 256, most: int = MOST_NUMBERS, **options) -> nn.Module:
    """The network named `arch`, freshly initialised from torch's global random state.

    An option has the type of its default: a positive integer, a number, a bool, a string or a tuple of positive
    integers, which may be given as a list. most: learned numbers that it may have; counted, before memory is taken for
    them, where a size is far above its default.
    Raises UserError for an unknown architecture, an option that it does not take or a value that does not suit it.
    """
    if arch not in ARCHITECTURES:
        raise UserError(f"arch '{arch}' is unknown; known: {', '.join(ARCHITECTURES)}")
    known = options_of(arch)
    values = {}
    for name, value in options.items():
        if name not in known:
            takes = f"it takes: {', '.join(known)}" if known else "it takes none"
            raise UserError(f"arch {arch} takes no option '{name}'; {takes}")
        kind = type(known[name])
        values[name] = _as_kind(value, kind)
        if values[name] is None:
            raise UserError(f"arch {arch}: option '{name}' is {value!r}; it must be {KINDS[kind]}")
        largest = LARGEST.get(name, LARGEST_WIDTH)
        if kind is int and value > largest:
            raise UserError(f"arch {arch}: option '{name}' is {value}; it must be at most {largest}")
    usual = {**known, **dict(zip(("feat_dim", "embed_dim"), usual_sizes(arch)))}
    sizes = {**values, "feat_dim": feat_dim, "embed_dim": embed_dim}
    if any(type(usual[name]) is int and value > _UNUSUAL * usual[name] for name, value in sizes.items()):
        with torch.device("meta"):
            numbers = num_parameters(_made(arch, feat_dim, embed_dim, values))
        if numbers > most:
            raise UserError(f"arch {arch}: of these sizes it has {numbers:,} numbers to learn, more than {most:,}; give "
                            "smaller ones")
    return _made(arch, feat_dim, embed_dim, values)


def _made(arch: str, feat_dim: int, embed_dim: int, values: dict) -> nn.Module:
    try:
        return ARCHITECTURES[arch](feat_dim=feat_dim, embed_dim=embed_dim, **values)
    except ValueError as error:
        raise UserError(f"arch {arch}: {error}") from None


def options_of(arch: str) -> dict:
    """The options that the known architecture `arch` takes, and their defaults."""
    parameters = inspect.signature(ARCHITECTURES[arch]).parameters
    return {name: p.default for name, p in parameters.items() if name not in NOT_OPTIONS and type(p.default) in KINDS}


def usual_sizes(arch: str) -> tuple[int, int]:
    """feat_dim and embed_dim that the known architecture `arch` has where none are given."""
    parameters = inspect.signature(ARCHITECTURES[arch]).parameters
    return parameters["feat_dim"].default, parameters["embed_dim"].default


def _as_kind(value, kind: type):
    """`value` as one of KINDS; None where it is not of that kind."""
    if kind is tuple:
        whole = isinstance(value, (list, tuple)) and value and all(type(item) is int and item > 0 for item in value)
        return tuple(value) if whole else None
    if kind is float and type(value) is int:
        return float(value)
    return value if type(value) is kind and (kind is not int or value > 0) else None


def num_parameters(net: nn.Module) -> int:
    """How many learned numbers `net` holds (buffers such as running means are not counted)."""
    return sum(p.numel() for p in net.parameters())
