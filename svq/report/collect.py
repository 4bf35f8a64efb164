"""Contents of a report, collected from a recipe's exp/ folder: the rows of results.tsv, and all that report.html draws.

Part of it is how near the embeddings of NAME-int8, a system in INT8 arithmetic, are to those of NAME, which it comes
from. svq.report.html draws it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from svq.backend import metrics
from svq.backend.bootstrap import EerInterval, SpeakerSamples, interval
from svq.backend.embeddings import EmbeddingReader, unit_length
from svq.backend.scores import Trials, read_scores, read_trials, split
from svq.errors import UserError, located
from svq.files import read_json, require_file
from svq.names import INT8, Names, list_name
from svq.numbers import printed
from svq.report.compared import Against, against
from svq.report.replicates import cllr_samples, min_dcf_samples
from svq.report.results import Row, parent_of, unique

CURVES = ("step", "epoch", "lr", "margin", "loss", "accuracy")


@dataclasses.dataclass(frozen=True)
class Scored:
    """The scores of the plotted back end and normalization, for one system and trial list.

    target, nontarget: raw scores, llr_*: the calibrated ones (natural log), all 1-D float arrays.
    """

    target: np.ndarray
    nontarget: np.ndarray
    llr_target: np.ndarray
    llr_nontarget: np.ndarray


@dataclasses.dataclass(frozen=True)
class Layer:
    """A quantized layer to draw: its float weights and its levels, scaled by alpha."""

    name: str
    weights: np.ndarray
    levels: np.ndarray
    bits: int


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Cosines between a system's embeddings and those of its INT8 twin, over the utterances that both have.

    quantiles: at `svq.report.collect.SHARES`. counts (bins,), edges (bins + 1,): their histogram up to 1, without the
    lowest 0.2 %.
    """

    utterances: int
    quantiles: tuple[float, ...]
    counts: np.ndarray
    edges: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
    """Contents of report.html.

    scored: (system, list) -> Scored of `backend` and `norm`. curves: system -> columns of its curves.csv, where it has
    one. layers: quantized system -> up to three layers. provenance: system -> the tree of its provenance.yaml.
    agreement: NAME-int8 -> set -> how near to NAME. parents: quantized system -> the float one that it was made from,
    where that is there; against: what its change is measured from. samples: row -> measure -> (replicates,) from the
    same resampled speakers for all systems: the EER of every row, of the plotted ones also minDCF(0.01) and Cllr;
    nothing where no interval was asked for.
    """

    title: str
    rows: list[Row]
    backend: str
    norm: str
    scored: dict[tuple[str, str], Scored]
    curves: dict[str, dict[str, np.ndarray]]
    layers: dict[str, list[Layer]]
    provenance: dict[str, dict]
    agreement: dict[str, dict[str, Agreement]] = dataclasses.field(default_factory=dict)
    parents: dict[str, str | None] = dataclasses.field(default_factory=dict)
    against: dict[str, Against | None] = dataclasses.field(default_factory=dict)
    samples: dict[Row, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def systems(self) -> list[str]:
        """The names of the systems, in the order of the results."""
        return unique(row.system for row in self.rows)

    @property
    def lists(self) -> list[str]:
        """The names of the trial lists, in the order of the results."""
        return unique(row.trials for row in self.rows)

    @property
    def bits(self) -> dict[str, float]:
        """The average bits of each system."""
        return {row.system: row.avg_bits for row in self.rows}

    def headline(self) -> list[Row]:
        """Selects the rows of the back end and normalization of the headline."""
        return [r for r in self.rows if (r.backend, r.norm) == (self.backend, self.norm)]

    def dashed(self, system: str) -> bool:
        """Says whether the curves of a system are dashed, as those of quantized systems are."""
        return self.bits[system] < 32


SHARES = (0.0, 0.01, 0.1, 0.5, 0.9)  # of the utterances, at or below each quantile
_BINS, _OUTSIDE = 40, 0.002
_BLOCK = 1 << 13  # embeddings held at a time


def int8_agreement(exp, systems: Iterable[str]) -> dict[str, dict[str, Agreement]]:
    """Measures how near systems in INT8 arithmetic are to those that they were exported from.

    Gives NAME-int8 -> set -> Agreement, for each NAME-int8 of `systems` and each set whose embeddings both it and NAME
    have under `exp`. Raises UserError for embeddings that cannot be read, are not finite or zero, or have not the same
    dimension.
    """
    found = {}
    for system in systems:
        twin = Path(exp) / system.removesuffix(INT8)
        if not system.endswith(INT8) or not twin.is_dir():
            continue
        sets = {}
        for path in sorted((Path(exp) / system / "embeddings").glob("*/embedding.scp")):
            other = twin / "embeddings" / path.parent.name / path.name
            if other.is_file():
                values = cosines(path, other)
                if len(values):
                    sets[path.parent.name] = summarized(values)
        if sets:
            found[system] = sets
    return found


def cosines(path, other) -> np.ndarray:
    """Gives the cosine (n,) float64 between the embeddings of two scp files, of every utterance that is in both.

    Raises UserError for embeddings of different dimensions.
    """
    first, second = EmbeddingReader(path), EmbeddingReader(other)
    if first.dim != second.dim:
        raise UserError(f"{path}: embeddings of {first.dim} values, but {other} has {second.dim}; redo stage 6")
    there = second.index.find(first.ids)
    rows = np.flatnonzero(there >= 0)
    out = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = rows[start:start + _BLOCK]
        pair = [unit_length(reader.read(which).astype(np.float64), reader.ids.take(which), reader.path)
                for reader, which in ((first, part), (second, there[part]))]
        out[start:start + _BLOCK] = np.einsum("ij,ij->i", *pair)
    return np.clip(out, -1, 1)


def summarized(values: np.ndarray) -> Agreement:
    """Sums up cosines (n,), n above 0."""
    low = min(float(np.quantile(values, _OUTSIDE)), 1 - 1e-6)
    counts, edges = np.histogram(values, _BINS, (low, 1.0))
    return Agreement(len(values), tuple(np.quantile(values, SHARES).tolist()), counts, edges)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Contents of a report: every system x list x backend x norm, in this order.

    trials: paths of trial lists. plot: the (backend, norm) of headline table and plots.
    bootstrap: resamples for the interval of the EER, 0 for none; seed: theirs.
    """

    exp: Path
    systems: tuple[str, ...]
    trials: tuple[Path, ...]
    backends: tuple[str, ...]
    norms: tuple[str, ...]
    plot: tuple[str, str]
    bootstrap: int = 0
    seed: int = 0

    def __post_init__(self):
        for what in ("systems", "trials", "backends", "norms"):
            values = getattr(self, what)
            if not values:
                raise UserError(f"no {what} given: nothing to report on")
            names = [list_name(v) for v in values] if what == "trials" else list(values)
            for name in names:
                if names.count(name) > 1:
                    raise UserError(f"'{name}' is given twice among the {what}")
        if self.bootstrap < 0:
            raise UserError(f"{self.bootstrap} bootstrap resamplings; 0 leaves the interval out")
        if self.plot[0] not in self.backends or self.plot[1] not in self.norms:
            raise UserError(f"cannot plot {' '.join(self.plot)}: not among the back ends "
                            f"({' '.join(self.backends)}) and norms ({' '.join(self.norms)})")


def score_path(exp, system: str, trials: str, backend: str, norm: str, suffix: str = "score") -> Path:
    """Gives the path of a score file (suffix "score") or of its calibrated twin ("llr")."""
    return Path(exp) / system / "scores" / trials / f"{backend}_{norm}.{suffix}"


def require(path, stage: int) -> Path:
    """Gives `path` where that file is there. Raises UserError naming it and the stage that makes it where it is not."""
    if not Path(path).is_file():
        raise UserError(f"{path} is missing; stage {stage} makes it")
    return Path(path)


def require_all(plan: Plan) -> None:
    """Checks for every input before the first is read: a gap shows in a second, not after minutes."""
    for path in plan.trials:
        require(path, 1)
    for system in plan.systems:
        for trials in map(list_name, plan.trials):
            for backend in plan.backends:
                for norm in plan.norms:
                    stage = 7 if norm == "none" else 8
                    require(score_path(plan.exp, system, trials, backend, norm), stage)
                    require(score_path(plan.exp, system, trials, backend, norm, "llr"), 9)
        require(plan.exp / system / "summary.json", summary_stage(system))


def summary_stage(system: str) -> int:
    """Gives the stage that makes a system's summary.json: export or packing."""
    return 5 if system.endswith(INT8) else 10


def read_summary(exp, system: str) -> dict:
    """Reads avg_bits (float), size_bytes and params (int) of exp/<system>/summary.json.

    Raises UserError where the file is missing or malformed, or one of them is no positive number.
    """
    stage = summary_stage(system)
    path = require(Path(exp) / system / "summary.json", stage)
    try:
        tree = read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    found = {}
    for key, kind in (("avg_bits", (int, float)), ("size_bytes", int), ("params", int)):
        value = tree.get(key) if isinstance(tree, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool) or value <= 0:
            raise UserError(f"{path}: '{key}' must be a positive number, not {value!r}; redo stage {stage}")
        found[key] = value
    return found


def collect(plan: Plan) -> tuple[list[Row], dict[tuple[str, str], Scored], dict[Row, dict[str, np.ndarray]]]:
    """Gives all rows, the scores of the plotted back end by (system, list), and what rows measure under resampled
    speakers.

    Raises UserError naming the first missing, malformed or stale file and the stage that makes it.
    """
    require_all(plan)
    lists = {list_name(path): read_trials(path) for path in plan.trials}
    intervals = {}
    if plan.bootstrap:
        intervals = {name: EerInterval(lists[name], path.parent, plan.bootstrap, plan.seed)
                     for name, path in zip(lists, plan.trials)}
    rows, scored, samples = [], {}, {}
    for system in plan.systems:
        size = read_summary(plan.exp, system)
        for name, trials in lists.items():
            for backend in plan.backends:
                for norm in plan.norms:
                    found = read_scored(plan.exp, system, name, backend, norm, trials)
                    plotted = (backend, norm) == plan.plot
                    drawn, low, high = {}, np.nan, np.nan
                    if plan.bootstrap:
                        eers = intervals[name].samples(found.target, found.nontarget)
                        low, high = (100 * bound for bound in interval(eers))
                        drawn = {"eer": 100 * eers, **(resampled(found, intervals[name].drawn) if plotted else {})}
                    names = dict(system=system, trials=name, backend=backend, norm=norm)
                    row = Row(**names, **measures(found), **size, eer_low=low, eer_high=high)
                    rows.append(row)
                    samples[row] = drawn
                    if plotted:
                        scored[system, name] = found
    return rows, scored, samples


def resampled(scored: Scored, drawn: SpeakerSamples) -> dict[str, np.ndarray]:
    """Gives (replicates,) of the measures of the headline beside the EER, by their columns of a Row."""
    return {"mindcf01": min_dcf_samples(drawn, scored.target, scored.nontarget, 0.01),
            "cllr": cllr_samples(drawn, scored.llr_target, scored.llr_nontarget)}


def read_scored(exp, system: str, name: str, backend: str, norm: str, trials: Trials) -> Scored:
    """Reads the raw and the calibrated scores of one list, split by class. Raises UserError if they are not those of
    `trials`."""
    raw, llr = (split(read_scores(score_path(exp, system, name, backend, norm, suffix)), trials)
                for suffix in ("score", "llr"))
    return Scored(*raw, *llr)


def measures(scored: Scored) -> dict:
    """Gives the measures of a Row by their columns: eer in percent, costs normalized, Cllr in bits."""
    raw, llr = (scored.target, scored.nontarget), (scored.llr_target, scored.llr_nontarget)
    return {
        "eer": 100 * metrics.eer(*raw),
        "mindcf01": metrics.min_dcf(*raw, 0.01),
        "mindcf05": metrics.min_dcf(*raw, 0.05),
        "cllr": metrics.cllr(*llr),
        "mincllr": metrics.min_cllr(*raw),
        "actdcf01": metrics.act_dcf(*llr, 0.01),
        "num_target": len(scored.target),
        "num_nontarget": len(scored.nontarget),
    }


def collect_report(plan: Plan, title: str, names: Names) -> Report:
    """Reads all that report.html shows. names: the grammar of the systems' names.

    Raises UserError naming the first file that is missing or malformed.
    """
    rows, scored, samples = collect(plan)
    bits = {row.system: row.avg_bits for row in rows}
    # An exported system has a file for its runtime, and no weights to look at.
    quantized = [row.system for row in rows
                 if row.avg_bits < 32 and (plan.exp / row.system / "model.safetensors").exists()]
    provenance = _present(plan, "provenance.yaml", _read_provenance)
    settings = {system: tree["config"] for system, tree in provenance.items() if isinstance(tree.get("config"), dict)}
    return Report(
        title=title,
        rows=rows,
        backend=plan.plot[0],
        norm=plan.plot[1],
        scored=scored,
        curves=_present(plan, "curves.csv", read_curves),
        layers={system: read_layers(plan.exp / system) for system in dict.fromkeys(quantized)},
        provenance=provenance,
        agreement=int8_agreement(plan.exp, plan.systems),
        parents={system: parent_of(system, bits, names) for system in bits},
        against={system: against(system, bits, names, settings) for system in bits},
        samples=samples,
    )


def _present(plan: Plan, name: str, read) -> dict:
    """read(file) for each system that has the file: an imported network was not trained here."""
    paths = {system: plan.exp / system / name for system in plan.systems}
    return {system: read(path) for system, path in paths.items() if path.is_file()}


def read_curves(path) -> dict[str, np.ndarray]:
    """Reads the columns of a curves.csv as float64 arrays, empty ones for a run that ended before its first row.

    Raises UserError naming file and line when malformed.
    """
    lines = require_file(Path(path)).read_text(encoding="utf-8").splitlines()
    header = lines[0].split(",") if lines else []
    missing = [name for name in CURVES if name not in header]
    if missing:
        raise UserError(located(path, 1, f"no column {', '.join(missing)} in a training log"))
    values = np.empty((len(lines) - 1, len(header)))
    for number, line in enumerate(lines[1:], 2):
        try:
            values[number - 2] = [printed(field) for field in line.split(",")]
        except ValueError:
            text = f"not {len(header)} numbers parted by commas"
            raise UserError(located(path, number, text)) from None
    return {name: values[:, header.index(name)] for name in CURVES}


def _read_provenance(path) -> dict:
    try:
        tree = yaml.safe_load(require_file(Path(path)).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: must be a mapping of keys to values")
    return tree


def read_layers(model_dir) -> list[Layer]:
    """Reads the first, the middle and the last quantized layer of a packed model: a first convolution, one half-way,
    and the embedding layer. Raises UserError where no layer is quantized."""
    from svq.models import load_model  # torch: seconds, and only for quantized systems
    from svq.quant import quantized_layers

    network, _ = load_model(model_dir)
    layers = quantized_layers(network)
    if not layers:
        raise UserError(f"{model_dir}: summary.json says it is quantized, but no layer is; redo stage 10")
    chosen = [layers[i] for i in sorted({0, len(layers) // 2, len(layers) - 1})]
    return [Layer(each.name, each.weight, each.levels, each.bits) for each in chosen]
