"""Measures closed-set identification: which of the enrolled speakers is it?

A probe is right at 1 (at k) where its own speaker's score is the best (among the k best). Ties count against it, so a
network that gives everyone the same embedding is never right.

Every speaker is enrolled with one segment and probed with segments from several places of their recordings.
Enrolment and probes never share a sample. Where a speaker has several utterances, enrolment and probes are, by default,
from different ones.
"""

from __future__ import annotations

import dataclasses
from typing import Callable, NamedTuple

import numpy as np

from svq.backend.embeddings import unit_length
from svq.config import to_dict
from svq.data import audio
from svq.data.datadir import DataDir
from svq.errors import UserError, some_of


class Identified(NamedTuple):
    """The outcome of each probe (P,): the rank of its own speaker, from 1, and their score.

    rival, rival_score: the other speaker of the best score, and that score.
    """

    rank: np.ndarray
    own: np.ndarray
    rival: np.ndarray
    rival_score: np.ndarray


def identify(enroll: np.ndarray, probes: np.ndarray, owner: np.ndarray) -> Identified:
    """Ranks all enrolled speakers (S, D) for each probe (P, D) by cosine. owner: (P,) each probe's own speaker."""
    scores = unit_length(probes.astype(np.float64)) @ unit_length(enroll.astype(np.float64)).T
    rows = np.arange(len(probes))
    own = scores[rows, owner]
    others = scores.copy()
    others[rows, owner] = -np.inf
    rival = others.argmax(axis=1)
    return Identified(1 + (others >= own[:, None]).sum(axis=1), own, rival, others[rows, rival])


def accuracy(rank: np.ndarray, k: int = 1) -> float:
    """Computes the share of probes whose own speaker is among the k best. rank: (P,) of the own speaker, from 1."""
    return float(np.mean(rank <= k))


