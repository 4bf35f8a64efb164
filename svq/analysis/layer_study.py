"""Everything that is measured on the parts of a network: distortion, drift, losses alone, retention, correlations."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os

import numpy as np
import torch

from svq.analysis.layer_measures import (
    Change,
    Moved,
    change,
    correlate,
    distortion,
    drift,
    eer_change,
    mindcf_change,
    movements,
    pooled,
    share,
)
from svq.analysis.layer_subjects import FinetunedSubject, FloatSubject, LayerAnalysisConfig, Part, Reference, parts_of
from svq.analysis.layer_tables import PREDICTORS, CorrelationRow, MovedRow, PartRow, SystemRow
from svq.atomic import remove_leftovers
from svq.data.extraction import calibration_features, digest_of
from svq.files import fingerprint
from svq.errors import UserError
from svq.evaluation.development import Measured, measure
from svq.network import load_tensors, save_tensors

ALL = "all"


class LayerStudy:
    """Measures a network on a development list, part by part. folder: where embeddings (`embeddings`) and drifts of
    activations (`probes`) are kept, so that a run that was killed goes on. config: a LayerAnalysisConfig."""

    def __init__(self, config: LayerAnalysisConfig, folder):
        self.folder = folder
        self.subject = (FloatSubject if config.quantized is None else FinetunedSubject)(config, folder)
        self.reference, digests = None, {"model_digest": self.subject.digest}
        if config.quantized is not None:
            digests = {"quantized_digest": self.subject.digest}
            if config.model is not None:
                self.reference = Reference(config, folder, self.subject.listed)
                digests["model_digest"] = self.reference.digest
        self.config = dataclasses.replace(config, **digests)
        self.all = list(self.subject.weights)
        self.distortion = {name: distortion(*pair) for name, pair in self.subject.weights.items()}
        self.parts = {level: self._quantized_parts(level) for level in config.levels}
        self._losses: dict[tuple[str, str], list[Change]] = collections.defaultdict(list)
        self._measured: dict[tuple[str, ...], Measured] = {}

    def _quantized_parts(self, level: str) -> list[Part]:
        """Parts with layers that are quantized, and only these layers of them."""
        kept = [dataclasses.replace(part, layers=tuple(name for name in part.layers if name in self.subject.weights))
                for part in parts_of(self.subject.net, level)]
        return [part for part in kept if part.layers]

    def measured(self, layers: list[str], title: str) -> Measured:
        """Measures the error rates with these layers quantized. title: of the work, for its progress."""
        key = tuple(layers)
        if key not in self._measured:
            self._measured[key] = self._measure(self.subject.embeddings(layers, title))
        return self._measured[key]

    def _measure(self, vectors: np.ndarray) -> Measured:
        c = self.config
        return measure(self.subject.listed, vectors, c.center, c.bootstrap, c.seed)

    @functools.cached_property
    def origin(self) -> Measured:
        """Measures the float network, which losses are counted from."""
        return self.measured([], "float") if self.reference is None else self._measure(self.reference.embeddings)

    @functools.cached_property
    def loss(self) -> tuple[Change, Change]:
        """EER and minDCF that quantizing everything costs."""
        whole = self.measured(self.all, ALL)
        return eer_change(whole, self.origin), mindcf_change(whole, self.origin)

    def systems(self) -> list[SystemRow]:
        """Gives a row for the float network and one for the quantized one. A finetuned one has two rows more: with its
        float weights, and quantized with batch norms measured anew, as those of its parts are."""
        rows = []
        if self.reference is not None:
            rows.append(self._system("float", self.origin, np.nan))
        nothing = "float" if self.config.quantized is None else "latent"
        moved = drift(self.subject.embeddings([], nothing), self.subject.embeddings(self.all, ALL))[0]
        rows.append(self._system(nothing, self.measured([], nothing), 0.0))
        if self.config.norms_data is not None:
            vectors = self.subject.renormed_embeddings("renormed")
            rows.append(self._system("renormed", self._measure(vectors),
                                     drift(self.subject.embeddings([], nothing), vectors)[0]))
        return [*rows, self._system("quantized", self.measured(self.all, ALL), moved)]

    def _system(self, name: str, here: Measured, moved: float) -> SystemRow:
        nothing = np.zeros(self.config.bootstrap)
        found = (change(here.eer, 0, here.eers, nothing), eer_change(here, self.origin),
                 change(here.mindcf, 0, here.mindcfs, nothing), mindcf_change(here, self.origin))
        return SystemRow(name, *(value for each in found for value in (each.value, each.low, each.high)), moved)

    def rows(self) -> list[PartRow]:
        """Gives a row for every part of every level, in the order of the network."""
        return [self._row(level, part) for level, parts in self.parts.items() for part in parts]

    def _row(self, level: str, part: Part) -> PartRow:
        found = pooled(self.distortion[name] for name in part.layers)
        values = {}
        if level in self.config.alone:
            values |= self._alone(level, part)
        if level in self.config.kept:
            values |= self._kept(level, part)
        return PartRow(level, part.name, part.kind, len(part.layers), found.weights, found.sqnr, found.relative_mse,
                       found.cosine, found.error, **values)

    def _alone(self, level: str, part: Part) -> dict[str, float]:
        """Measures of the network with this part alone quantized."""
        layers, title = list(part.layers), f"{part.name} quantized"
        here, origin = self.measured(layers, title), self.measured([], "float")
        at_output = self.moved(layers, level)[part.end]
        moved = drift(self.subject.embeddings([], "float"), self.subject.embeddings(layers, title))
        values = {"output_mse": at_output.relative_mse, "output_cosine": at_output.cosine, "drift": moved[0],
                  "drift_p95": moved[1], "alone_eer": here.eer, "alone_mindcf": here.mindcf}
        for name, cost in (("eer", eer_change(here, origin)), ("mindcf", mindcf_change(here, origin))):
            self._losses[level, f"alone_{name}"].append(cost)
            values |= {f"alone_{name}_delta": cost.value, f"alone_{name}_low": cost.low,
                       f"alone_{name}_high": cost.high}
        return values

    def _kept(self, level: str, part: Part) -> dict[str, float]:
        """Measures of the network with all quantized but this part."""
        layers, title = [name for name in self.all if name not in part.layers], f"all but {part.name} quantized"
        here, whole = self.measured(layers, title), self.measured(self.all, ALL)
        moved = drift(self.subject.embeddings([], "float"), self.subject.embeddings(layers, title))
        values = {"kept_drift": moved[0], "kept_eer": here.eer, "kept_mindcf": here.mindcf}
        gains = (eer_change(whole, here), mindcf_change(whole, here))
        for name, gain, loss in zip(("eer", "mindcf"), gains, self.loss):
            self._losses[level, f"kept_{name}"].append(gain)
            part_of = share(gain, loss)
            values |= {f"kept_{name}_gain": gain.value, f"kept_{name}_low": gain.low, f"kept_{name}_high": gain.high,
                       f"kept_{name}_share": part_of.value, f"kept_{name}_share_low": part_of.low,
                       f"kept_{name}_share_high": part_of.high}
        return values

    def moved(self, layers: list[str], level: str) -> dict[str, Moved]:
        """Measures how far outputs move when these layers are quantized: module at which a part of the level ends ->
        its move."""
        names = list(dict.fromkeys(part.end for part in self.parts[level]))
        key = fingerprint(self.subject.digest, self.subject.variant(layers), names, self.probes[1], self.config.device)
        path = os.path.join(self.folder, "probes", f"{key}.safetensors")
        if not os.path.exists(path):
            remove_leftovers(path)
            before, after = (self.subject.network(part).to(self.config.device) for part in ([], layers))
            found = movements(before, after, self.probes[0].to(self.config.device), names)
            table = [dataclasses.astuple(found[name]) for name in names]
            save_tensors(path, {"moved": torch.tensor(table, dtype=torch.float64)})
        table = load_tensors(path).get("moved")
        if table is None or table.shape != (len(names), 2):
            raise UserError(f"{path}: not the drifts of these parts; remove the file")
        return {name: Moved(*row) for name, row in zip(names, table.tolist())}

    @functools.cached_property
    def probes(self) -> tuple[torch.Tensor, str]:
        """(B, T, F) features that go through the networks for the drift of activations, and their digest."""
        c = self.config
        feats = calibration_features(c.data, self.subject.front_end, c.probes, c.probe_seconds, c.seed, c.input)
        return feats, digest_of(feats)

    def movements(self) -> list[MovedRow]:
        """Gives the moves at the outputs of all parts, in order, for each part quantized alone and for all of them."""
        rows = []
        for level in (level for level in self.parts if level in self.config.alone):
            sources = [(part.name, list(part.layers)) for part in self.parts[level]] + [(ALL, self.all)]
            for name, layers in sources:
                found = self.moved(layers, level)
                rows += [MovedRow(level, name, part.name, *dataclasses.astuple(found[part.end]))
                         for part in self.parts[level]]
        return rows

    def correlations(self, rows: list[PartRow]) -> list[CorrelationRow]:
        """Correlates what is known of the parts with what they cost. rows: of `rows()`; a level of fewer than three
        gives none."""
        found = []
        for (level, loss), changes in self._losses.items():
            here = [row for row in rows if row.level == level]
            values, samples = np.array([c.value for c in changes]), np.stack([c.samples for c in changes])
            for predictor in PREDICTORS:
                x = np.array([_predictor(row, predictor) for row in here])
                if len(here) < 3 or np.isnan(x).any():
                    continue
                found.append(_correlation_row(level, predictor, loss, correlate(
                    x, values, samples, self.config.permutations, self.config.seed)))
        return found


def _predictor(row: PartRow, name: str) -> float:
    return 1 - row.cosine if name == "cosine_distance" else float(getattr(row, name))


def _correlation_row(level: str, predictor: str, loss: str, found) -> CorrelationRow:
    pairs = (value for each in (found.spearman, found.kendall) for value in dataclasses.astuple(each))
    return CorrelationRow(level, predictor, loss, found.parts, *pairs, found.unexplained, found.unexplained_low,
                          found.unexplained_high, found.repeatable)
