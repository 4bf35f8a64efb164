"""A float network, its blocks and a development list: what any choice of quantized blocks costs on it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from svq.backend.bootstrap import interval
from svq.bits.block_sensitivity import ALL, FLOAT, BlockRow, BlockSensitivityConfig, part_bytes, quantized_copy
from svq.config import to_dict
from svq.data.extraction import calibration_features, digest_of
from svq.digest import fingerprint
from svq.errors import UserError
from svq.evaluation.development import DevelopmentList, EmbeddingStore, Measured, drifts, measure
from svq.models import load_model
from svq.nets.blocks import blocks_of, titles_of
from svq.quant.api import float_weight, quantizable
from svq.quant.batchnorm_fold import fold_into_layers_


def model_digest(folder) -> str:
    """A digest of the files of a model's folder; UserError where it is none."""
    files = [os.path.join(folder, name) for name in ("config.yaml", "model.safetensors")]
    for path in files:
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file; the folder of a model is needed")
    return fingerprint(*(("file", path) for path in files))


def listed_of(config) -> DevelopmentList:
    """The list that a BlockSensitivityConfig, or a config with fields of the same names, is measured on."""
    return DevelopmentList(config.data, config.trials, config.max_utts, config.seed)


def store_of(config, folder, listed: DevelopmentList, front_end, digest: str) -> EmbeddingStore:
    """Where embeddings of a network of this digest are kept, in `folder`/embeddings. config: as of `listed_of`."""
    return EmbeddingStore(os.path.join(folder, "embeddings"), listed, front_end, digest, config.input,
                          config.max_seconds, config.batch_frames, config.device)


class BlockRun:
    """Measures sets of quantized blocks. config: a BlockSensitivityConfig. folder: where embeddings are kept, in
    `folder`/embeddings. packed_net: the float network as it is packed, with batch norms folded where the settings say
    so. UserError for a quantized model, and for one that is not that of config.model_digest."""

    def __init__(self, config: BlockSensitivityConfig, folder):
        digest = model_digest(config.model)
        if config.model_digest not in ("", digest):
            raise UserError(f"{config.model}: has changed since {folder} was made; run svq.bin.block_sensitivity again")
        self.config = dataclasses.replace(config, model_digest=digest)
        self.net, self.model = load_model(config.model)
        if self.model.quant is not None:
            raise UserError(f"{config.model}: is quantized already; measure the float model that it was made from")
        self.blocks = blocks_of(self.net, config.level)
        self.titles = titles_of(self.net, self.blocks)
        self.weights = {name: float_weight(layer).numel() for name, layer in quantizable(self.net)}
        self.folder = folder
        self._listed = self._store = None
        self.packed_net, self._packed_model = self._folded()

    def _folded(self):
        """The network that is packed, and its config: with folded batch norms where the settings say so."""
        if self.config.ptq is None or not self.config.ptq.fold_batch_norm:
            return self.net, self.model
        net = copy.deepcopy(self.net)
        folded = fold_into_layers_(net, self.calibration[:2])
        return net, dataclasses.replace(self.model, folded=(self.model.folded or {}) | folded or None)

    @functools.cached_property
    def calibration(self) -> torch.Tensor | None:
        """(B, T, F) features for what is done beside quantizing; random ones where only their shape matters."""
        c, front_end = self.config, self.model.front_end
        if c.ptq is None:
            return None
        if c.ptq.measures:
            return calibration_features(c.ptq_data, front_end, c.ptq.utterances, c.ptq.crop_seconds, c.ptq_seed,
                                        c.input)
        return torch.randn(2, 200, front_end.num_mels, generator=torch.Generator().manual_seed(c.ptq_seed))

    @functools.cached_property
    def calibration_digest(self) -> str:
        """What of the calibration features the quantized network depends on: their values, wherever they are read."""
        return digest_of(self.calibration) if self.config.ptq.measures else ""

    @property
    def listed(self) -> DevelopmentList:
        if self._listed is None:
            self._listed = listed_of(self.config)
        return self._listed

    @property
    def store(self) -> EmbeddingStore:
        if self._store is None:
            self._store = store_of(self.config, self.folder, self.listed, self.model.front_end,
                                   self.config.model_digest)
        return self._store

    def layers_of(self, blocks: Iterable[str]) -> list[str]:
        """The layers of these blocks, in the order of the network."""
        chosen = set(blocks)
        return [layer for name, layers in self.blocks.items() if name in chosen for layer in layers]

    def bytes(self, layers: Iterable[str]) -> int:
        """Size of the packed file with these layers quantized."""
        return part_bytes(self.packed_net, layers, self.config.quant, self._packed_model)

    def variant(self, layers: list[str]) -> list:
        """What tells the network with these layers quantized from others; JSON holds it."""
        c = self.config
        found = [layers, to_dict(c.quant)] if layers else []
        if layers and c.ptq is not None:
            found += [to_dict(c.ptq), c.ptq_seed, self.calibration_digest]
        return found

    def network(self, layers: list[str]) -> nn.Module:
        """A copy for inference, with these layers quantized; the float network as it is without any."""
        c = self.config
        return quantized_copy(self.net, layers, c.quant, c.ptq, self.calibration)

    def embeddings(self, layers: list[str], title: str) -> np.ndarray:
        """(N, D) of the list's utterances, with these layers quantized."""
        return self.store.get(self.variant(layers), lambda: self.network(layers), title)

    def measured(self, layers: list[str], title: str) -> Measured:
        c = self.config
        return measure(self.listed, self.embeddings(layers, title), c.center, c.bootstrap, c.seed)

    def row(self, name: str, kind: str, layers: list[str]) -> BlockRow:
        """What it costs that just these layers are quantized."""
        origin, here = self._float(), self.measured(layers, name)
        moved = drifts(self.embeddings([], FLOAT), self.embeddings(layers, name))
        size = self.bytes(layers)
        return BlockRow(
            name, kind, len(layers), sum(self.weights[layer] for layer in layers), size, self.bytes([]) - size,
            here.eer, here.eer - origin.eer, *interval(here.eers - origin.eers),
            here.mindcf, here.mindcf - origin.mindcf, *interval(here.mindcfs - origin.mindcfs),
            float(moved.mean()), *(float(value) for value in np.quantile(moved, [0.5, 0.95, 1.0])))

    def _float(self) -> Measured:
        if not hasattr(self, "_origin"):
            self._origin = self.measured([], FLOAT)
        return self._origin

    def rows(self) -> list[BlockRow]:
        """Of the float network, every block, and all blocks together."""
        found = [self.row(FLOAT, type(self.net).__name__, [])]
        found += [self.row(name, self.titles[name], layers) for name, layers in self.blocks.items()]
        return [*found, self.row(ALL, type(self.net).__name__, self.layers_of(self.blocks))]
