"""Rows of a layer analysis, and their tables: tab separated to compute with, Markdown and HTML to read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from svq.draw.tables import html_table, markdown_table

LOSSES = {"alone_eer": "EER, alone", "alone_mindcf": "minDCF, alone", "kept_eer": "EER, kept",
          "kept_mindcf": "minDCF, kept"}
PREDICTORS = {"relative_mse": "relative MSE of the weights (or SQNR)", "cosine_distance": "1 - cosine of the weights",
              "squared_error": "squared error of the weights", "weights": "number of weights",
              "output_mse": "relative MSE of its output", "drift": "drift of the embedding"}


@dataclasses.dataclass(frozen=True)
class SystemRow:
    """A network as a whole. system: `float`, `latent` (a finetuned one with the float weights behind its quantized
    ones), `renormed` (the quantized one with batch norms measured anew: a control) or `quantized`. eer in per cent,
    mindcf at p_target 0.01; loss: against `float`, or where there is none against `latent`. low, high: 95 % over
    speakers. drift: mean 1 - cosine of embeddings to the network with nothing quantized; nan for another network."""

    system: str
    eer: float
    eer_low: float
    eer_high: float
    eer_loss: float
    eer_loss_low: float
    eer_loss_high: float
    mindcf: float
    mindcf_low: float
    mindcf_high: float
    mindcf_loss: float
    mindcf_loss_low: float
    mindcf_loss_high: float
    drift: float


@dataclasses.dataclass(frozen=True)
class PartRow:
    """A part of the network. level: stage, block or layer. layers, weights: quantized ones in it, their number.

    sqnr (dB), relative_mse, cosine, squared_error: of its weights. output_mse, output_cosine: its output, and drift,
    drift_p95: the embedding, 1 - cosine, when it alone is quantized; alone_*: the error rates of that, and what they
    are above those with nothing quantized. kept_*: when it alone is in float; gain: what they are then below those of
    the whole quantized network; share: of the whole loss. nan where not measured, and for shares of no loss.
    """

    level: str
    part: str
    kind: str
    layers: int
    weights: int
    sqnr: float
    relative_mse: float
    cosine: float
    squared_error: float
    output_mse: float = math.nan
    output_cosine: float = math.nan
    drift: float = math.nan
    drift_p95: float = math.nan
    alone_eer: float = math.nan
    alone_eer_delta: float = math.nan
    alone_eer_low: float = math.nan
    alone_eer_high: float = math.nan
    alone_mindcf: float = math.nan
    alone_mindcf_delta: float = math.nan
    alone_mindcf_low: float = math.nan
    alone_mindcf_high: float = math.nan
    kept_drift: float = math.nan
    kept_eer: float = math.nan
    kept_eer_gain: float = math.nan
    kept_eer_low: float = math.nan
    kept_eer_high: float = math.nan
    kept_eer_share: float = math.nan
    kept_eer_share_low: float = math.nan
    kept_eer_share_high: float = math.nan
    kept_mindcf: float = math.nan
    kept_mindcf_gain: float = math.nan
    kept_mindcf_low: float = math.nan
    kept_mindcf_high: float = math.nan
    kept_mindcf_share: float = math.nan
    kept_mindcf_share_low: float = math.nan
    kept_mindcf_share_high: float = math.nan


@dataclasses.dataclass(frozen=True)
class MovedRow:
    """Move of the output of part `at` when `part` alone is quantized; part `all`: when every part is."""

    level: str
    part: str
    at: str
    relative_mse: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class CorrelationRow:
    """Correlation, over the parts of a level, of a predictor (of PREDICTORS) with a loss (of LOSSES):
    svq.analysis.layer_measures. p: two-sided, by permutation."""

    level: str
    predictor: str
    loss: str
    parts: int
    spearman: float
    spearman_low: float
    spearman_high: float
    spearman_p: float
    kendall: float
    kendall_low: float
    kendall_high: float
    kendall_p: float
    unexplained: float
    unexplained_low: float
    unexplained_high: float
    repeatable: float


@dataclasses.dataclass(frozen=True)
class Shown:
    """A table to read: heads, of which the first `left` are words, and cells."""

    heads: tuple[str, ...]
    left: int
    cells: list[tuple[str, ...]]

    def markdown(self) -> str:
        """Writes the table as Markdown."""
        return markdown_table(self.heads, self.cells, self.left) + "\n"

    def html(self) -> str:
        """Writes the table as HTML."""
        return html_table(self.heads, self.cells, self.left)


def systems(rows: Sequence[SystemRow]) -> Shown:
    """Makes the table of systems: EER and minDCF with intervals, what each lost, and the drift of embeddings."""
    heads = ("network", "EER (%)", "95 %", "EER loss", "95 %", "minDCF(0.01)", "95 %", "minDCF loss", "95 %", "drift")
    return Shown(heads, 1, [
        (row.system, _n(row.eer, ".2f"), _span(row.eer_low, row.eer_high, ".2f"), _n(row.eer_loss, "+.2f"),
         _span(row.eer_loss_low, row.eer_loss_high, "+.2f"), _n(row.mindcf, ".3f"),
         _span(row.mindcf_low, row.mindcf_high, ".3f"), _n(row.mindcf_loss, "+.3f"),
         _span(row.mindcf_loss_low, row.mindcf_loss_high, "+.3f"), _n(row.drift, ".2g")) for row in rows])


def distortions(rows: Sequence[PartRow]) -> Shown:
    """Makes the table of the parts' weights, and of what quantizing each part alone does."""
    heads = ("part", "what it is", "weights", "SQNR (dB)", "relative MSE", "cosine", "output: relative MSE",
             "output: cosine", "drift", "EER (%)", "EER rise", "95 %", "minDCF(0.01)", "minDCF rise", "95 %")
    return Shown(heads, 2, [
        (row.part, row.kind, f"{row.weights:,}", _n(row.sqnr, ".1f"), _n(row.relative_mse, ".3g"),
         _n(row.cosine, ".4f"), _n(row.output_mse, ".2g"), _n(row.output_cosine, ".4f"), _n(row.drift, ".2g"),
         _n(row.alone_eer, ".2f"), _n(row.alone_eer_delta, "+.2f"),
         _span(row.alone_eer_low, row.alone_eer_high, "+.2f"), _n(row.alone_mindcf, ".3f"),
         _n(row.alone_mindcf_delta, "+.3f"),
         _span(row.alone_mindcf_low, row.alone_mindcf_high, "+.3f")) for row in rows])


