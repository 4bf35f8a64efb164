"""Choices of blocks to quantize: what papers recommend, by name, and one made from sensitivities for a goal."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from torch import nn

from svq.bits import selection
from svq.bits.block_run import BlockRun
from svq.bits.block_sensitivity import read_blocks
from svq.bits.selection import COSTS, PRESETS
from svq.bits.table import LayerBits
from svq.errors import UserError
from svq.nets.blocks import blocks_of
from svq.quant.api import FLOAT_BITS, float_weight, quantizable


def float_blocks(name: str, net: nn.Module) -> list[str]:
    """Names of the blocks of `net` that the preset leaves in float; UserError for one that is not for this network."""
    if name not in PRESETS:
        raise UserError(f"preset '{name}' is unknown; known: {', '.join(PRESETS)}")
    blocks = PRESETS[name].left_in_float(net)
    if not blocks:
        raise UserError(f"preset {name} is for {PRESETS[name].networks}; this network is a {type(net).__name__}")
    return blocks


def preset_bits(name: str, net: nn.Module, bits: int | None = None) -> list[LayerBits]:
    """The preset's bits of every layer of `net`, as rows of a bits.tsv; `bits` in place of the preset's own."""
    bits = PRESETS[name].bits if bits is None and name in PRESETS else bits
    return bits_rows(net, float_blocks(name, net), bits)


def bits_rows(net: nn.Module, left_in_float, bits: int, level: str = "block") -> list[LayerBits]:
    """Rows of a bits.tsv: `bits` for every layer, 32 for those of the blocks named in `left_in_float`."""
    blocks = blocks_of(net, level)
    kept = {layer for name in left_in_float for layer in blocks[name]}
    return [LayerBits(name, tuple(float_weight(layer).shape), None, FLOAT_BITS if name in kept else bits)
            for name, layer in quantizable(net)]


STEP_COLUMNS = ("block", "done", "bytes", "estimated_loss", "measured_loss")


class Chooser:
    """Chooses blocks of a BlockRun by the blocks.tsv in its folder.

    goal: with `bytes` as the size of the packed file without a calibration, and no `megabytes`. measure: whether choices
    are measured jointly.

    say: called with a line for each step of a greedy search. steps: these as rows of STEP_COLUMNS.
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
        """Layers of the blocks in a mask."""
        return self.run.layers_of(name for name, chosen in zip(self.run.blocks, mask) if chosen)

    def chosen(self) -> np.ndarray:
        """The mask (B,) of quantized blocks; UserError where the goal cannot be met."""
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
            raise UserError(f"{self.run.folder}: measured layer by layer; a preset goes by blocks")
        kept = float_blocks(name, self.run.net)
        return np.array([block not in kept for block in self.run.blocks])

    def measured(self, mask: np.ndarray) -> float:
        """The loss of quantizing these blocks jointly."""
        return getattr(self.row(mask), self.column)

    def row(self, mask: np.ndarray):
        """A BlockRow of these blocks, quantized jointly."""
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
        """One line: size, what stays in float, the loss as estimated and as measured."""
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
