"""A network of which any layers can be quantized and the others left in float, on a development list.

Two kinds: a float network that is quantized without training, and a finetuned quantized one whose layers go back to
the float weights that training kept behind the quantized ones. Batch norms can be measured anew for the mixtures.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.analysis.layer_config import LayerAnalysisConfig
from svq.bits.block_run import BlockRun, listed_of, model_digest, store_of
from svq.data.extraction import calibration_features, digest_of
from svq.errors import UserError
from svq.evaluation.development import DevelopmentList
from svq.models import load_model
from svq.quant.api import freeze_, quantizable, quantize_, quantizers
from svq.quant.base import detach_

_BATCH = 16  # utterances held at a time, at most


@torch.no_grad()
def measure_norms_(net: nn.Module, feats: torch.Tensor) -> nn.Module:
    """Means and variances of every batch norm of `net` become those of features (B, T, F), in place; returns `net`, in
    eval mode. Over several batches, as equal as can be, they are the mean of each batch's. Scales and shifts stay as
    they were learned. At least two utterances: norms behind the pooling see one value of each.
    """
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
        """What tells the network with these layers quantized from others; anything that JSON holds."""
        return self.run.variant(layers)

    def network(self, layers: list[str]) -> nn.Module:
        """For inference, with these layers quantized. Batch norms are folded without any, too, so that its parts can be
        set against those of the others."""
        if self.ptq is None or not layers:
            return _with_weights(self.net, self.weights, layers)
        return self.run.network(layers)

    def embeddings(self, layers: list[str], title: str) -> np.ndarray:
        """(N, D) of the list's utterances, with these layers quantized."""
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
        """What tells the network with these layers quantized from others; anything that JSON holds."""
        norms = digest_of(self.norms_feats) if self._changes(layers) else ""
        return ["quantized", layers, norms]

    def network(self, layers: list[str]) -> nn.Module:
        """For inference, with these layers quantized."""
        made = _with_weights(self.net, self.weights, layers)
        return measure_norms_(made, self.norms_feats) if self._changes(layers) else made

    def _changes(self, layers: list[str]) -> bool:
        """Whether batch norms are measured anew: not of the network as it was finetuned."""
        return self.norms_feats is not None and len(layers) < len(self.weights)

    def embeddings(self, layers: list[str], title: str) -> np.ndarray:
        return self.store.get(self.variant(layers), lambda: self.network(layers), title)

    def renormed_embeddings(self, title: str) -> np.ndarray:
        """(N, D) with all layers quantized, as it was finetuned, but batch norms measured anew: what that alone does."""
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
