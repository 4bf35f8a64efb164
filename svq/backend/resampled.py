"""Resampled speakers of one trial list: what `speaker_bootstrap` draws, for many measures of many systems at once.

Each replicate draws as many speakers as there are, with replacement; a target trial weighs as often as its speaker was
drawn, a non-target trial the product of its two speakers' draws. Whoever asks is given the same draws, so that
differences between systems, and between a system and itself elsewhere, pair. Draw 0 is the list as it is.

A mean over trials needs only its sums over each speaker's target trials and each pair of speakers' non-target trials:
these are taken once, and all replicates are then one product of matrices.
"""

from __future__ import annotations

from functools import cached_property
from typing import Iterator

import numpy as np

from svq.backend.metrics import eer_of, error_rates, min_cllr_of, min_dcf_of
from svq.errors import UserError

_HELD = 1 << 22  # weights of cells held at a time: 32 MB


class SpeakerSamples:
    """Weights of one list's trials under resampled speakers.

    target: (n,) bool. enroll_speaker, test_speaker: (n,) ids or numbers of the same kind. replicates: 0 leaves only
    the list as it is. The draws are those of `svq.backend.bootstrap.speaker_bootstrap` with the same seed; a draw
    without a target or a non-target trial is drawn again. UserError where the list has only one class.

    draws: (1 + replicates, speakers) int64, the first all 1. cell: (n,) which weight a trial has.
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
                                 return_inverse=True)  # the first is that of the target trials
        self.sides = pairs[1:] // count, pairs[1:] % count
        self.cell = np.where(self.target, enroll, count + place - 1)
        self.owners = np.unique(enroll[self.target])
        self.draws = self._drawn(count, replicates, np.random.default_rng(seed))

    def _drawn(self, count: int, replicates: int, rng) -> np.ndarray:
        draws = np.ones((1 + replicates, count), dtype=np.int64)
        for row in draws[1:]:
            row[:] = 0
            while not (row[self.owners].any() and (row[self.sides[0]] * row[self.sides[1]]).any()):
                row[:] = np.bincount(rng.integers(0, count, count), minlength=count)
        return draws

    @property
    def cells(self) -> int:
        return self.draws.shape[1] + len(self.sides[0])

    def weights(self) -> Iterator[np.ndarray]:
        """(b, cells) float64, whole numbers, for block after block of the draws."""
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
        """(1 + replicates, k) weighted sums over the trials of the columns of `values` (m, k).

        rows: which trials these are, a bool (n,) or positions (m,); all by default.
        """
        cell = self.cell[rows]
        held = np.stack([np.bincount(cell, column, self.cells) for column in np.asarray(values, np.float64).T], axis=1)
        return np.concatenate([block @ held for block in self.weights()])

    def ranked(self, score, measures, rows=slice(None)) -> np.ndarray:
        """(1 + replicates, m) of measures that go by the order of the scores, on all trials or those of `rows`.

        score: (n,), of all trials. measures: callables of the counts of targets and of non-targets (k,) at rising
        scores, that give a float. nan where a draw leaves one class of `rows` empty.
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


def interval(samples) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap samples; nan where there are none."""
    if not len(samples):
        return np.nan, np.nan
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def eer_measure(targets, nontargets) -> float:
    """EER, from 0 to 1, of counts at rising scores."""
    return eer_of(*error_rates(targets, nontargets))


def min_dcf_measure(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0):
    """The least normalised detection cost at these, as a measure of counts."""
    return lambda targets, nontargets: min_dcf_of(*error_rates(targets, nontargets), p_target, c_miss, c_fa)


min_cllr_measure = min_cllr_of
