"""Settings of a score analysis, and trial lists with every system's scores, speakers and groups of trials.

The settings are checked, and written beside the results.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from svq.backend.bootstrap import SpeakerSamples
from svq.backend.scores import (
    Trials,
    check_same_trials,
    models_of,
    parse_floats,
    read_scores,
    read_trials,
    trial_sides,
    trial_speakers,
)
from svq.data.ids import IdIndex
from svq.data.words import read_columns
from svq.config import check_choices
from svq.errors import UserError
from svq.names import list_name
from svq.numbers import number

RAW = "raw"  # the scale of scores as they are
SCALES = (RAW, "affine", "isotonic", "logistic")  # what a low-bit score is before it is set against float
ACROSS = "across"  # the group of trials whose two sides differ
SHARES = (1, 2, 5, 10, 20, 50)  # per cent of the development trials nearest to the threshold: ends of bins


@dataclasses.dataclass(frozen=True)
class System:
    """name: its folder under exp. bits: of a weight; None: what its summary.json says."""

    name: str
    bits: float | None = None

    @classmethod
    def parse(cls, text: str) -> System:
        """Parses 'name' or 'name:bits'. Raises ValueError for anything else."""
        name, colon, bits = text.partition(":")
        try:
            width = number(bits) if colon else None
        except ValueError:
            width = 0.0
        if not name or not (width is None or width > 0):
            raise ValueError(f"'{text}': write a system as NAME or NAME:BITS")
        return cls(name, width)


@dataclasses.dataclass(frozen=True)
class ScoreAnalysisConfig:
    """Settings of a score analysis.

    systems: `name` or `name:bits`; the first is the float system, the reference of all. trials: trial lists in their
        data directories; the first is the development list, and maps, calibrations, the threshold and the bins are
        from it alone. exp: folder of the systems. scores: BACKEND_NORM of the score files.
    scale: the scale of the break-downs, one of SCALES. sweep: the systems in which the knee over bits is looked for;
        empty: all but the reference, if no two of them have the same bits.
    operating_point: `eer`, the reference's EER threshold on the development list, or `bayes`, the threshold on its
        calibrated scores that p_target, c_miss and c_fa give. These also say what minDCF and actDCF are of.
    prior: weight of the target trials together in the fits of calibrations and maps.
    duration: the break-down goes by the `shorter` of a trial's utterances, or by the `test` utterance.
    duration_edges: seconds between its groups; empty: the quartiles of each list.
    bootstrap: resamplings of the speakers for the intervals; 0: none. seed: of these.
    ValueError for values out of range.
    """

    systems: tuple[str, ...]
    trials: tuple[str, ...]
    exp: str = "exp"
    scores: str = "cosine_none"
    scale: Literal["raw", "affine", "isotonic", "logistic"] = "affine"
    sweep: tuple[str, ...] = ()
    operating_point: Literal["eer", "bayes"] = "eer"
    p_target: float = 0.01
    c_miss: float = 1.0
    c_fa: float = 1.0
    prior: float = 0.5
    duration: Literal["shorter", "test"] = "shorter"
    duration_edges: tuple[float, ...] = ()
    bootstrap: int = 200
    seed: int = 0

    def __post_init__(self):
        check_choices(self)
        names = [system.name for system in self.parsed]
        if len(names) < 2:
            raise ValueError("systems must name the float system and at least one other")
        for what, listed in (("systems", names), ("trials", self.trials)):
            double = [item for i, item in enumerate(listed) if item in listed[:i]]
            if double:
                raise ValueError(f"{what} names {double[0]} twice")
        if not self.trials:
            raise ValueError("trials must name the development list first, then those to report on")
        for name in self.sweep:
            if name not in names[1:]:
                raise ValueError(f"sweep names {name}, which is not one of the compared systems")
        for name in ("p_target", "prior"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        for name in ("c_miss", "c_fa"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive and finite")
        if self.bootstrap < 0:
            raise ValueError(f"bootstrap is {self.bootstrap}; it must not be negative")
        edges = self.duration_edges
        if any(low >= high for low, high in zip((0.0, *edges), edges)):
            raise ValueError(f"duration_edges are {', '.join(map(str, edges))}; they must rise from above 0")

    @property
    def parsed(self) -> list[System]:
        """The systems that `systems` names; the first is the reference."""
        return [System.parse(text) for text in self.systems]


class Group(NamedTuple):
    """Trials to break results down by. kind: duration, gender, domain, distance. rows: (n,) bool."""

    kind: str
    name: str
    rows: np.ndarray


@dataclass
class ScoredList:
    """name: of the list. samples: its resampled speakers, and which trials are targets. scores: system -> (n,).
    groups: by duration, gender and domain, as far as the data directory tells. notes: what it does not tell."""

    name: str
    samples: SpeakerSamples
    scores: dict[str, np.ndarray]
    groups: list[Group]
    notes: list[str]


def read_list(path, config: ScoreAnalysisConfig) -> ScoredList:
    """Reads a trial list, every system's scores of it, its speakers and groups.

    Raises UserError for scores that are missing or not those of the list, and for a data directory that does not know
    an utterance of it.
    """
    name, folder = list_name(path), Path(path).parent
    trials = read_trials(path)
    scores = {system.name: _scores(config, system.name, name, trials) for system in config.parsed}
    speakers = trial_speakers(trials, folder)
    samples = SpeakerSamples(trials.target, *speakers, config.bootstrap, config.seed)
    found, notes = _groups(trials, folder, speakers, config)
    return ScoredList(name, samples, scores, found, [f"{name}: {note}" for note in notes])


def score_file(config: ScoreAnalysisConfig, system: str, name: str, suffix: str = "score") -> Path:
    """Gives the path of a system's scores of list `name`, or of its .llr."""
    return Path(config.exp) / system / "scores" / name / f"{config.scores}.{suffix}"


