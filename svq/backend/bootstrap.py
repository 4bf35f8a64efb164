"""Confidence intervals by resampling speakers, not trials: one draw of speakers for many measures of many systems.

Trials that share a speaker are not independent, and a list has many trials of few speakers. So resampling trials gives
intervals that are far too narrow.

Each replicate draws as many speakers as there are, with replacement. A target trial weighs as often as its speaker was
drawn, a non-target trial the product of its two speakers' draws. All that is measured gets the same draws, so
differences between systems, or of one system between parts of the list, are paired. Draw 0 is the list as it is.

A mean over trials needs only its sums over each speaker's target trials and each pair of speakers' non-target trials.
These are taken once, and all replicates are then one product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Iterator

import numpy as np

from svq.backend.metrics import checked, eer, eer_of, error_rates, min_cllr_of, min_dcf_of
from svq.backend.scores import Trials, trial_speakers
from svq.errors import UserError

_HELD = 1 << 22  # weights of cells held at a time: 32 MB
_TRIES = 100  # draws until one has trials of both classes


class SpeakerSamples:
    """Weights of one list's trials under resampled speakers.

    target: (n,) bool. enroll_speaker, test_speaker: (n,) ids or numbers of the same kind. replicates: 0 leaves only
    the list as it is. The same seed gives the same draws. A draw without a target or a non-target trial is repeated.
    UserError where the list has only one class, or where hardly any draw has both.

    draws: (1 + replicates, speakers) int64, the first all 1. cell: (n,) the number of each trial's weight.
    """

    def __init__(self, target, enroll_speaker, test_speaker, replicates: int, seed: int = 0):
        self.target = np.asarray(target, dtype=bool)
        if self.target.all() or not self.target.any():
            lost = "non-target" if self.target.any() else "target"
            raise UserError(f"no {lost} trials: error rates need both classes")
        names, number = np.unique(np.concatenate([enroll_speaker, test_speaker]), return_inverse=True)
        enroll, test = number[:len(self.target)], number[len(self.target):]
        count = len(names)
        pairs, place = np.unique(np.where(self.target, -1, np.minimum(enroll, test) * count + np.maximum(enroll, test)),
                                 return_inverse=True)  # the first stands for the target trials
        self.sides = pairs[1:] // count, pairs[1:] % count
        self.cell = np.where(self.target, enroll, count + place - 1)
        self.owners = np.unique(enroll[self.target])
        self.draws = self._drawn(count, replicates, np.random.default_rng(seed))

    def _drawn(self, count: int, replicates: int, rng) -> np.ndarray:
        draws = np.ones((1 + replicates, count), dtype=np.int64)
        for row in draws[1:]:
            for _ in range(_TRIES):
                row[:] = np.bincount(rng.integers(0, count, count), minlength=count)
                if row[self.owners].any() and (row[self.sides[0]] * row[self.sides[1]]).any():
                    break
            else:
                raise UserError(f"{count} speakers are too few to resample for an interval (--bootstrap 0 does "
                                "without)")
        return draws

    @property
    def cells(self) -> int:
        """The number of cells: a speaker for the target trials, a pair of speakers for the others."""
        return self.draws.shape[1] + len(self.sides[0])

    def weights(self) -> Iterator[np.ndarray]:
        """Yields the weights of all cells, (b, cells) float64 whole numbers, for block after block of the draws."""
        step = max(1, _HELD // self.cells)
        if step >= len(self.draws):
            yield self._all_weights
            return
        for first in range(0, len(self.draws), step):
            yield self._weights_of(self.draws[first:first + step])

    @cached_property
    def _all_weights(self) -> np.ndarray:
        return self._weights_of(self.draws)

    def _weights_of(self, draws) -> np.ndarray:
        return np.concatenate([draws, draws[:, self.sides[0]] * draws[:, self.sides[1]]], axis=1).astype(np.float64)

    def sums(self, values, rows=slice(None)) -> np.ndarray:
        """Sums the columns of `values` (m, k) over the trials, weighted by each draw: (1 + replicates, k).

        rows: the trials that `values` belong to, a bool (n,) or positions (m,); all by default.
        """
        cell = self.cell[rows]
        held = np.stack([np.bincount(cell, column, self.cells) for column in np.asarray(values, np.float64).T], axis=1)
        return np.concatenate([block @ held for block in self.weights()])

    def ranked(self, score, measures, rows=slice(None)) -> np.ndarray:
        """Takes m measures that depend on the order of the scores, for each draw: (1 + replicates, m).

        score: (n,), of all trials. measures: callables of the counts of targets and of non-targets, (k,) at rising
        scores, that give a float. rows: the trials to measure, all by default. nan where a draw leaves one class of
        `rows` empty.
        """
        score, target, cell = np.asarray(score, np.float64)[rows], self.target[rows], self.cell[rows]
        order = np.argsort(score, kind="stable")
        found = np.full((len(self.draws), len(measures)), np.nan)
        if not len(order):
            return found
        ranked, target, cell = score[order], target[order], cell[order]
        first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        place = 0
        for block in self.weights():
            for weight in block:
                weight = weight[cell]
                both = np.add.reduceat(weight, first)
                targets = np.add.reduceat(np.where(target, weight, 0), first)
                if targets.any() and (both > targets).any():
                    found[place] = [measure(targets, both - targets) for measure in measures]
                place += 1
        return found


def interval(samples, level: float = 0.95) -> tuple[float, float]:
    """Gives the percentile interval (low, high) of bootstrap samples; nan where there are none."""
    if not len(samples):
        return np.nan, np.nan
    tail = (1 - level) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def eer_measure(targets, nontargets) -> float:
    """Computes the EER, from 0 to 1, from counts of targets and non-targets (k,) at rising scores."""
    return eer_of(*error_rates(targets, nontargets))


def min_dcf_measure(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0):
    """Makes a measure of counts, (targets, nontargets) -> least normalised detection cost at this prior and costs."""
    return lambda targets, nontargets: min_dcf_of(*error_rates(targets, nontargets), p_target, c_miss, c_fa)


min_cllr_measure = min_cllr_of


@dataclass(frozen=True)
class Interval:
    """A measure with its interval. value: on all trials. low, high: bounds. samples: (replicates,) resampled values."""

    value: float
    low: float
    high: float
    samples: np.ndarray


def speaker_bootstrap(score, is_target, enroll_speaker, test_speaker, measure=eer_of,
                      replicates=1000, level=0.95, seed=0):
    """Computes a measure of the error rates with its percentile interval from resampled speakers: an Interval.

    score (n,) floats; is_target (n,) bool; enroll_speaker, test_speaker (n,) ids or
    numbers of the same kind.  Each replicate draws as many speakers as there are, with
    replacement; a non-target trial counts (draws of one speaker) x (draws of the
    other), a target trial (draws of its speaker).
    measure: a function of p_miss, p_fa (k,) at rising thresholds, such as eer_of.
    A replicate without a target or a non-target trial is drawn again.
    UserError where a class is empty.
    """
    score, is_target = np.asarray(score, dtype=np.float64), np.asarray(is_target, dtype=bool)
    checked(score[is_target], score[~is_target])
    if not 0 < level < 1:
        raise UserError(f"the confidence level is {level}, not between 0 and 1")
    drawn = SpeakerSamples(is_target, enroll_speaker, test_speaker, replicates, seed)
    value, *samples = drawn.ranked(score, [lambda *counts: measure(*error_rates(*counts))])[:, 0]
    return Interval(float(value), *interval(samples, level), np.array(samples))


class EerInterval:
    """95 % interval of the EER, in percent, from resampled speakers of one trial list.

    The numbers are those of `speaker_bootstrap` to the last bit, some ten times sooner. The EER of a replicate lies
    near that of all trials, so only trials scored in a window round it are weighted one by one; the others are counted
    once per pair of speakers. Where the EER of a replicate falls outside the window, all its trials are weighted.

    count: the number of speakers.
    """

    def __init__(self, trials: Trials, data_dir, replicates: int, seed: int = 0):
        self.drawn = SpeakerSamples(trials.target, *trial_speakers(trials, data_dir), replicates, seed)
        self.count = self.drawn.draws.shape[1]

    def __call__(self, target, nontarget) -> tuple[float, float]:
        """Gives the interval (low, high), in percent, for the scores of this list's target and non-target trials."""
        low, high = interval(self.samples(target, nontarget))
        return 100 * low, 100 * high

    def samples(self, target, nontarget) -> np.ndarray:
        """Gives the EER of each replicate, (replicates,) from 0 to 1; every system gets the same resampled speakers."""
        part = _Counts(self.drawn, target, nontarget, *_window(target, nontarget))
        # To sort all trials costs more than all replicates within the window: it is done only if it must be.
        whole = cache(lambda: _Counts(self.drawn, target, nontarget, -np.inf, np.inf))
        first, second = self.drawn.sides
        found = []
        for draw in self.drawn.draws[1:]:
            pairs = draw[first] * draw[second]
            value = part.eer(draw, pairs)
            found.append(whole().eer(draw, pairs) if value is None else value)
        return np.array(found)


