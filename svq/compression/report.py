"""A network before and after: bytes, bits, error rates and how far the embeddings have moved."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np

from svq.backend import metrics
from svq.backend.embeddings import EmbeddingReader, unit_length
from svq.backend.scores import Trials, read_scores, read_trials, split
from svq.errors import UserError
from svq.quant.bits_table import read_bits
from svq.report.collect import read_summary
from svq.report.speakers import EerInterval, interval


@dataclasses.dataclass(frozen=True)
class Side:
    """One of the two networks. eer and its interval in percent, nan where not known; difference: after less before."""

    name: str
    size_bytes: int
    bits: float
    eer: float = np.nan
    interval: tuple[float, float] = (np.nan, np.nan)
    mindcf01: float = np.nan
    mindcf05: float = np.nan


@dataclasses.dataclass(frozen=True)
class Comparison:
    """difference: interval of the difference of EERs, in percent, from the same resampled speakers for both.
    cosines: (mean, lowest) of the cosine between an utterance's embeddings before and after.
    layers: bits -> (layers, weights). notes: what was left out, and why."""

    before: Side
    after: Side
    difference: tuple[float, float]
    cosines: tuple[float, float]
    utterances: int
    trials: tuple[int, int] | None
    layers: dict[int, tuple[int, int]]
    params: int
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        return self.before.size_bytes / self.after.size_bytes


def compare(folder, trials_path, data_dir, scores: str = "cosine_none", replicates: int = 200,
            seed: int = 0) -> Comparison:
    """Compares `folder`/float with `folder`/quantized, whose embeddings and scores lie there.

    trials_path, data_dir: the list and where its utt2spk is; without one, or without labels in the list, there are no
    intervals, or no error rates. scores: <backend>_<norm> of the score files.
    """
    folder = Path(folder)
    trials = read_trials(trials_path, labels=False)
    sizes = {name: read_summary(folder, name) for name in ("float", "quantized")}
    notes: list[str] = []
    measured = {name: {} for name in sizes}
    samples = {}
    if trials.target is None:
        notes.append("the trial list has no labels: no error rates")
    else:
        resample = bootstrap(trials, data_dir, replicates, seed, notes)
        for name in sizes:
            found = split(read_scores(folder / name / "scores" / f"{scores}.score"), trials)
            measured[name] = measures(found)
            if resample is not None:
                samples[name] = 100 * resample.samples(*found)
                measured[name]["interval"] = interval(samples[name])
    sides = {name: Side(name, size["size_bytes"], float(size["avg_bits"]), **measured[name])
             for name, size in sizes.items()}
    cosines = embedding_cosines(*(folder / name / "embeddings" / "trials" for name in sizes))
    counts = None if trials.target is None else (int(trials.target.sum()), int((~trials.target).sum()))
    return Comparison(
        sides["float"], sides["quantized"],
        interval(samples["quantized"] - samples["float"]) if samples else (np.nan, np.nan),
        (float(cosines.mean()), float(cosines.min())), len(cosines), counts, bits_of_layers(folder / "bits.tsv"),
        sizes["float"]["params"], tuple(notes))


def bootstrap(trials: Trials, data_dir, replicates: int, seed: int, notes: list[str]) -> EerInterval | None:
    """What resamples the speakers of the trials; None, with a note, where they are not known or too few."""
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


def measures(found: tuple[np.ndarray, np.ndarray]) -> dict:
    """Error rates of the scores of target and of non-target trials."""
    return {"eer": 100 * metrics.eer(*found), "mindcf01": metrics.min_dcf(*found, 0.01),
            "mindcf05": metrics.min_dcf(*found, 0.05)}


def embedding_cosines(before, after) -> np.ndarray:
    """(N,) cosine between the embeddings of each utterance in two folders."""
    one, other = EmbeddingReader(before), EmbeddingReader(after)
    (rows,) = other.rows(one.ids)
    first, second = unit_length(one.read(), one.ids, one.path), unit_length(other.read(rows), one.ids, other.path)
    return np.einsum("ij,ij->i", first, second, dtype=np.float64)


def bits_of_layers(path) -> dict[int, tuple[int, int]]:
    """bits -> (how many layers, how many weights) of a bits.tsv."""
    rows = read_bits(path)
    layers, weights = Counter(), Counter()
    for row in rows:
        layers[row.bits] += 1
        weights[row.bits] += int(np.prod(row.shape))
    return {bits: (layers[bits], weights[bits]) for bits in sorted(layers)}


def as_lines(found: Comparison) -> list[str]:
    """The few lines for the terminal."""
    before, after = found.before, found.after
    lines = [f"size: {before.size_bytes:,} bytes before, {after.size_bytes:,} after, {found.ratio:.1f} times smaller; "
             f"{after.bits:.3g} bits a weight"]
    if found.trials:
        lines.append(f"EER: {_eer(before)} before, {_eer(after)} after; minDCF(0.01): {before.mindcf01:.3f}, "
                     f"{after.mindcf01:.3f}")
    mean, least = found.cosines
    return lines + [f"embeddings before and after: cosine {mean:.4f} on average, {least:.4f} at least, over "
                    f"{found.utterances} utterances"]


def _eer(side: Side) -> str:
    return f"{side.eer:.2f} %" + (f" ({_range(side.interval)})" if not np.isnan(side.interval[0]) else "")


def _range(values: tuple[float, float]) -> str:
    return "-" if np.isnan(values[0]) else f"{values[0]:.2f} to {values[1]:.2f}"


def as_markdown(found: Comparison, facts: list[tuple[str, str]]) -> str:
    """The report. facts: what the networks come from and how they were made, name and text."""
    before, after = found.before, found.after
    shown = [("file (bytes)", lambda side: f"{side.size_bytes:,}"), ("bits a weight", lambda side: f"{side.bits:.3g}")]
    if found.trials:
        shown += [("EER (%)", lambda side: f"{side.eer:.2f}"), ("95 % interval", lambda side: _range(side.interval)),
                  ("minDCF(0.01)", lambda side: f"{side.mindcf01:.3f}"),
                  ("minDCF(0.05)", lambda side: f"{side.mindcf05:.3f}")]
    if np.isnan(before.interval[0]):
        shown = [column for column in shown if column[0] != "95 % interval"]
    parts = ["# Before and after compression", "\n".join(f"- {name}: {text}" for name, text in facts)]
    parts.append("\n".join([_row(["", *(head for head, _ in shown)]), _row(["---", *["---:"] * len(shown)])] + [
        _row([name, *(show(side) for _, show in shown)]) for name, side in (("before", before), ("after", after))]))
    mean, least = found.cosines
    said = [f"The packed file is {found.ratio:.1f} times smaller than `model.safetensors` of the float network "
            f"({found.params:,} parameters)."]
    if found.trials:
        said.append(f"{found.trials[0]:,} target and {found.trials[1]:,} non-target trials.")
        if not np.isnan(found.difference[0]):
            low, high = found.difference
            said.append(f"EER after less before: {after.eer - before.eer:+.2f} (95 % interval {low:+.2f} to "
                        f"{high:+.2f}, from the same resampled speakers for both).")
    said.append(f"Cosine between the embeddings before and after, over {found.utterances} utterances: {mean:.4f} on "
                f"average, {least:.4f} at least.")
    parts.append(" ".join(said))
    if found.notes:
        parts.append("\n".join(f"- {note}" for note in found.notes))
    total = sum(weights for _, weights in found.layers.values())
    parts.append("\n".join([_row(["bits", "layers", "weights", "share"]), _row(["---:"] * 4)] + [
        _row([str(bits), str(layers), f"{weights:,}", f"{100 * weights / total:.1f} %"])
        for bits, (layers, weights) in found.layers.items()]))
    return "\n\n".join(parts) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_json(found: Comparison) -> str:
    """All numbers, None for what is not known."""
    def plain(value):
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and np.isnan(value) else value

    return json.dumps(plain(dataclasses.asdict(found)) | {"ratio": found.ratio}, indent=1, sort_keys=True) + "\n"
