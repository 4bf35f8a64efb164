"""Trial lists with every system's scores, whose speakers these are, and groups of trials to break results down by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from svq.analysis.score_config import ScoreAnalysisConfig
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
from svq.backend.tokens import IdIndex, read_columns
from svq.errors import UserError
from svq.names import list_name

ACROSS = "across"  # the group of trials whose two sides differ
SHARES = (1, 2, 5, 10, 20, 50)  # per cent of the development trials nearest to the threshold: ends of bins


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
    """UserError for scores that are missing or not those of the list, and for a data directory that does not know an
    utterance of it."""
    name, folder = list_name(path), Path(path).parent
    trials = read_trials(path)
    scores = {system.name: _scores(config, system.name, name, trials) for system in config.parsed}
    speakers = trial_speakers(trials, folder)
    samples = SpeakerSamples(trials.target, *speakers, config.bootstrap, config.seed)
    found, notes = _groups(trials, folder, speakers, config)
    return ScoredList(name, samples, scores, found, [f"{name}: {note}" for note in notes])


def score_file(config: ScoreAnalysisConfig, system: str, name: str, suffix: str = "score") -> Path:
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
    """(n,) seconds of each trial's test utterance, or of its shorter side; a model has the sum of its utterances."""
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
    """Trials below the first edge, between each and the next, and from the last on; empty groups are left out.

    edges: seconds, rising; empty: the quartiles of `seconds`, to a tenth of a second.
    """
    edges = np.unique(np.round(np.quantile(seconds, [0.25, 0.5, 0.75]), 1)) if not len(edges) else np.asarray(edges)
    which = np.searchsorted(edges, seconds, side="right")
    names = [f"below {edges[0]:g} s", *(f"{a:g} to {b:g} s" for a, b in zip(edges, edges[1:])), f"{edges[-1]:g} s on"]
    return [Group("duration", name, which == i) for i, name in enumerate(names) if (which == i).any()]


def paired_groups(kind: str, enroll, test) -> list[Group]:
    """A group for each label that both sides of a trial have, and ACROSS for trials whose sides differ.

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
    """Trials by how far from the threshold the reference's score is; a bin may be empty."""
    which = np.searchsorted(edges, np.abs(reference - threshold))
    return [Group("distance", name, which == i) for i, name in enumerate(distance_names())]


def distance_names() -> list[str]:
    """'nearest 1 %', '1 to 2 %', ..., 'farthest 50 %': shares of the development trials."""
    middle = [f"{low} to {high} %" for low, high in zip(SHARES, SHARES[1:])]
    return [f"nearest {SHARES[0]} %", *middle, f"farthest {100 - SHARES[-1]} %"]
