"""Stated against observed log-odds of calibrated scores, with how many trials each point stands for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svq.backend.resampled import SpeakerSamples, interval

EDGES = tuple(range(-8, 9))  # nats; the first and the last bin are open


@dataclass(frozen=True)
class Bin:
    """One point of a reliability diagram.

    stated: mean log-likelihood ratio of its trials, each class weighing the same. observed: the log-odds at equal
    priors that its counts give; low, high: 95 % interval over speakers (nan without resamplings).
    """

    stated: float
    observed: float
    low: float
    high: float
    targets: int
    nontargets: int


def reliability_bins(samples: SpeakerSamples, llr, edges=EDGES) -> list[Bin]:
    """The non-empty bins of log-likelihood ratios (n,), rising.

    Observed: log of (share of the targets that are in the bin) over (share of the non-targets), half a trial added to
    each count, so that a bin with one class alone has a place (Haldane, Ann. Hum. Genet. 20, 1956).
    """
    which = np.digitize(llr, edges)
    totals = _counts(samples, slice(None))
    out = []
    for number in range(len(edges) + 1):
        rows = which == number
        if not rows.any():
            continue
        counts = _counts(samples, rows)
        odds = np.log(counts + 0.5) - np.log(totals)
        value, *resampled = odds[:, 0] - odds[:, 1]
        weight = np.where(samples.target[rows], 1 / totals[0, 0], 1 / totals[0, 1])
        out.append(Bin(float(np.average(llr[rows], weights=weight)), float(value), *interval(resampled),
                       int(counts[0, 0]), int(counts[0, 1])))
    return out


def _counts(samples: SpeakerSamples, rows) -> np.ndarray:
    """(1 + replicates, 2) target and non-target trials of `rows`."""
    target = samples.target[rows]
    return samples.sums(np.stack([target, ~target], axis=1), rows)
