"""Subjects of a layer analysis: networks of which any layers can be quantized, their parts, trials, and settings.

Settings are checked, and written beside the results. Parts are quantized together or left in float: stages, blocks or
single layers.

Networks are of two kinds: a float one that is quantized without training, and a finetuned quantized one whose layers go
back to the float weights that training kept behind the quantized ones. Batch norms can be measured anew for the
mixtures.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.bits.block_run import BlockRun, listed_of, model_digest, store_of
from svq.bits.block_sensitivity import BlockSensitivityConfig, MeasuringConfig
from svq.data.extraction import calibration_features, digest_of
from svq.errors import UserError
from svq.evaluation.development import DevelopmentList
from svq.models import load_model
from svq.names import PART_LEVELS
from svq.nets.blocks import LISTS, blocks_of, module_of, titles_of
from svq.quant.api import QuantConfig, float_weight, freeze_, quantizable, quantize_, quantizers
from svq.quant.base import detach_

_BATCH = 16  # utterances held at a time, at most


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
    """Lists the parts of `net`, in its order; every layer that can be quantized lies in just one.

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
    """A key that blocks of one stage share."""
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
class LayerAnalysisConfig(MeasuringConfig):
    """Settings of a layer analysis.

    model: folder of a float network. It is quantized here, without training, as `quant` (and `ptq`) say; or, where
        `quantized` is given, losses are counted from it.
    quantized: folder of a finetuned quantized network, whose parts go back to the float weights behind their quantized
        ones.
    alone: levels (stage, block, layer) at which each part alone is quantized. kept: levels at which each part alone is
        left in float while all others are quantized.
    permutations: how many are drawn for a p-value.
    probes, probe_seconds: how many utterances of `data`, and how much of each, show the drift of activations.
    norms_data: data directory, of training speakers, on 64 stretches of which batch norms are measured anew for every
        network but the quantized one as it was finetuned: its own do not fit other weights. None: they stay.
    ptq_data: what biases are corrected on, chosen by ptq_seed.
    model_digest, quantized_digest: of the networks' files, as they were.
    ValueError for values out of range or that contradict each other.
    """

    model: str | None = None
    quantized: str | None = None
    quant: QuantConfig | None = None
    norms_data: str | None = None
    alone: tuple[str, ...] = ("stage", "layer")
    kept: tuple[str, ...] = ("stage",)
    permutations: int = 9999
    probes: int = 32
    probe_seconds: float = 3.0
    quantized_digest: str = ""

    def __post_init__(self):
        super().__post_init__()
        for name in ("probes", "permutations"):
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
        """Gives the levels asked for, from the coarsest on."""
        return tuple(level for level in PART_LEVELS if level in self.alone + self.kept)

    def of_blocks(self) -> BlockSensitivityConfig:
        """Gives these settings for svq.bits.block_run. Raises ValueError for a quant that gives single layers their
        bits."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(BlockSensitivityConfig)
                  if field.name not in ("level", "model_digest")}
        return BlockSensitivityConfig(level="layer", **shared)


@torch.no_grad()
def measure_norms_(net: nn.Module, feats: torch.Tensor) -> nn.Module:
    """Sets means and variances of every batch norm of `net` to those of features (B, T, F), in place; gives `net`, in
    eval mode. Several batches, as equal as can be, give the mean over the batches. Scales and shifts stay as they were
    learned. B must be 2 or more: norms behind the pooling see one value of each utterance."""
    norms = [module for module in net.eval().modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    for batch in feats.tensor_split(-(-len(feats) // _BATCH)):  # none is left with a single utterance
        net(batch)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return net.eval()


class FloatSubject:
    """The float network of config.model, quantized as config.quant and config.ptq say.

    weights: name of each layer that can be quantized -> (float, quantized), in the order of the network. Batch norms
    are folded into the float ones where config.ptq says so. Embeddings are kept in `folder`/embeddings.
    """

    def __init__(self, config: LayerAnalysisConfig, folder):
        self.run = BlockRun(config.of_blocks(), folder)
        self.ptq, self.digest = config.ptq, self.run.config.model_digest
        self.net = self.run.packed_net
        self.listed, self.front_end = self.run.listed, self.run.model.front_end
        self.method = f"{config.quant.method}, {config.quant.bits} bits"
        after = dict(quantizable(freeze_(quantize_(copy.deepcopy(self.net), config.quant))))
        self.weights = {name: (layer.weight.detach(), after[name].weight.detach())
                        for name, layer in quantizable(self.net)}

    def variant(self, layers: list[str]):
        """Gives what tells the network with these layers quantized from others; anything that JSON holds."""
        return self.run.variant(layers)

    def network(self, layers: list[str]) -> nn.Module:
        """Makes the network for inference, with these layers quantized. Batch norms are folded even if none is
        quantized, so that its parts can be set against those of the others."""
        if self.ptq is None or not layers:
            return _with_weights(self.net, self.weights, layers)
        return self.run.network(layers)

    def embeddings(self, layers: list[str], title: str) -> np.ndarray:
        """Gives the embeddings (N, D) of the list's utterances, with these layers quantized."""
        return self.run.embeddings(layers, title)


