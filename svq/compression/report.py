"""Reports a compression step by step: bytes, bits, error rates, the shift of embeddings, and the gain of each step."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from svq.backend import metrics
from svq.backend.bootstrap import EerInterval, interval
from svq.backend.embeddings import EmbeddingReader, unit_length
from svq.backend.scores import Trials, read_scores, read_trials, split
from svq.bits.table import read_bits
from svq.compression.plan import config_path
from svq.draw.tables import markdown_table
from svq.errors import UserError
from svq.report.collect import read_summary

FLOAT = "float"


@dataclasses.dataclass(frozen=True)
class Difference:
    """The EER less another network's, in percent points. interval: from the same resampled speakers for both."""

    eer: float
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """A step's network. eer and its interval: percent. mindcf01, mindcf05: minDCF at target priors of 0.01 and 0.05.

    cosine, lowest: mean and least cosine between an utterance's embedding and the float network's. to_before, to_float:
    differences to the step before and to the float network. None: not known, or the float network itself.
    """

    name: str
    size_bytes: int
    bits: float
    eer: float | None = None
    interval: tuple[float, float] | None = None
    mindcf01: float | None = None
    mindcf05: float | None = None
    cosine: float | None = None
    lowest: float | None = None
    to_before: Difference | None = None
    to_float: Difference | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison of all steps. steps: the float network first, the packed one last. utterances: how many the cosines
    are over. trials: (targets, non-targets), None for a list without labels. layers: bits -> (layers, weights).
    notes: what was left out, and why."""

    steps: tuple[Step, ...]
    utterances: int
    trials: tuple[int, int] | None
    layers: dict[int, tuple[int, int]]
    params: int
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """The size of the first file over that of the last."""
        return self.steps[0].size_bytes / self.steps[-1].size_bytes


def compare(folder, steps: Sequence[str], trials_path, data_dir, scores: str = "cosine_none", replicates: int = 200,
            seed: int = 0) -> Comparison:
    """Compares the networks in `folder`/float and `folder`/<step>, whose summaries, embeddings and scores lie there.

    trials_path, data_dir: the list and where its utt2spk is; without one, or without labels in the list, there are no
    intervals, or no error rates. scores: <backend>_<norm> of the score files.
    """
    folder, names = Path(folder), [FLOAT, *steps]
    trials = read_trials(trials_path, labels=False)
    notes: list[str] = []
    found, resample = {}, None
    if trials.target is None:
        notes.append("the trial list has no labels: no error rates")
    else:
        resample = bootstrap(trials, data_dir, replicates, seed, notes)
        found = {name: split(read_scores(folder / name / "scores" / f"{scores}.score"), trials) for name in names}
    samples = {} if resample is None else {name: 100 * resample.samples(*found[name]) for name in found}
    rates = {name: 100 * metrics.eer(*found[name]) for name in found}

    def difference(name: str, other: str) -> Difference | None:
        if name not in rates:
            return None
        return Difference(rates[name] - rates[other], interval(samples[name] - samples[other]) if samples else None)

    made, utterances, params = [], 0, 0
    for before, name in zip([None, *names], names):
        size, more = read_summary(folder, name), {}
        if name in rates:
            more = {"eer": rates[name], "mindcf01": metrics.min_dcf(*found[name], 0.01),
                    "mindcf05": metrics.min_dcf(*found[name], 0.05)}
        if samples:
            more["interval"] = interval(samples[name])
        if before is None:
            params = size["params"]
        else:
            cosines = embedding_cosines(*(folder / each / "embeddings" / "trials" for each in (FLOAT, name)))
            utterances = len(cosines)
            more |= {"cosine": float(cosines.mean()), "lowest": float(cosines.min()),
                     "to_before": difference(name, before), "to_float": difference(name, FLOAT)}
        made.append(Step(name, size["size_bytes"], float(size["avg_bits"]), **more))
    counts = None if trials.target is None else (int(trials.target.sum()), int((~trials.target).sum()))
    return Comparison(tuple(made), utterances, counts, bits_of_layers(folder / "bits.tsv"), params, tuple(notes))


def bootstrap(trials: Trials, data_dir, replicates: int, seed: int, notes: list[str]) -> EerInterval | None:
    """Makes the bootstrap over the speakers of the trials; None, with a note, where they are unknown or too few.

    data_dir: has their utt2spk. notes: the list that a note is added to.
    """
    if not replicates:
        return None
    if not (Path(data_dir) / "utt2spk").is_file():
        notes.append(f"{data_dir} has no utt2spk: no intervals, which resample speakers")
        return None
    try:
        found = EerInterval(trials, data_dir, replicates, seed)
        if found.count < 5:
            raise UserError(f"{found.count} speakers are too few to resample")
        return found
    except UserError as error:
        notes.append(f"no intervals: {error}")
        return None


def embedding_cosines(before, after) -> np.ndarray:
    """Computes the cosine (N,) between the embeddings of each utterance in two folders."""
    one, other = EmbeddingReader(before), EmbeddingReader(after)
    (rows,) = other.rows(one.ids)
    first, second = unit_length(one.read(), one.ids, one.path), unit_length(other.read(rows), one.ids, other.path)
    return np.einsum("ij,ij->i", first, second, dtype=np.float64)


def bits_of_layers(path) -> dict[int, tuple[int, int]]:
    """Counts the layers and the weights by their bits in a bits.tsv: bits -> (layers, weights)."""
    rows = read_bits(path)
    layers, weights = Counter(), Counter()
    for row in rows:
        layers[row.bits] += 1
        weights[row.bits] += int(np.prod(row.shape))
    return {bits: (layers[bits], weights[bits]) for bits in sorted(layers)}


Column = tuple[str, list[str]]  # head, cells


def measured(found: Comparison) -> list[Column]:
    """Gives the columns of the table of measures, with a cell for each network; what is not known has no column."""
    steps = found.steps
    shown = [("bytes", [f"{step.size_bytes:,}" for step in steps]),
             ("bits a weight", [f"{step.bits:.3g}" for step in steps])]
    if found.trials:
        shown.append(("EER (%)", [f"{step.eer:.2f}" for step in steps]))
        if steps[0].interval:
            shown.append(("95 % interval", [_range(step.interval) for step in steps]))
        shown += [("minDCF(0.01)", [f"{step.mindcf01:.3f}" for step in steps]),
                  ("minDCF(0.05)", [f"{step.mindcf05:.3f}" for step in steps])]
    return shown + [("cosine to float", ["" if step.cosine is None else f"{step.cosine:.4f}" for step in steps]),
                    ("lowest", ["" if step.lowest is None else f"{step.lowest:.4f}" for step in steps])]


def changed(found: Comparison) -> list[Column]:
    """Gives the columns of the table of changes, with a cell for each network but the float one."""
    steps, shown = found.steps[1:], []
    for what, differences in (("the step before", [step.to_before for step in steps]),
                              ("float", [step.to_float for step in steps])):
        if found.trials:
            shown.append((f"EER to {what}", [f"{each.eer:+.2f}" for each in differences]))
            if steps[0].interval:
                shown.append(("95 % interval", [_range(each.interval, "+") for each in differences]))
    before = [None, *(step.cosine for step in steps)]
    cells = ["" if other is None else f"{step.cosine - other:+.4f}" for step, other in zip(steps, before)]
    return [*shown, ("cosine to the step before", cells)]


def made_how(folder, steps: Sequence[str], data) -> list[tuple[str, str]]:
    """Describes how each step was made, from the configs in `folder`: name and text. data: the directory it fits to."""
    from svq.config import load_config
    from svq.train.config import TrainConfig

    said = []
    for step in steps:
        config = load_config(config_path(folder, step), TrainConfig)
        if step == "rounded":
            books = "channel" if config.quant.per_channel else "layer"
            said.append(f"{config.quant.method}, a codebook for each {books}, each layer of its own bits")
        elif step == "calibrated":
            said.append(f"codes and levels for the least error of the layers' outputs, on {config.ptq.utterances} "
                        f"stretches of {config.ptq.crop_seconds:g} s of `{data}`")
        else:
            learnt = "the labels and the float embeddings" if config.distill.label_weight else "the float embeddings"
            said.append(f"learns {learnt} of crops of {config.data.crop_seconds:g} s of `{data}`; batches of "
                        f"{config.batch_size}, {config.epochs} epoch{'s' * (config.epochs > 1)}, learning rate "
                        f"{config.schedule.lr:g}")
    return list(zip(steps, said))


def _range(values: tuple[float, float], sign: str = "") -> str:
    return " to ".join(f"{value:{sign}.2f}" for value in values)


def as_lines(found: Comparison) -> list[str]:
    """Gives the lines for the terminal, one for each step."""
    lines = []
    for step in found.steps:
        said = [f"{step.size_bytes:,} bytes, {step.bits:.3g} bits a weight"]
        if step.eer is not None:
            more = f" ({_range(step.interval)})" if step.interval else ""
            said.append(f"EER {step.eer:.2f} %{more}, minDCF(0.01) {step.mindcf01:.3f}")
        if step.to_before is not None and step.name != found.steps[1].name:
            said[-1] += f", {step.to_before.eer:+.2f} to the step before"
        if step.cosine is not None:
            said.append(f"cosine to float {step.cosine:.4f}, at least {step.lowest:.4f}")
        lines.append(f"{step.name}: {'; '.join(said)}")
    return lines


def as_markdown(found: Comparison, facts: list[tuple[str, str]]) -> str:
    """Gives the report as Markdown. facts: (name, text) pairs on the networks' origin and how they were made."""
    parts = ["# Compression, step by step", "\n".join(f"- {name}: {text}" for name, text in facts)]
    parts.append(_table([step.name for step in found.steps], measured(found)))
    said = [f"The last file is {found.ratio:.1f} times smaller than `model.safetensors` of the float network "
            f"({found.params:,} parameters). Cosines are between the embeddings of an utterance, on average and at "
            f"least over {found.utterances} utterances."]
    if found.trials:
        said.append(f"{found.trials[0]:,} target and {found.trials[1]:,} non-target trials.")
    parts.append(" ".join(said))
    parts += ["## What each step changed", _table([step.name for step in found.steps[1:]], changed(found))]
    if found.steps[0].interval:
        parts.append("EER less that of the other network, with the interval from the same resampled speakers for both.")
    if found.notes:
        parts.append("\n".join(f"- {note}" for note in found.notes))
    total = sum(weights for _, weights in found.layers.values())
    parts += ["## Bits", markdown_table(["bits", "layers", "weights", "share"], [
        [str(bits), str(layers), f"{weights:,}", f"{100 * weights / total:.1f} %"]
        for bits, (layers, weights) in found.layers.items()], 0)]
    return "\n\n".join(parts) + "\n"


def _table(names: list[str], shown: list[Column]) -> str:
    rows = [[name, *cells] for name, cells in zip(names, zip(*(cells for _, cells in shown)))]
    return markdown_table(["", *(head for head, _ in shown)], rows, 1)


def as_json(found: Comparison) -> str:
    """Gives all numbers as JSON text, with null for what is not known."""
    return json.dumps(dataclasses.asdict(found) | {"ratio": found.ratio}, indent=1, sort_keys=True) + "\n"
