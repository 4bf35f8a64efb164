"""Measures the cost of quantizing any set of blocks of a float network on a development list, and chooses such sets.

A choice is a preset, which a paper recommends, or is made from sensitivities for a goal.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from svq.backend.bootstrap import interval
from svq.bits import selection
from svq.bits.block_sensitivity import (
    ALL,
    FLOAT,
    BlockRow,
    BlockSensitivityConfig,
    MeasuringConfig,
    part_bytes,
    quantized_copy,
    read_blocks,
)
from svq.bits.selection import COSTS, PRESETS
from svq.bits.table import LayerBits
from svq.config import to_dict
from svq.data.extraction import calibration_features, digest_of
from svq.files import fingerprint
from svq.errors import UserError
from svq.evaluation.development import DevelopmentList, EmbeddingStore, Measured, drifts, measure
from svq.models import load_model
from svq.nets.blocks import blocks_of, titles_of
from svq.quant.api import FLOAT_BITS, float_weight, quantizable
from svq.quant.batchnorm_fold import fold_into_layers_

STEP_COLUMNS = ("block", "done", "bytes", "estimated_loss", "measured_loss")


def model_digest(folder) -> str:
    """Computes a digest of the files of a model's folder. Raises UserError where one of them is missing."""
    files = [os.path.join(folder, name) for name in ("config.yaml", "model.safetensors")]
    for path in files:
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such file; the folder of a model is needed")
    return fingerprint(*(("file", path) for path in files))


def listed_of(config: MeasuringConfig) -> DevelopmentList:
    """Reads the development list that `config` says to measure networks on."""
    return DevelopmentList(config.data, config.trials, config.max_utts, config.seed)


def store_of(config: MeasuringConfig, folder, listed: DevelopmentList, front_end, digest: str) -> EmbeddingStore:
    """Makes the store, in `folder`/embeddings, for the embeddings of `listed` by the network with this digest."""
    return EmbeddingStore(os.path.join(folder, "embeddings"), listed, front_end, digest, config.input,
                          config.max_seconds, config.batch_frames, config.device)


