"""Backbones. Each is `Net(feat_dim, embed_dim, **options)`: features (B, T, F) -> embeddings (B, D).

No network knows about quantization: quantizers attach from outside (svq/quant).
"""

from __future__ import annotations

import inspect

import torch
from torch import nn

from svq.errors import UserError
from svq.nets import campplus, dfresnet, ecapa, eres2net, lstm, redimnet, redimnet2, repvgg
from svq.nets import resnet, seresnet, simam, student, tdnn

FAMILIES = (
    resnet,
    dfresnet,
    simam,
    repvgg,
    seresnet,
    tdnn,
    ecapa,
    campplus,
    redimnet,
    redimnet2,
    eres2net,
    student,
    lstm,
)
ARCHITECTURES = {name: make for family in FAMILIES for name, make in family.NETWORKS.items()}

# Arguments that are no options: sizes are given separately, the others follow from the architecture's name.
NOT_OPTIONS = ("feat_dim", "embed_dim", "block", "blocks", "stem", "strides")
KINDS = {int: "a positive integer", float: "a number", bool: "true or false", str: "a string",
         tuple: "a list of positive integers"}


MOST_NUMBERS = 10**9  # learned numbers of a network: 4 GB
LARGEST = {"layers": 1000, "segments": 1000}  # largest values of options that say how often something is repeated
LARGEST_WIDTH = 1 << 16  # largest value of any other integer option: channels
_UNUSUAL = 4  # a size above this many times its default has the numbers counted before memory is taken


def build(arch: str, feat_dim: int = 80, embed_dim: int = 256, most: int = MOST_NUMBERS, **options) -> nn.Module:
    """Builds the network named `arch`, freshly initialised from torch's global random state.

    options: each has the type of its default: a positive integer, a number, a bool, a string or a tuple of positive
    integers, which may be given as a list. most: the most learned numbers that the network may have. They are counted,
    before memory is taken for them, only where a size is far above its default.
    Raises UserError for an unknown architecture, for an option that it does not take, for a value that does not suit
    it, and for a network of more than `most` numbers.
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
            raise UserError(f"arch {arch}: with these sizes it has {numbers:,} numbers to learn, more than {most:,}; "
                            "give smaller ones")
    return _made(arch, feat_dim, embed_dim, values)


def _made(arch: str, feat_dim: int, embed_dim: int, values: dict) -> nn.Module:
    try:
        return ARCHITECTURES[arch](feat_dim=feat_dim, embed_dim=embed_dim, **values)
    except ValueError as error:
        raise UserError(f"arch {arch}: {error}") from None


def options_of(arch: str) -> dict:
    """Returns the options that the known architecture `arch` takes, with their defaults."""
    parameters = inspect.signature(ARCHITECTURES[arch]).parameters
    return {name: p.default for name, p in parameters.items() if name not in NOT_OPTIONS and type(p.default) in KINDS}


def usual_sizes(arch: str) -> tuple[int, int]:
    """Returns the feat_dim and embed_dim that the known architecture `arch` has by default."""
    parameters = inspect.signature(ARCHITECTURES[arch]).parameters
    return parameters["feat_dim"].default, parameters["embed_dim"].default


def _as_kind(value, kind: type):
    """Returns `value` as the given one of KINDS, or None where it is not of that kind."""
    if kind is tuple:
        whole = isinstance(value, (list, tuple)) and value and all(type(item) is int and item > 0 for item in value)
        return tuple(value) if whole else None
    if kind is float and type(value) is int:
        return float(value)
    return value if type(value) is kind and (kind is not int or value > 0) else None


def num_parameters(net: nn.Module) -> int:
    """Counts the learned numbers of `net` (buffers such as running means do not count)."""
    return sum(p.numel() for p in net.parameters())