def _scores(config, system: str, name: str, trials: Trials) -> np.ndarray:
    path = score_file(config, system, name)
    if not path.is_file():
        raise UserError(f"{path} is missing; steps/score.sh makes it")
    scores = read_scores(path)
    check_same_trials(scores, trials)
    if not np.isfinite(scores.score).all():
        raise UserError(f"{path}:{int(np.argmin(np.isfinite(scores.score))) + 1}: a score that is not finite")
    return scores.score


def _groups(trials: Trials, folder: Path, speakers, config) -> tuple[list[Group], list[str]]:
    out, notes = [], []
    if (folder / "utt2dur").is_file():
        out += duration_groups(trial_seconds(trials, folder, config.duration), config.duration_edges)
    else:
        notes.append("no utt2dur, so nothing by duration")
    for kind, sides in (("gender", _genders(folder, speakers)), ("domain", _domains(folder, trials))):
        if sides is None:
            notes.append(f"no {'spk2gender' if kind == 'gender' else 'utt2domain'}, so nothing by {kind}")
        else:
            out += paired_groups(kind, *sides)
    return out, notes


def trial_seconds(trials: Trials, folder: Path, which: str) -> np.ndarray:
    """Gives (n,) the seconds of each trial's test utterance, or of its shorter side; a model has the sum of its
    utterances."""
    path = folder / "utt2dur"
    utterances, text = read_columns(path, (2,))
    seconds, index = parse_floats(text, path), IdIndex(utterances, path)
    (test,) = index.require("duration", path, trials.test)
    if which == "test":
        return seconds[test]
    enroll = np.full(len(trials), np.nan)
    models, place = models_of(trials.enroll, folder)
    if models is not None:
        (rows,) = index.require("duration", path, models.members)
        enroll[place >= 0] = np.bincount(models.group, seconds[rows])[place[place >= 0]]
    single = np.isnan(enroll)
    (rows,) = index.require("duration", path, trials.enroll.take(single))
    enroll[single] = seconds[rows]
    return np.minimum(enroll, seconds[test])


def duration_groups(seconds: np.ndarray, edges=()) -> list[Group]:
    """Sorts trials into groups by duration: below the first edge, between neighbouring edges, from the last on; empty
    groups are left out.

    edges: seconds, rising; empty: the quartiles of `seconds`, to a tenth of a second.
    """
    edges = np.unique(np.round(np.quantile(seconds, [0.25, 0.5, 0.75]), 1)) if not len(edges) else np.asarray(edges)
    which = np.searchsorted(edges, seconds, side="right")
    names = [f"below {edges[0]:g} s", *(f"{a:g} to {b:g} s" for a, b in zip(edges, edges[1:])), f"{edges[-1]:g} s on"]
    return [Group("duration", name, which == i) for i, name in enumerate(names) if (which == i).any()]


def paired_groups(kind: str, enroll, test) -> list[Group]:
    """Sorts trials into groups by the label that both sides have, and as ACROSS those whose sides differ.

    enroll, test: (n,) labels."""
    same = enroll == test
    groups = [Group(kind, str(label), same & (enroll == label)) for label in np.unique(enroll[same])]
    return groups + ([Group(kind, ACROSS, ~same)] if not same.all() else [])


def _genders(folder: Path, speakers):
    """Labels of both sides from spk2gender ('?' where it lacks a speaker); None without the file."""
    path = folder / "spk2gender"
    if not path.is_file():
        return None
    known = dict(zip(*(list(column) for column in read_columns(path, (2,)))))
    # Numbers of `trial_speakers` count the speakers of utt2spk by the order of their bytes.
    names = sorted(set(read_columns(folder / "utt2spk", (2,))[1]), key=str.encode)
    gender = np.array([known.get(name, "?") for name in names])
    return tuple(gender[side] for side in speakers)


def _domains(folder: Path, trials: Trials):
    """Labels of both sides from utt2domain (a model has that of its first utterance); None without the file."""
    path = folder / "utt2domain"
    if not path.is_file():
        return None
    utterances, labels = read_columns(path, (2,))
    label, index = np.array(list(labels)), IdIndex(utterances, path)
    enroll, test = trial_sides(trials, folder, index, "domain", path)
    return label[enroll], label[test]


def distance_edges(reference: np.ndarray, threshold: float) -> np.ndarray:
    """Distances from the threshold within which the nearest SHARES per cent of the scores (n,) lie."""
    return np.quantile(np.abs(reference - threshold), np.array(SHARES) / 100)


def distance_groups(reference: np.ndarray, threshold: float, edges: np.ndarray) -> list[Group]:
    """Sorts trials into groups by how far the reference's score is from the threshold; a bin may be empty."""
    which = np.searchsorted(edges, np.abs(reference - threshold))
    return [Group("distance", name, which == i) for i, name in enumerate(distance_names())]


def distance_names() -> list[str]:
    """Names the bins of distance by shares of the development trials: 'nearest 1 %', '1 to 2 %', ..., 'farthest 50
    %'."""
    middle = [f"{low} to {high} %" for low, high in zip(SHARES, SHARES[1:])]
    return [f"nearest {SHARES[0]} %", *middle, f"farthest {100 - SHARES[-1]} %"]
