"""Levels of a teacher: outputs of some of its layers, pooled into one vector an utterance or taken frame by frame.

A level is written as a name or as layers, with a pooling after a colon where it is not the usual one:

==========================  ===========================================  =======
level                       outputs of                                   pooling
==========================  ===========================================  =======
`utterance`                 the network: its embedding                   `none`
`narrowBN`                  the narrow frame-level layer before pooling  `mean`
`wideBN`                    the wide frame-level layer before pooling    `mean`
`sp_aggr`                   all frame-level layers                       `stats`
`lde_aggr`                  all frame-level layers                       `lde`
`frame2+frame4:stats`       the modules of these names                   `stats`
`narrowBN:none`             as narrowBN, every frame for itself          `none`
==========================  ===========================================  =======

The five names are the embeddings of Liu, Sahidullah, Kinnunen, "Distilling multi-level x-vector knowledge for
small-footprint speaker verification", 2023 (arXiv 2303.01125). A network's class says in NARROW, WIDE and FRAME_LAYERS
which layers they mean. For any other network write the names of the layers, as in `net.named_modules()`. `embedding`
always means what the network returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from svq.errors import UserError
from svq.nets.pooling import StatisticsPooling

EMBEDDING = "embedding"
POOLINGS = ("none", "mean", "stats", "lde")
# The paper's name of a level -> the class attribute that says which layers it means, and the usual pooling.
NAMES = {
    "utterance": (None, "none"),
    "narrowBN": ("NARROW", "mean"),
    "wideBN": ("WIDE", "mean"),
    "sp_aggr": ("FRAME_LAYERS", "stats"),
    "lde_aggr": ("FRAME_LAYERS", "lde"),
}
PROBE = (256, 320)  # frames of the two inputs by which the clocks of layers are measured


@dataclass(frozen=True)
class Level:
    """A level: its name as written, the module names of its layers (or EMBEDDING), and one of POOLINGS."""

    name: str
    layers: tuple[str, ...]
    pool: str

    @property
    def file(self) -> str:
        """The stem of the names of the level's files (see `file_of`)."""
        return file_of(self.name)


@dataclass(frozen=True)
class Clock:
    """The clock of a layer: output frame j stands for the input's frame first + j * stride and stride - 1 more.

    first: frames that the layer's context takes off at the beginning. lost: frames that it takes off at both ends.
    """

    stride: int = 1
    first: int = 0
    lost: int = 0


def file_of(name: str) -> str:
    """Returns the stem of a level's file names: no colons, which have a meaning in Kaldi's tables."""
    return name.replace(":", "-")


def find_level(text: str, net: nn.Module) -> Level:
    """Parses `text`, as written in a config, to a level of `net`.

    Raises UserError for an unknown layer or pooling, and for a level that `net` does not have.
    """
    words, colon, pool = text.partition(":")
    if words in NAMES:
        attribute, usual = NAMES[words]
        layers = (EMBEDDING,) if attribute is None else _layers_of(net, attribute, words)
    else:
        layers = tuple(words.split("+"))
        usual = "none" if layers == (EMBEDDING,) else "mean"
    pool = pool if colon else usual
    if pool not in POOLINGS:
        raise UserError(f"level '{text}': no pooling '{pool}'; there are {', '.join(POOLINGS)}")
    modules = dict(net.named_modules())
    for layer in layers:
        if layer != EMBEDDING and (not layer or layer not in modules):
            raise UserError(f"level '{text}': {type(net).__name__} has no layer '{layer}'; it has "
                            f"{', '.join(name for name, _ in net.named_children())} and the layers within these")
    if EMBEDDING in layers and (len(layers) > 1 or pool != "none"):
        raise UserError(f"level '{text}': the embedding is a vector already; it is a level by itself, without pooling")
    return Level(text, layers, pool)


def _layers_of(net: nn.Module, attribute: str, name: str) -> tuple[str, ...]:
    found = getattr(net, attribute, None)
    if not found:
        raise UserError(f"level '{name}': {type(net).__name__} does not say which layers that are; write their names, "
                        f"for example '{_some_module(net)}:{NAMES[name][1]}'")
    return (found,) if isinstance(found, str) else tuple(found)


def _some_module(net: nn.Module) -> str:
    return next((name for name, _ in net.named_children()), "layer")