def retention(rows: Sequence[PartRow]) -> Shown:
    """Makes the table of the parts' error rates with all quantized but one part."""
    heads = ("left in float", "what it is", "weights", "EER (%)", "EER gain", "95 %", "share of the EER loss", "95 %",
             "minDCF(0.01)", "minDCF gain", "95 %", "share of the minDCF loss", "95 %", "drift")
    return Shown(heads, 2, [
        (row.part, row.kind, f"{row.weights:,}", _n(row.kept_eer, ".2f"), _n(row.kept_eer_gain, "+.2f"),
         _span(row.kept_eer_low, row.kept_eer_high, "+.2f"), _n(row.kept_eer_share, ".0%"),
         _span(row.kept_eer_share_low, row.kept_eer_share_high, ".0%"), _n(row.kept_mindcf, ".3f"),
         _n(row.kept_mindcf_gain, "+.3f"), _span(row.kept_mindcf_low, row.kept_mindcf_high, "+.3f"),
         _n(row.kept_mindcf_share, ".0%"), _span(row.kept_mindcf_share_low, row.kept_mindcf_share_high, ".0%"),
         _n(row.kept_drift, ".2g")) for row in rows if not math.isnan(row.kept_eer)])


def correlations(rows: Sequence[CorrelationRow]) -> Shown:
    """Makes the table of how well what is known before tells the loss of parts: rank correlations with intervals."""
    heads = ("parts", "what is known", "loss", "number", "Spearman", "95 %", "Spearman p", "Kendall", "95 %", "Kendall p",
             "unexplained", "95 %", "repeatable")
    return Shown(heads, 3, [
        (f"{row.level}s", PREDICTORS[row.predictor], LOSSES[row.loss], str(row.parts), _n(row.spearman, "+.2f"),
         _span(row.spearman_low, row.spearman_high, "+.2f"), _n(row.spearman_p, ".2g"), _n(row.kendall, "+.2f"),
         _span(row.kendall_low, row.kendall_high, "+.2f"), _n(row.kendall_p, ".2g"), _n(row.unexplained, ".0%"),
         _span(row.unexplained_low, row.unexplained_high, ".0%"), _n(row.repeatable, "+.2f")) for row in rows])


def of_level(rows: Sequence, level: str, wanted: Callable = lambda row: True) -> list:
    """Selects the rows of one level that `wanted` says yes to."""
    return [row for row in rows if row.level == level and wanted(row)]


def _n(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _span(low: float, high: float, form: str) -> str:
    return "-" if math.isnan(low) else f"{low:{form}} to {high:{form}}"