class BlockRun:
    """Measures the cost of quantizing sets of blocks of the network at `config.model`.

    folder: embeddings are kept in `folder`/embeddings. packed_net: the float network as it is packed, with batch norms
    folded where the settings say so. Raises UserError for a quantized model, and for one whose digest is not
    config.model_digest.
    """

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
        """Gives the float network as it is packed, and its config: batch norms are folded where the settings say so."""
        if self.config.ptq is None or not self.config.ptq.fold_batch_norm:
            return self.net, self.model
        net = copy.deepcopy(self.net)
        folded = fold_into_layers_(net, self.calibration[:2])
        return net, dataclasses.replace(self.model, folded=(self.model.folded or {}) | folded or None)

    @functools.cached_property
    def calibration(self) -> torch.Tensor | None:
        """Features (B, T, F) for the steps beside quantizing; random ones where only their shape matters, or None."""
        c, front_end = self.config, self.model.front_end
        if c.ptq is None:
            return None
        if c.ptq.measures:
            return calibration_features(c.ptq_data, front_end, c.ptq.utterances, c.ptq.crop_seconds, c.ptq_seed,
                                        c.input)
        return torch.randn(2, 200, front_end.num_mels, generator=torch.Generator().manual_seed(c.ptq_seed))

    @functools.cached_property
    def calibration_digest(self) -> str:
        """Digest of the calibration features' values, wherever they are read from; empty where they do not matter."""
        return digest_of(self.calibration) if self.config.ptq.measures else ""

    @property
    def listed(self) -> DevelopmentList:
        """The development list; read when it is first asked for."""
        if self._listed is None:
            self._listed = listed_of(self.config)
        return self._listed

    @property
    def store(self) -> EmbeddingStore:
        """The store of embeddings of this run; opened when it is first asked for."""
        if self._store is None:
            self._store = store_of(self.config, self.folder, self.listed, self.model.front_end,
                                   self.config.model_digest)
        return self._store

    def layers_of(self, blocks: Iterable[str]) -> list[str]:
        """Lists the layers of the given blocks, in the order of the network."""
        chosen = set(blocks)
        return [layer for name, layers in self.blocks.items() if name in chosen for layer in layers]

    def bytes(self, layers: Iterable[str]) -> int:
        """Computes the size of the packed file, in bytes, with only the given layers quantized."""
        return part_bytes(self.packed_net, layers, self.config.quant, self._packed_model)

    def variant(self, layers: list[str]) -> list:
        """Returns a list, for JSON, that identifies the network with only the given layers quantized."""
        c = self.config
        found = [layers, to_dict(c.quant)] if layers else []
        if layers and c.ptq is not None:
            found += [to_dict(c.ptq), c.ptq_seed, self.calibration_digest]
        return found

    def network(self, layers: list[str]) -> nn.Module:
        """Copies the network for inference, with only the given layers quantized."""
        c = self.config
        if c.device == "cpu":
            return quantized_copy(self.net, layers, c.quant, c.ptq, self.calibration)
        feats = None if self.calibration is None else self.calibration.to(c.device)
        return quantized_copy(copy.deepcopy(self.net).to(c.device), layers, c.quant, c.ptq, feats)

    def embeddings(self, layers: list[str], title: str) -> np.ndarray:
        """Gives the embeddings (N, D) of the list's utterances with only the given layers quantized."""
        return self.store.get(self.variant(layers), lambda: self.network(layers), title)

    def measured(self, layers: list[str], title: str) -> Measured:
        """Measures, on the development list, the network in which `layers` are quantized; title: what progress says."""
        c = self.config
        return measure(self.listed, self.embeddings(layers, title), c.center, c.bootstrap, c.seed)

    def row(self, name: str, kind: str, layers: list[str]) -> BlockRow:
        """Measures the cost of quantizing only the given layers, as the BlockRow of that name and kind."""
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
        """Measures the rows of a blocks.tsv: the float network, every block by itself, and all blocks together."""
        found = [self.row(FLOAT, type(self.net).__name__, [])]
        found += [self.row(name, self.titles[name], layers) for name, layers in self.blocks.items()]
        return [*found, self.row(ALL, type(self.net).__name__, self.layers_of(self.blocks))]


def float_blocks(name: str, net: nn.Module) -> list[str]:
    """Lists the blocks of `net` that the preset `name` leaves in float.

    Raises UserError for an unknown preset, and for one that is not for this network.
    """
    if name not in PRESETS:
        raise UserError(f"preset '{name}' is unknown; known: {', '.join(PRESETS)}")
    blocks = PRESETS[name].left_in_float(net)
    if not blocks:
        raise UserError(f"preset {name} is for {PRESETS[name].networks}; this network is a {type(net).__name__}")
    return blocks


def preset_bits(name: str, net: nn.Module, bits: int | None = None) -> list[LayerBits]:
    """Makes the rows of a bits.tsv for `net` by the preset `name`; `bits`, if given, in place of the preset's own.

    Raises UserError as `float_blocks` does.
    """
    bits = PRESETS[name].bits if bits is None and name in PRESETS else bits
    return bits_rows(net, float_blocks(name, net), bits)


def bits_rows(net: nn.Module, left_in_float, bits: int, level: str = "block") -> list[LayerBits]:
    """Makes the rows of a bits.tsv for `net`: `bits` for every layer, 32 for those of blocks in `left_in_float`."""
    blocks = blocks_of(net, level)
    kept = {layer for name in left_in_float for layer in blocks[name]}
    return [LayerBits(name, tuple(float_weight(layer).shape), None, FLOAT_BITS if name in kept else bits)
            for name, layer in quantizable(net)]