class FinetunedSubject:
    """The quantized network of config.quantized; weights, embeddings as in FloatSubject, of the layers it quantizes.

    Batch norms of the networks made of it are measured anew on config.norms_data, where that is given.
    UserError where config.quantized is no model folder or holds a float network.
    """

    def __init__(self, config: LayerAnalysisConfig, folder):
        path = config.quantized
        if os.fspath(path).endswith(".svq"):
            raise UserError(f"{path}: a packed file holds no float weights to go back to; give the model folder that "
                            "it was packed from")
        self.digest = model_digest(path)
        self.net, model = load_model(path)
        if model.quant is None:
            raise UserError(f"{path}: a float network; give it as the float model, with a config that says how to "
                            "quantize")
        self.weights = {}
        with torch.no_grad():
            for name, layer, _ in list(quantizers(self.net)):
                quantized = layer.weight.detach().clone()
                detach_(layer, keep_quantized=False)
                self.weights[name] = (layer.weight.detach(), quantized)
        self.listed = listed_of(config)
        self.front_end = model.front_end
        average = "mixed" if model.quant.layers else model.quant.bits
        self.method = f"{model.quant.method}, {average} bits, finetuned"
        self.store = store_of(config, folder, self.listed, model.front_end, self.digest)
        self.norms_feats = None
        if config.norms_data is not None:
            self.norms_feats = calibration_features(config.norms_data, model.front_end, seed=config.seed,
                                                    input=config.input)
            if len(self.norms_feats) < 2:
                raise UserError(f"{config.norms_data}: one utterance says nothing of batch norms; give a data "
                                "directory with more, as norms_data")
            self.method += ", batch norms measured anew where a part is in float"

    def variant(self, layers: list[str]):
        """Gives what tells the network with these layers quantized from others; anything that JSON holds."""
        norms = digest_of(self.norms_feats) if self._changes(layers) else ""
        return ["quantized", layers, norms]

    def network(self, layers: list[str]) -> nn.Module:
        """Makes the network for inference, with these layers quantized."""
        made = _with_weights(self.net, self.weights, layers)
        return measure_norms_(made, self.norms_feats) if self._changes(layers) else made

    def _changes(self, layers: list[str]) -> bool:
        """Whether batch norms are measured anew: not of the network as it was finetuned."""
        return self.norms_feats is not None and len(layers) < len(self.weights)

    def embeddings(self, layers: list[str], title: str) -> np.ndarray:
        """Gives the embeddings, (N, D), of the network in which `layers` alone are quantized; kept ones are read."""
        return self.store.get(self.variant(layers), lambda: self.network(layers), title)

    def renormed_embeddings(self, title: str) -> np.ndarray:
        """Gives (N, D) of the network as it was finetuned, all quantized, but with batch norms measured anew: what that
        alone does."""
        layers = list(self.weights)
        return self.store.get(["renormed", layers, digest_of(self.norms_feats)], lambda: measure_norms_(
            _with_weights(self.net, self.weights, layers), self.norms_feats), title)


class Reference:
    """The float network of config.model, from which losses of a finetuned one are counted."""

    def __init__(self, config: LayerAnalysisConfig, folder, listed: DevelopmentList):
        self.digest = model_digest(config.model)
        self.net, model = load_model(config.model)
        if model.quant is not None:
            raise UserError(f"{config.model}: is quantized; give the float model that losses are counted from")
        self.store = store_of(config, folder, listed, model.front_end, self.digest)

    @functools.cached_property
    def embeddings(self) -> np.ndarray:
        """(N, D) of the list's utterances."""
        return self.store.get([], lambda: copy.deepcopy(self.net), "reference")


@torch.no_grad()
def _with_weights(net: nn.Module, weights: dict, layers: Iterable[str]) -> nn.Module:
    """A copy of `net`, in eval mode, with the quantized ones of `weights` in these layers."""
    made = copy.deepcopy(net).eval()
    found = dict(quantizable(made))
    for name in layers:
        found[name].weight.copy_(weights[name][1])
    return made