class LevelOutputs(nn.Module):
    """Computes levels: features (B, T, F) -> {level name: (B, D), or (B, T', D) of frame-level layers not pooled}.

    Outputs are float32; `net` is frozen here. `mean` and `stats` pool each layer over all its frames and put the
    results side by side. `lde` and `none` put the layers' frames side by side. Where contexts make their numbers
    differ, the longer ones are cut at both ends alike (an odd frame at the right), so that frames of the same instant
    meet. Layers of different frame rates cannot be put side by side (UserError).
    aggregations: for levels of pooling `lde`, by name, the modules that turn (B, C, T) into a vector; see
    svq.distill.aggregation.
    """

    def __init__(self, net: nn.Module, levels: Sequence[Level], num_mels: int,
                 aggregations: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.levels = tuple(levels)
        self.aggregations = nn.ModuleDict()
        for number, level in enumerate(self.levels):
            if level.pool == "lde" and aggregations is not None:
                self.aggregations[str(number)] = aggregations[level.name].eval().requires_grad_(False)
        self.statistics = StatisticsPooling()
        self.taps = Taps(net, sorted({layer for level in levels for layer in level.layers} - {EMBEDDING}))
        self.clocks = self._measure(num_mels)

    def train(self, mode: bool = True):
        """Stays in evaluation mode whatever `mode` says: the teacher is frozen."""
        return super().train(False)  # stays frozen, whatever is trained around it

    @torch.no_grad()
    def forward(self, feats: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.taps(feats)
        return {level.name: self._value(str(number), level, [found[layer] for layer in level.layers])
                for number, level in enumerate(self.levels)}

    @torch.no_grad()
    def frames(self, feats: torch.Tensor, level: Level) -> torch.Tensor:
        """Computes the outputs of the level's layers side by side, not pooled: features (B, T, F) -> (B, C, T')."""
        found = self.taps(feats)
        return side_by_side([found[layer] for layer in level.layers])

    def clock(self, level: Level) -> Clock:
        """Returns the clock of the level's `frames`: that of the layer with the widest context."""
        return max((self.clocks[layer] for layer in level.layers if layer in self.clocks),
                   key=lambda clock: clock.lost, default=Clock())

    @property
    def shortest(self) -> int:
        """The fewest frames of an utterance for which every layer gives a frame."""
        return 1 + max((clock.lost for clock in self.clocks.values()), default=0)

    def _value(self, number: str, level: Level, outputs: list[torch.Tensor]) -> torch.Tensor:
        if level.pool == "none":
            value = side_by_side(outputs)
            return value.transpose(1, 2) if value.dim() == 3 else value
        if level.pool == "lde":
            return self.aggregations[number](side_by_side(outputs)).float()
        if level.pool == "mean":
            return torch.cat([output.mean(dim=2) for output in outputs], dim=1)
        return torch.cat([self.statistics(output) for output in outputs], dim=1)

    def _measure(self, num_mels: int) -> dict[str, Clock]:
        """Measures the clock of each frame-level layer with inputs of two lengths. UserError for levels of no use."""
        device = next((p.device for p in self.net.parameters()), "cpu")
        with torch.no_grad():
            short, long = (self.taps(torch.zeros(1, frames, num_mels, device=device)) for frames in PROBE)
        clocks = {}
        for layer in self.taps.layers:
            if short[layer].dim() == 3:
                clocks[layer] = _clock(layer, short[layer].shape[2], long[layer].shape[2])
        for level in self.levels:
            inner = [layer for layer in level.layers if layer in clocks]
            if level.pool != "none" and len(inner) != len(level.layers):
                layer = next(layer for layer in level.layers if layer not in clocks)
                raise UserError(f"level '{level.name}': layer '{layer}' gives one vector an utterance; there is "
                                "nothing to pool: write it with ':none'")
            strides = {clocks[layer].stride for layer in inner}
            if level.pool in ("none", "lde") and (len(strides) > 1 or 0 < len(inner) < len(level.layers)):
                raise UserError(f"level '{level.name}': its layers have different frame rates; pool each of them "
                                "('mean' or 'stats')")
        return clocks


class Taps:
    """Runs `net` and catches outputs of its modules by name: (B, C) or frame-level (B, C, T), float32.

    The output of `net` itself has the name EMBEDDING. A module's output (B, C, F, T) in a 2-d network is flattened to
    (B, C * F, T).
    """

    def __init__(self, net: nn.Module, layers: Sequence[str]):
        self.net, self.layers = net, tuple(layers)

    def __call__(self, feats: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        modules = dict(self.net.named_modules())
        with contextlib.ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(modules[layer].register_forward_hook(self._catch(found, layer)))
            found[EMBEDDING] = self.net(feats).float()
        lost = [layer for layer in self.layers if layer not in found]
        if lost:
            raise UserError(f"layer '{lost[0]}' does not run in the network's forward pass; name one that does")
        return found

    @staticmethod
    def _catch(found: dict, layer: str):
        def hook(_module, _inputs, output):
            if layer in found:
                raise UserError(f"layer '{layer}' runs more than once in a forward pass; name one that runs once")
            if not isinstance(output, torch.Tensor) or not 2 <= output.dim() <= 4:
                raise UserError(f"layer '{layer}' gives no tensor of 2 to 4 dimensions; name another")
            output = output.flatten(1, 2) if output.dim() == 4 else output
            found[layer] = output.float().clone()  # later modules may work in place

        return hook


def side_by_side(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenates outputs along channels: (B, C_i, T_i) -> (B, sum C_i, min T_i), or (B, C_i) -> (B, sum C_i).

    Longer ones are cut at both ends.
    """
    if outputs[0].dim() == 2:
        return torch.cat(list(outputs), dim=1)
    shortest = min(output.shape[2] for output in outputs)
    cut = [output.narrow(2, (output.shape[2] - shortest) // 2, shortest) for output in outputs]
    return torch.cat(cut, dim=1)


def _clock(layer: str, short: int, long: int) -> Clock:
    more = long - short
    if more <= 0 or (PROBE[1] - PROBE[0]) % more:
        raise UserError(f"layer '{layer}' gives {short} frames for {PROBE[0]} and {long} for {PROBE[1]}: no "
                        "frame-level layer; name one whose frames grow in step with the input's")
    stride = (PROBE[1] - PROBE[0]) // more
    lost = max(0, PROBE[0] - stride * short)
    return Clock(stride, lost // 2, lost)