def accuracy_interval(rank: np.ndarray, owner: np.ndarray, k: int = 1, replicates: int = 1000,
                      seed: int = 0) -> tuple[float, float]:
    """Computes the 95 % percentile interval of `accuracy` from resampled speakers, each with all of their probes.

    The enrolled set stays as it is: the interval covers the choice of probe speakers, not the number of enrolled ones.
    """
    _, number = np.unique(owner, return_inverse=True)
    hits, counts = np.bincount(number, weights=rank <= k), np.bincount(number)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (replicates, len(counts)))
    samples = hits[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def identification(data_dir, embedder, config, replicates: int = 1000) -> tuple[dict, list[tuple]]:
    """Measures identification on a data directory: (accuracies in percent with their settings, a row for each probe).

    A row: speaker, utterance, start and length in seconds, rank, own score, the other speaker of the best score, and
    that score. embedder: an svq.deploy.runtimes.Embedder. config: an IdentifyConfig.
    """
    rate = embedder.config.front_end.rate
    plan = plan_segments(data_dir, config, rate)
    segments = plan.enroll + [segment for _, segment in plan.probes]
    vectors = embed_segments(data_dir, segments, embedder.waveforms, rate)
    owner = plan.owner
    found = identify(vectors[: len(plan.enroll)], vectors[len(plan.enroll) :], owner)
    about = {"model": str(embedder.path), "backend": embedder.backend, "data": str(data_dir),
             "speakers": len(plan.speakers), "probes": len(owner), "left_out": plan.left_out,
             "settings": to_dict(config)}
    for k in (1, 5):
        low, high = accuracy_interval(found.rank, owner, k, replicates, config.seed)
        about |= {f"top{k}": 100 * accuracy(found.rank, k), f"top{k}_low": 100 * low, f"top{k}_high": 100 * high}
    lines = [(plan.speakers[speaker], segment.utterance, f"{segment.start / rate:.2f}", f"{segment.count / rate:.2f}",
              str(found.rank[i]), f"{found.own[i]:.6f}", plan.speakers[found.rival[i]], f"{found.rival_score[i]:.6f}")
             for i, (speaker, segment) in enumerate(plan.probes)]
    return about, lines


GRID = 0.01  # seconds: lengths of segments are whole multiples of it, so that equal ones share a batch


@dataclasses.dataclass(frozen=True)
class IdentifyConfig:
    """The settings by which speakers are enrolled and probed.

    seconds: length of a segment; less where an utterance is shorter. shortest: a speaker without an enrolment and a
    probe of so many seconds is left out. probes: segments of each speaker. other_utterance: takes probes from other
    utterances than the enrolment where the speaker has some. seed: of the choice of utterances and places.
    """

    seconds: float = 3.0
    shortest: float = 1.0
    probes: int = 5
    other_utterance: bool = True
    seed: int = 0

    def __post_init__(self):
        if not 2 * GRID < self.shortest <= self.seconds < float("inf"):
            raise ValueError(f"shortest is {self.shortest} and seconds {self.seconds}; a frame of 0.025 s at least, "
                             "and shortest at most seconds")
        if self.probes < 1:
            raise ValueError(f"probes is {self.probes}; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must not be negative")


class Segment(NamedTuple):
    """A part of an utterance: `count` samples from sample `start` on."""

    utterance: str
    start: int
    count: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The segments to enrol and to probe.

    speakers: the enrolled ones (S). enroll: a segment of each. probes: (speaker's number, segment). left_out: speakers
    whose recordings are too short."""

    speakers: list[str]
    enroll: list[Segment]
    probes: list[tuple[int, Segment]]
    left_out: list[str]

    @property
    def owner(self) -> np.ndarray:
        """The number of each probe's own speaker, (P,)."""
        return np.array([speaker for speaker, _ in self.probes])


def plan_segments(data_dir, config: IdentifyConfig, rate: int = 16000) -> Plan:
    """Chooses the segments to enrol and to probe, the same for the same directory and config.

    rate: of the segments' samples, in Hz. Lengths are taken from utt2dur, or without one from the recordings. UserError
    where fewer than two speakers have enough speech.
    """
    folder = DataDir(data_dir)
    durations = _durations(folder)
    index = folder.speaker_index
    utterances = [[] for _ in folder.speakers]
    for line, speaker in enumerate(index):
        utterances[speaker].append(folder.utt2spk.key(line))
    plan = Plan([], [], [], [])
    for number, speaker in enumerate(folder.speakers):
        rng = np.random.default_rng([config.seed, number])
        lengths = {utt: int(durations[utt] / GRID + 1e-6) for utt in utterances[number]}
        chosen = plan_speaker(lengths, config, rng)
        if chosen is None:
            plan.left_out.append(speaker)
            continue
        enroll, probes = ([_in_samples(each, rate) for each in part] for part in ((chosen[0],), chosen[1]))
        plan.probes.extend((len(plan.speakers), probe) for probe in probes)
        plan.enroll.extend(enroll)
        plan.speakers.append(speaker)
    if len(plan.speakers) < 2:
        raise UserError(f"{data_dir}: {len(plan.speakers)} speakers have an enrolment and a probe of "
                        f"{config.shortest:g} s; identification takes two: lower the shortest length")
    return plan


def plan_speaker(lengths: dict[str, int], config: IdentifyConfig, rng) -> tuple[Segment, list[Segment]] | None:
    """Chooses a speaker's enrolment and probes, starts and counts in hundredths of a second; None if all is too short.

    lengths: hundredths of a second by utterance.
    """
    seconds, shortest = round(config.seconds / GRID), round(config.shortest / GRID)
    long_enough = sorted(utt for utt, length in lengths.items() if length >= shortest)
    if not long_enough:
        return None
    enrolled = long_enough[rng.integers(len(long_enough))]
    others = [utt for utt in long_enough if utt != enrolled]
    free = [(utt, 0, lengths[utt]) for utt in others]
    length = min(seconds, lengths[enrolled])
    start = int(rng.integers(lengths[enrolled] - length + 1))
    if not others or not config.other_utterance:
        if not others:
            length = min(length, lengths[enrolled] // 2)
            if length < shortest:
                return None
        # At one end of its utterance, so that the rest, for probes, is in one piece.
        start = int(rng.integers(2)) * (lengths[enrolled] - length)
        rest = (enrolled, 0 if start else length, lengths[enrolled] - length)
        free += [rest] if rest[2] >= shortest else []
    order = rng.permutation(len(free))
    probes = []
    for i in range(config.probes):  # all utterances in turn, so that few of them do not speak for the speaker
        utt, first, room = free[order[i % len(free)]]
        count = min(seconds, room)
        probes.append(Segment(utt, first + int(rng.integers(room - count + 1)), count))
    return Segment(enrolled, start, length), probes


def _durations(folder: DataDir) -> dict[str, float]:
    if folder.has("utt2dur"):
        table = folder.utt2dur
        found = dict(zip((table.key(i) for i in range(len(table))), table.float_array().tolist()))
        lacking = [utt for utt in map(folder.utt2spk.key, range(len(folder.utt2spk))) if utt not in found]
        if lacking:
            raise UserError(f"{table.path}: no line for {some_of(lacking)}, which utt2spk has")
        return found
    return {utt: audio.duration(name) for utt, name in folder.wav.items()}


def _in_samples(segment: Segment, rate: int) -> Segment:
    per_step = rate * GRID
    return Segment(segment.utterance, round(segment.start * per_step), round(segment.count * per_step))


def embed_segments(data_dir, segments: list[Segment], run: Callable[[np.ndarray], np.ndarray], rate: int = 16000,
                   batch: int = 16) -> np.ndarray:
    """Computes the embeddings of segments: (N, D) float32.

    run: waveforms (B, samples) float32 -> (B, D) float32. rate: of the samples, in Hz. Only segments of equal length
    share a batch, of `batch` at most. UserError names an utterance that cannot be read or has no finite embedding.
    """
    recordings = dict(DataDir(data_dir).wav.items())
    out = None
    by_length: dict[int, list[int]] = {}

    def finish(length: int) -> None:
        nonlocal out
        rows = by_length.pop(length)
        vectors = run(np.stack([held.pop(row) for row in rows]))
        if out is None:
            out = np.full((len(segments), vectors.shape[1]), np.nan, dtype=np.float32)
        out[rows] = vectors

    held: dict[int, np.ndarray] = {}
    for row, segment in enumerate(segments):
        if segment.utterance not in recordings:
            raise UserError(f"{data_dir}/wav.scp: no line for {segment.utterance}, which utt2spk has")
        held[row] = _read(recordings[segment.utterance], segment, rate)
        rows = by_length.setdefault(len(held[row]), [])
        rows.append(row)
        if len(rows) == batch:
            finish(len(held[row]))
    for length in sorted(by_length):
        finish(length)
    bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
    if len(bad):
        raise UserError(f"{data_dir}: no finite embedding of {some_of(segments[i].utterance for i in bad)}")
    return out


def _read(specifier: str, segment: Segment, rate: int) -> np.ndarray:
    """Reads a segment, (samples,) float32; some samples fewer than planned where utt2dur was rounded up."""
    return audio.load(specifier, rate, segment.start / rate, segment.count / rate)
