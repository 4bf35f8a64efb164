"""Measures of a list under resampled speakers: the same draws for all systems, so that their differences pair.

The draws are those of svq.backend.bootstrap, which gives results.tsv its intervals of the EER.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from svq.backend.bootstrap import SpeakerSamples


def min_dcf_samples(drawn: SpeakerSamples, target, nontarget, p_target: float) -> np.ndarray:
    """Gives (replicates,) normalized minimum detection costs at unit costs, to the last bit those of all thresholds.

    target, nontarget: scores of the list's target and non-target trials, in its order. p_target: at most 0.5. A
    threshold that accepts so many non-target trials that it costs more than to reject all cannot be the best one: only
    non-target trials of the highest scores are weighed one by one.
    """
    tail = _Tail(drawn, target, nontarget, p_target, 4 * p_target)
    whole = cache(lambda: _Tail(drawn, target, nontarget, p_target, 1.0))
    first, second = drawn.sides
    found = []
    for draw in drawn.draws[1:]:
        pairs = draw[first] * draw[second]
        value = tail.cost(draw, pairs)
        found.append(whole().cost(draw, pairs) if value is None else value)
    return np.array(found, dtype=np.float64)


class _Tail:
    """Target trials by the non-target scores that they lie between, for the highest `share` of non-target scores."""

    def __init__(self, drawn: SpeakerSamples, target, nontarget, p_target: float, share: float):
        count = drawn.draws.shape[1]
        self.odds = (1 - p_target) / p_target
        kept = nontarget >= np.quantile(nontarget, max(0.0, 1 - share))
        values, self.bin = np.unique(nontarget[kept], return_inverse=True)
        self.size = len(values)
        pair = drawn.cell[~drawn.target] - count
        self.pair, self.owner = pair[kept], drawn.cell[drawn.target]
        self.place = np.searchsorted(values, target, side="left")  # the first threshold, just above a value, that rejects it
        self.all_n = np.bincount(pair, minlength=len(drawn.sides[0]))

    def cost(self, draw, pairs) -> float | None:
        """The least cost under these weights of speakers and of pairs; None where it may be at a threshold further
        down."""
        others = np.bincount(self.bin, pairs[self.pair], self.size)
        targets = np.bincount(self.place, draw[self.owner], self.size + 1)
        all_n, above = self.all_n @ pairs, others.sum()
        if above < all_n and self.odds * above < all_n:
            return None
        p_fa = (above - np.cumsum(others)) / all_n
        p_miss = np.cumsum(targets)[:-1] / targets.sum()
        return float((p_miss + self.odds * p_fa).min())


def cllr_samples(drawn: SpeakerSamples, llr_target, llr_nontarget) -> np.ndarray:
    """Gives (replicates,) Cllr in bits. llr_target, llr_nontarget: natural-log likelihood ratios, in the list's
    order."""
    means = []
    for llr, rows in ((-np.asarray(llr_target), drawn.target), (np.asarray(llr_nontarget), ~drawn.target)):
        total, weight = drawn.sums(np.stack([np.logaddexp(0, llr), np.ones(len(llr))], axis=1), rows)[1:].T
        means.append(total / weight)
    return (means[0] + means[1]) / (2 * np.log(2))