class Chooser:
    """Chooses blocks of a BlockRun by the blocks.tsv in its folder.

    goal: its `bytes` is the size of the packed file without a calibration, and it has no `megabytes`. measure: whether
    choices are measured jointly. say: called with a line for each step of a greedy search. steps: these steps as rows
    of STEP_COLUMNS. Raises UserError where blocks.tsv lacks a block of the network.
    """

    def __init__(self, run: BlockRun, goal: selection.SelectConfig, measure: bool = True,
                 say: Callable[[str], None] = lambda line: None):
        self.run, self.goal, self.measure, self.say, self.steps = run, goal, measure, say, []
        path = os.path.join(run.folder, "blocks.tsv")
        rows = {row.block: row for row in read_blocks(path)}
        unknown = [name for name in run.blocks if name not in rows]
        if unknown:
            raise UserError(f"{path}: no row for block {unknown[0]}; run svq.bin.block_sensitivity again")
        self.column = COSTS[goal.cost]
        loss = np.array([getattr(rows[name], self.column) for name in run.blocks])
        self.problem = selection.Selection(tuple(run.blocks), loss, lambda mask: run.bytes(self.layers(mask)))

    def layers(self, mask: np.ndarray) -> list[str]:
        """Lists the layers of the blocks in a mask (B,), in the order of the network."""
        return self.run.layers_of(name for name, chosen in zip(self.run.blocks, mask) if chosen)

    def chosen(self) -> np.ndarray:
        """Chooses the blocks to quantize, as a mask (B,). Raises UserError where the goal cannot be met."""
        goal = self.goal
        if goal.preset is not None:
            return self._preset(goal.preset)
        if goal.search == "exact":
            return (selection.exact_within_loss(self.problem, goal.max_eer_loss) if goal.bytes is None
                    else selection.exact_within_bytes(self.problem, goal.bytes))
        measured = self.measured if self.measure else None
        steps = (selection.greedy_within_loss(self.problem, goal.max_eer_loss, measured) if goal.bytes is None
                 else selection.greedy_within_bytes(self.problem, goal.bytes))
        mask = None
        for block, taken, mask in steps:
            self._note(block, taken, mask)
        return mask

    def _preset(self, name: str) -> np.ndarray:
        if self.run.config.level != "block":
            raise UserError(f"{self.run.folder}: measured layer by layer; a preset needs blocks")
        kept = float_blocks(name, self.run.net)
        return np.array([block not in kept for block in self.run.blocks])

    def measured(self, mask: np.ndarray) -> float:
        """Measures the loss of quantizing the blocks in a mask (B,) jointly."""
        return getattr(self.row(mask), self.column)

    def row(self, mask: np.ndarray):
        """Measures the blocks in a mask (B,), quantized jointly, as a BlockRow."""
        return self.run.row(f"{int(mask.sum())} blocks", "", self.layers(mask))

    def _note(self, block: int, taken: bool, mask: np.ndarray) -> None:
        joint = f"{self.measured(mask):.6g}" if self.measure and mask.any() else "nan"
        done = "quantized" if taken else "left in float"
        line = (self.problem.blocks[block], done, str(self.problem.file_bytes(mask)),
                f"{self.problem.total(mask):.6g}", joint)
        self.steps.append(line)
        known = f", {joint} measured" if self.measure else ""
        self.say(f"{line[0]}: {done}; {line[2]} bytes, loss {line[3]} by the sum of blocks{known}")

    def describe(self, mask: np.ndarray) -> str:
        """Describes a choice in one line: size, blocks that stay in float, the loss as estimated and as measured."""
        quant, kept = self.run.config.quant, self.problem.names(~mask)
        said = (f"{self.problem.file_bytes(mask)} bytes, {quant.method} {quant.bits} bits, in float: "
                f"{', '.join(kept) or 'nothing'}; {self.goal.cost} {self.problem.total(mask):+.4g} by the sum of "
                "blocks")
        if not self.measure:
            return said
        row = self.row(mask)
        joint = getattr(row, self.column)
        most = self.goal.max_eer_loss
        over = f", over the budget of {most:g}: losses do not add up here" if most is not None and joint > most else ""
        return (f"{said}, {joint:+.4g} measured{over}; EER {row.eer:.3f} % ({row.eer_delta:+.3f}), minDCF(0.01) "
                f"{row.mindcf:.4f} ({row.mindcf_delta:+.4f}), drift {row.drift:.3g}")
