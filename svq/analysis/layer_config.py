"""How layers are analysed, and in which parts: settings that are checked, and written beside the results.

Parts are quantized together or left in float: stages, blocks or single layers.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

from torch import nn

from svq.bits.block_sensitivity import BlockSensitivityConfig
from svq.config import check_choices
from svq.names import PART_LEVELS
from svq.nets.blocks import LISTS, blocks_of, module_of, titles_of
from svq.quant.api import QuantConfig, float_weight, quantizable
from svq.quant.ptq import PTQConfig


@dataclasses.dataclass(frozen=True)
class Part:
    """Layers that belong together. name: `layers.2-5` for members 2 to 5 of a list. kind: what it is, to read.
    layers: names of its layers. end: the module whose output is the part's; of a recurrent module's matrices the
    module, which is then the end of each of them."""

    name: str
    kind: str
    layers: tuple[str, ...]
    end: str


def parts_of(net: nn.Module, level: str) -> list[Part]:
    """The parts of `net`, in its order; every layer that can be quantized lies in just one.

    level `layer` and `block`: those of svq.nets.blocks. `stage`: neighbouring blocks of one list that are of the same
    class and as wide make one stage, as the four of a ResNet; every other block is a stage by itself (the stem,
    the pooling, the embedding). ValueError for another level.
    """
    if level not in PART_LEVELS:
        raise ValueError(f"level is '{level}'; it must be one of {', '.join(PART_LEVELS)}")
    blocks = blocks_of(net, "layer" if level == "layer" else "block")
    titles = titles_of(net, blocks)
    if level != "stage":
        return [Part(name, titles[name], tuple(layers), module_of(net, name)) for name, layers in blocks.items()]
    grouped = itertools.groupby(blocks, key=lambda name: _stage_of(net, name, blocks[name]))
    stages = [list(names) for _, names in grouped]
    return [Part(_joined(names), _kind(net, names, titles), tuple(layer for name in names for layer in blocks[name]),
                 names[-1]) for names in stages]


def _stage_of(net: nn.Module, block: str, layers: list[str]) -> tuple:
    """What blocks of one stage share."""
    parent = block.rpartition(".")[0]
    if not parent or type(net.get_submodule(parent)) not in LISTS:
        return (block,)
    weights = dict(quantizable(net))
    return parent, type(net.get_submodule(block)), float_weight(weights[layers[-1]]).shape[0]


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}-{names[-1].rpartition('.')[2]}"


def _kind(net: nn.Module, names: list[str], titles: dict[str, str]) -> str:
    return titles[names[0]] if len(names) == 1 else f"{len(names)} x {type(net.get_submodule(names[0])).__name__}"


@dataclasses.dataclass(frozen=True)
class LayerAnalysisConfig:
    """What is analysed, on which trials, and how.

    model: folder of a float network. It is quantized here, without training, as `quant` (and `ptq`) say; or, where
        `quantized` is given, losses are counted from it.
    quantized: folder of a finetuned quantized network, whose parts go back to the float weights behind their quantized
        ones. data, trials: Kaldi data directory and trial list.
    alone: levels (stage, block, layer) at which each part alone is quantized. kept: levels at which each part alone is
        left in float while all others are quantized.
    input, max_utts, max_seconds, center, batch_frames, device, seed: as in BlockSensitivityConfig.
    bootstrap: resamplings of the speakers for the intervals; 0: none. permutations: for the p-values.
    probes, probe_seconds: so many utterances of `data`, so much of each, for the drift of activations.
    norms_data: data directory, of training speakers, on 64 stretches of which batch norms are measured anew for every
        network but the quantized one as it was finetuned: its own do not fit other weights. None: they stay.
    ptq_data: what biases are corrected on, chosen by ptq_seed.
    model_digest, quantized_digest: of the networks' files, as they were.
    ValueError for values out of range or that contradict each other.
    """

    data: str
    trials: str
    model: str | None = None
    quantized: str | None = None
    quant: QuantConfig | None = None
    ptq: PTQConfig | None = None
    ptq_data: str | None = None
    ptq_seed: int = 1
    norms_data: str | None = None
    alone: tuple[str, ...] = ("stage", "layer")
    kept: tuple[str, ...] = ("stage",)
    input: Literal["auto", "feats", "wav"] = "auto"
    max_utts: int = 0
    max_seconds: float = 0.0
    center: bool = True
    bootstrap: int = 200
    permutations: int = 9999
    probes: int = 32
    probe_seconds: float = 3.0
    seed: int = 0
    batch_frames: int = 4000
    device: str = "cpu"
    model_digest: str = ""
    quantized_digest: str = ""

    def __post_init__(self):
        check_choices(self)
        for name in ("max_utts", "max_seconds", "bootstrap", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("batch_frames", "probes", "permutations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.probe_seconds < float("inf"):
            raise ValueError(f"probe_seconds is {self.probe_seconds}; it must be positive and finite")
        for name in ("alone", "kept"):
            for level in getattr(self, name):
                if level not in PART_LEVELS:
                    raise ValueError(f"{name}: '{level}' is no level; take some of {', '.join(PART_LEVELS)}")
        if not self.alone + self.kept:
            raise ValueError(f"alone and kept are both empty; name a level, {', '.join(PART_LEVELS)}")
        self._check_networks()

    def _check_networks(self):
        if self.quantized is None and (self.model is None or self.quant is None):
            raise ValueError("quant says how the float network of model is quantized: give both, or a finetuned "
                             "network as quantized")
        if self.quantized is not None and (self.quant is not None or self.ptq is not None):
            raise ValueError("quant and ptq have no effect on a network that is quantized already; leave them out")
        if self.quantized is None and self.norms_data is not None:
            raise ValueError("norms_data is for a finetuned network; one that is quantized here has the norms of its "
                             "float weights. Leave it out")
        if self.ptq is not None and self.ptq.measures and self.ptq_data is None:
            raise ValueError("ptq is measured on speech; give a data directory as ptq_data")
        if self.quantized is None:
            self.of_blocks()  # has checks of its own

    @property
    def levels(self) -> tuple[str, ...]:
        """Those asked for, from the coarsest on."""
        return tuple(level for level in PART_LEVELS if level in self.alone + self.kept)

    def of_blocks(self) -> BlockSensitivityConfig:
        """The same for svq.bits.block_run; ValueError for a quant that gives single layers their bits."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(BlockSensitivityConfig)
                  if field.name not in ("level", "model_digest")}
        return BlockSensitivityConfig(level="layer", **shared)
