"""Score analysis: what quantization did to the scores of several systems on several trial lists, with intervals.

Maps to float scores, calibrations, the threshold and the bins of distance are fitted on the development list alone.
After "On Low-Bit Quantization Errors in Speaker Verification: Diagnostic and Mitigation", section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from svq.analysis import score_measures as measures
from svq.analysis.score_lists import (
    RAW,
    ScoreAnalysisConfig,
    ScoredList,
    distance_edges,
    distance_groups,
    read_list,
    score_file,
)
from svq.analysis.score_measures import ALL, Bin, Knee, ScoreRow, find_knee, make_row, reliability_bins
from svq.backend import calibration
from svq.backend.bootstrap import eer_measure, min_cllr_measure, min_dcf_measure
from svq.backend.metrics import bayes_threshold, eer_threshold
from svq.backend.score_map import FITS, AffineMap, ScoreMap, class_weights
from svq.errors import UserError
from svq.names import list_name
from svq.progress import progress
from svq.report.collect import read_summary


@dataclass
class Fitted:
    """Results of the fits on the development list.

    calibrations: system -> Calibration. maps: system -> scale -> map to the reference's scores. threshold: a score of
    the reference. edges: distances from it, see distance_edges. notes: warnings of the fits.
    """

    calibrations: dict[str, calibration.Calibration]
    maps: dict[str, dict[str, ScoreMap]]
    threshold: float
    edges: np.ndarray
    notes: list[str] = field(default_factory=list)

    def scale(self, system: str, name: str, score) -> np.ndarray:
        """Gives scores (n,) of a system on a scale, to be set against the reference's."""
        return score if name == RAW else self.maps[system][name](score)


def fit(dev: ScoredList, config: ScoreAnalysisConfig) -> Fitted:
    """Fits calibrations, maps and the threshold on the development list. Raises UserError naming scores that cannot be
    fitted.

    Calibrations and maps say of which score they are and, where steps/calibrate.sh has written it, which mean embedding
    was subtracted.
    """
    reference = config.parsed[0].name
    target = dev.samples.target
    weights = class_weights(target, config.prior)
    calibrations, maps, notes = {}, {}, []
    for name, score in dev.scores.items():
        path = score_file(config, name, dev.name)
        said = config.scores, _saved_mean(config, name, dev.name)
        try:
            found = calibration.fit(score[target], score[~target], config.prior,
                                    warn=lambda line, path=path: notes.append(f"{path}: {line}."))
            maps[name] = {kind: make(score, dev.scores[reference], weights).of(*said) for kind, make in FITS.items()}
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        calibrations[name] = found.of(*said)
        maps[name]["logistic"] = by_calibrations(calibrations[name], calibrations[reference])
    score = dev.scores[reference]
    if config.operating_point == "eer":
        threshold = eer_threshold(score[target], score[~target])
    else:
        own = calibrations[reference]
        threshold = (bayes_threshold(config.p_target, config.c_miss, config.c_fa) - own.offset) / own.slope
    return Fitted(calibrations, maps, threshold, distance_edges(score, threshold), notes)


def by_calibrations(low: calibration.Calibration, reference: calibration.Calibration) -> AffineMap:
    """Makes the map from a low-bit score to the score of the reference that has the same log-likelihood ratio."""
    shift = (low.offset - reference.offset) / reference.slope
    return AffineMap(low.slope / reference.slope, shift, low.score, low.mean)


def _saved_mean(config, system: str, dev: str) -> str | None:
    path = score_file(config, system, dev, "calibration.json")
    saved = calibration.Calibration.load(path) if path.is_file() else None
    return saved.mean if saved is not None and saved.score == config.scores else None


LLR, ORDER = "llr", "order"  # scales of measures that are not set against float
KNEES = ("eer", "mindcf", "cllr", "rms", "harmful")