def _window(target, nontarget) -> tuple[float, float]:
    """Gives the scores (low, high) between which both error rates are under twice the EER plus half a per cent."""
    rate = min(1.0, 2 * eer(target, nontarget) + 0.005)
    return float(np.quantile(nontarget, 1 - rate)), float(np.quantile(target, rate))


class _Counts:
    """Counts of trials by speaker or pair, all and those below a window, and the trials in the window one by one."""

    def __init__(self, drawn: SpeakerSamples, target, nontarget, low: float, high: float):
        targets = (target >= low) & (target <= high)
        nontargets = (nontarget >= low) & (nontarget <= high)
        scores = np.concatenate([target[targets], nontarget[nontargets]])
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        self.first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        self.is_target = order < np.count_nonzero(targets)
        count, size = drawn.draws.shape[1], len(drawn.sides[0])
        owner, pair = drawn.cell[drawn.target], drawn.cell[~drawn.target] - count
        # The place of each trial's weight: among the speakers' draws, or behind these among the pairs'.
        self.place = np.concatenate([owner[targets], count + pair[nontargets]])[order]
        self.all_t = np.bincount(owner, minlength=count)
        self.all_n = np.bincount(pair, minlength=size)
        self.below_t = np.bincount(owner[target < low], minlength=count)
        self.below_n = np.bincount(pair[nontarget < low], minlength=size)

    def eer(self, drawn, pairs) -> float | None:
        """Computes the EER under these weights of speakers and of pairs; None if it is not in the window."""
        if not len(self.place):
            return None
        weight = np.concatenate([drawn, pairs])[self.place]
        both = np.add.reduceat(weight, self.first)
        targets = np.add.reduceat(np.where(self.is_target, weight, 0), self.first)
        all_t, all_n = self.all_t @ drawn, self.all_n @ pairs
        below_t = self.below_t @ drawn + np.concatenate([[0], np.cumsum(targets)])
        below_n = self.below_n @ pairs + np.concatenate([[0], np.cumsum(both - targets)])
        p_miss, p_fa = below_t / all_t, (all_n - below_n) / all_n
        if p_miss[0] >= p_fa[0] or p_miss[-1] < p_fa[-1]:
            return None
        return eer_of(p_miss, p_fa)
