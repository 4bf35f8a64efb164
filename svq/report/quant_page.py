"""The page on quantization, from a recipe's exp/ folder: a float network and the systems made of it, in figures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from torch import nn

from svq.bits.sensitivity import read_sensitivity
from svq.config import from_dict
from svq.draw.figure import Drawn
from svq.draw.page import page, section
from svq.errors import UserError, some_of
from svq.models import load_model
from svq.quant.api import QuantConfig, float_weight, quantizable, quantizers
from svq.quant.quantizers import make_quantizer
from svq.report import quant_plots as plots
from svq.report.paper_table import Table, as_html
from svq.report.results import FAMILIES, FLOAT, Row, System, in_order, unique


def frontiers(rows: Sequence[Row], systems: dict[str, System]) -> list[Drawn]:
    """Draws EER against file size, a figure for each trial list. rows: of one back end and normalization."""
    figures = []
    for trials in unique(row.trials for row in rows):
        row_of = {row.system: row for row in rows if row.trials == trials}
        points = []
        for system in in_order(systems[name] for name in row_of):
            row = row_of[system.name]
            points.append(plots.Point(system.family, system.name, bool(system.variant), row.avg_bits,
                                      row.size_bytes / 1e6, row.eer, row.eer_low, row.eer_high))
        quantized = [point for point in points if point.family != FLOAT]
        if quantized:
            figures.append(plots.frontier(quantized, [point for point in points if point.family == FLOAT], trials))
    return figures


def of_layers(exp, parent: str, systems: Sequence[System], layer: str = "", methods: Sequence[str] = ("kmqat",),
              bits: Sequence[int] = (4, 3)) -> list[Drawn]:
    """Draws the figures that look into the networks; one that there is nothing to show for is left out.

    parent: the float system. systems: those made from it; what was exported has no layers to show. layer: its levels
    are shown (of the embedding layer by default), by each of `methods` at each of `bits`. Raises UserError for a layer
    that the network has not.
    """
    net, config = load_model(Path(exp) / parent)
    if config.quant is not None:
        raise UserError(f"{exp}/{parent}: a quantized system; name the float one that it was made from")
    weights = {name: float_weight(layer).detach() for name, layer in quantizable(net)}
    layer = layer or embedding_layer(net)
    if layer not in weights:
        raise UserError(f"{exp}/{parent}: no layer {layer} to quantize; it has {some_of(weights)}")
    figures = []
    for n in bits:
        shown = [levels_of(weights[layer], method, n) for method in methods]
        figures.append(plots.levels(weights[layer].numpy(), shown, n, layer))
    mixed = allocations(list(weights), systems)
    if mixed:
        figures.append(plots.bits_by_layer(_layers(Path(exp) / parent / "sensitivity.tsv", weights), mixed))
    rows = [_binarized(exp, system, weights) for system in systems
            if system.kind == "Binary" and not system.variant and system.family in ("Static", "Adaptive")]
    if rows:
        figures.append(plots.binarized(rows))
    return [*figures, plots.weight_densities([(name, weights[name].numpy()) for name in from_low_to_deep(weights)])]


def embedding_layer(net: nn.Module) -> str:
    """Finds the name of the last linear layer, or of the last layer of all where none is linear."""
    layers = list(quantizable(net))
    linear = [name for name, module in layers if isinstance(module, nn.Linear)]
    return linear[-1] if linear else layers[-1][0]


@torch.no_grad()
def levels_of(weight: torch.Tensor, method: str, bits: int) -> plots.Levels:
    """Gives the levels that `method` starts from for a float weight, one codebook for all of it, and how well they fit
    it."""
    config = from_dict({"method": method, "bits": bits, "per_channel": False}, QuantConfig, "levels to show")
    quantizer = make_quantizer(weight, config, bits).eval()
    codebook, codes = quantizer.codebook().numpy(), quantizer.codes(weight).numpy()
    error = float((quantizer(weight) - weight).double().square().sum() / weight.double().square().sum())
    counts = np.bincount(codes.ravel(), minlength=len(codebook))
    return plots.Levels(FAMILIES.get(method, method), codebook, counts, error)


def allocations(layers: Sequence[str], systems: Sequence[System]) -> list[plots.Allocation]:
    """Lists the mixed systems, each different sharing of bits once, with a uniform one of about as many bits."""
    uniform = [system for system in systems if system.bits and not system.mixed and not system.variant]
    # KMQAT where there are several: it is what the paper's mixed systems are made of.
    uniform.sort(key=lambda system: system.family != FAMILIES["kmqat"])
    found, seen = [], []
    for system in systems:
        if not system.mixed or system.bits in seen:
            continue
        seen.append(system.bits)
        near = min(uniform, key=lambda other: abs(other.average - system.average), default=None)
        reference = (near.name, near.bits[layers[0]]) if near is not None else None
        found.append(plots.Allocation(system.name, system.average, [system.bits[name] for name in layers], reference))
    return found


def _layers(sensitivity: Path, weights: dict[str, torch.Tensor]) -> list[plots.Layer]:
    """The layers in the order of the network, with their traces where the table is there."""
    traces = {}
    if sensitivity.is_file():
        traces = {row.layer: (row.trace, row.std_error) for row in read_sensitivity(sensitivity)}
    unknown = (np.nan, np.nan)
    return [plots.Layer(name, tuple(weight.shape), *traces.get(name, unknown)) for name, weight in weights.items()]


def _binarized(exp, system: System, weights: dict[str, torch.Tensor]) -> list[plots.Binarized]:
    """The first and the last convolution of a finetuned binary system; where it has none, its first and last layer."""
    net, _ = load_model(Path(exp) / system.name)
    layers = list(quantizers(net))
    layers = [found for found in layers if isinstance(found[1], (nn.Conv1d, nn.Conv2d))] or layers
    panels = []
    for name, layer, quantizer in (layers[0], layers[-1]):
        with torch.no_grad():
            values, counts = np.unique(quantizer(float_weight(layer)).numpy(), return_counts=True)
        panels.append(plots.Binarized(system.name, name, weights[name].numpy(), values, counts))
    return panels


def from_low_to_deep(weights: dict[str, torch.Tensor]) -> list[str]:
    """Names the first convolution, and for each width (output channels) of the network the last one wider than one
    frame.

    A network without such a convolution gives its first and its last layer.
    """
    wide = [name for name, weight in weights.items() if weight.dim() > 2 and weight[0, 0].numel() > 1]
    if not wide:
        return list(dict.fromkeys([next(iter(weights)), list(weights)[-1]]))
    last_of_width = {len(weights[name]): name for name in wide}
    return list(dict.fromkeys([wide[0], *last_of_width.values()]))


def render(title: str, tables: Sequence[Table], figures: Sequence[Drawn]) -> str:
    """Gives the page on quantization as HTML text."""
    parts = [f"<h3>{escape(table.backend)}, {escape(table.norm)}</h3>{as_html(table)}" for table in tables]
    sections = [("table", "Results", "".join(parts))] if parts else []
    sections += [(drawn.name, drawn.title, section(drawn)) for drawn in figures]
    summary = f"{len(tables[0].lines)} systems." if tables else ""
    return page(title, summary, sections, "Made by <code>steps/quant_report.sh</code>.")