@dataclass
class Analysis:
    """Results of a score analysis. rows: every measure. knees: list -> measure -> Knee, empty without a sweep.
    reliability: list -> system -> points. sizes: list -> targets, non-targets, speakers. group_sizes: (list, kind,
    group) -> targets, non-targets. bits: system -> bits."""

    config: ScoreAnalysisConfig
    fitted: Fitted
    bits: dict[str, float]
    rows: list[ScoreRow] = field(default_factory=list)
    knees: dict[str, dict[str, Knee]] = field(default_factory=dict)
    reliability: dict[str, dict[str, list[Bin]]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    group_sizes: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def reference(self) -> str:
        """The name of the system that the others are compared with."""
        return self.config.parsed[0].name

    @property
    def compared(self) -> list[str]:
        """The names of the systems that are compared with the reference."""
        return [system.name for system in self.config.parsed[1:]]


def analyse(config: ScoreAnalysisConfig) -> Analysis:
    """Analyses all lists. Raises UserError for scores that cannot be read or fitted, and for two lists of one name."""
    _check_names(config.trials)
    bits = {system.name: float(system.bits or read_summary(config.exp, system.name)["avg_bits"])
            for system in config.parsed}
    lists = [read_list(path, config) for path in config.trials]
    out = Analysis(config, fit(lists[0], config), bits)
    sweep, note = swept(out)
    out.notes += [*out.fitted.notes, *([note] if note else [])]
    for listed in lists:
        _analyse_list(out, listed, sweep)
    return out


def _check_names(trials: Sequence[str]) -> None:
    """UserError where two lists have one name, by which scores are found and results go."""
    names = [list_name(path) for path in trials]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise UserError(f"{trials[i]}: is list {name}, and so is {trials[names.index(name)]}; leave one out")


def swept(out: Analysis) -> tuple[list[str], str]:
    """Gives the systems in which the knee is looked for, and a note where there are none."""
    names = list(out.config.sweep) or out.compared
    bits = [out.bits[name] for name in names]
    if len(set(bits)) < len(bits):
        return [], "No knee: several systems have the same bits; name one of each as the sweep."
    if len(bits) < 3:
        return [], "No knee: it takes systems of three different bits."
    return names, ""


def _analyse_list(out: Analysis, listed: ScoredList, sweep: list[str]) -> None:
    samples, config = listed.samples, out.config
    everything = np.ones(len(samples.target), dtype=bool)
    reference = listed.scores[out.reference]
    groups = listed.groups + distance_groups(reference, out.fitted.threshold, out.fitted.edges)
    targets = int(samples.target.sum())
    out.sizes[listed.name] = targets, len(everything) - targets, samples.draws.shape[1]
    out.notes += listed.notes
    out.reliability[listed.name] = {}
    for group in groups:
        there = samples.target[group.rows]
        out.group_sizes[listed.name, *group[:2]] = int(there.sum()), int((~there).sum())
    base: dict = {}
    curves = {}
    for system in progress([out.reference, *out.compared], len(listed.scores), listed.name):
        names = dict(trials=listed.name, system=system, bits=out.bits[system])
        alone = _alone(out, listed, system, everything)
        base = base or alone
        out.rows += [make_row(names | dict(scale=scale, kind=kind, group=group), measure, values,
                              None if base is alone else base[scale, kind, group, measure])
                     for (scale, kind, group, measure), values in alone.items()]
        if base is alone:
            continue
        against = _against(out, listed, system, reference, everything)
        out.rows += [make_row(names | dict(scale=scale, kind=ALL, group=ALL), measure, values)
                     for (scale, measure), values in against.items()]
        out.rows += _by_group(out, listed, system, reference, groups, names)
        curves[system] = ({measure: values for (_, kind, _, measure), values in alone.items() if kind == ALL}
                          | {measure: values for (scale, measure), values in against.items() if scale == config.scale})
    if sweep:
        out.knees[listed.name] = {measure: find_knee({out.bits[name]: curves[name][measure] for name in sweep})
                                  for measure in KNEES}


def _alone(out: Analysis, listed: ScoredList, system: str, rows) -> dict[tuple[str, str, str, str], np.ndarray]:
    """(scale, kind, group, measure) -> error rates and costs of one system; of groups, only the EER."""
    samples, score, config = listed.samples, listed.scores[system], out.config
    llr = out.fitted.calibrations[system](score)
    out.reliability[listed.name][system] = reliability_bins(samples, llr)
    kinds = eer_measure, min_dcf_measure(config.p_target, config.c_miss, config.c_fa), min_cllr_measure
    eers, *others = samples.ranked(score, kinds).T
    found = {(ORDER, ALL, ALL, "eer"): 100 * eers}
    found |= {(ORDER, ALL, ALL, name): values for name, values in zip(("mindcf", "min_cllr"), others)}
    found |= {(LLR, ALL, ALL, name): values for name, values in measures.costs(
        samples, llr, config.p_target, config.c_miss, config.c_fa, rows).items()}
    return found | {(ORDER, *group[:2], "eer"): 100 * samples.ranked(score, [eer_measure], group.rows)[:, 0]
                    for group in listed.groups}


def _against(out: Analysis, listed: ScoredList, system: str, reference, rows) -> dict[tuple[str, str], np.ndarray]:
    """Drift and flips on all trials, on every scale."""
    found = {}
    for scale in (RAW, *out.fitted.maps[system]):
        score = out.fitted.scale(system, scale, listed.scores[system])
        both = (measures.drift(listed.samples, score, reference, rows)
                | measures.flips(listed.samples, score, reference, out.fitted.threshold, rows))
        found |= {(scale, measure): values for measure, values in both.items()}
    return found


def _by_group(out: Analysis, listed: ScoredList, system: str, reference, groups, names) -> list[ScoreRow]:
    """Drift and flips in groups of trials, on the scale of the config."""
    scale = out.config.scale
    score = out.fitted.scale(system, scale, listed.scores[system])
    rows = []
    for group in groups:
        asked = listed.samples, score, reference
        found = measures.flips(*asked, out.fitted.threshold, group.rows)
        if group.kind == "distance":
            found |= measures.flip_shares(*asked, out.fitted.threshold, group.rows)
        else:
            found |= measures.drift(*asked, group.rows)
        of = names | dict(scale=scale, kind=group.kind, group=group.name)
        rows += [make_row(of, measure, values) for measure, values in found.items()]
    return rows
