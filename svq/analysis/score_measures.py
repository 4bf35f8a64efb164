"""Measures of what quantization did to scores, each for a list and all its resampled speakers; rows of scores.tsv.

Means over trials take a SpeakerSamples and `rows`, a bool (n,) that says which trials count, and give dicts of
(1 + replicates,) arrays: the value, then that of each draw. Where a draw leaves nothing to average, it is nan.

The knee of an error over bits: the fewest bits before the error begins to climb. Kneedle (Satopaa et al., "Finding a
'Kneedle' in a Haystack", ICDCSW 2011) for a falling, convex curve: scaled to the unit square, the curve's knee is its
point farthest below the straight line between its ends. The smoothing spline and the sensitivity of the paper are for
long noisy series; a handful of bit widths has neither, and the doubt is given as the share of resampled curves whose
knee is the same.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from svq.backend.bootstrap import SpeakerSamples, interval
from svq.backend.metrics import bayes_threshold


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """A measure of one system on one list, or on one group of its trials.

    scale: what the scores were before they were set against float, one of svq.analysis.score_lists.SCALES; `llr` for
    calibrated ones, `order` for measures that go by the order alone. kind, group: which trials; `all`, `all` for every
    one. eer, flips and shares are in per cent, cllr and min_cllr in bits, drift in units of the reference's score.
    low, high: 95 % interval over speakers. delta: to the reference, with the interval of the paired difference; nan for
    measures that are a difference by themselves, and without resamplings.
    """

    trials: str
    system: str
    bits: float
    scale: str
    kind: str
    group: str
    measure: str
    value: float
    low: float
    high: float
    delta: float
    delta_low: float
    delta_high: float


COLUMNS = tuple(field.name for field in dataclasses.fields(ScoreRow))
ALL = "all"


def make_row(names: dict, measure: str, values: np.ndarray, reference: np.ndarray | None = None) -> ScoreRow:
    """Makes a row of scores.tsv. names: the fields up to `group`. values, reference: (1 + replicates,), the resampled
    ones last."""
    delta = np.full(3, np.nan) if reference is None else _with_interval(values - reference)
    return ScoreRow(**names, measure=measure, **dict(zip(COLUMNS[7:], (*_with_interval(values), *delta))))


def _with_interval(values) -> tuple[float, float, float]:
    """The value and the 95 % interval of the resampled ones; those that do not exist (nan) do not count."""
    sampled = values[1:][~np.isnan(values[1:])] if not np.isnan(values[0]) else []
    return float(values[0]), *interval(sampled)


class Lookup:
    """Rows by what they are of."""

    def __init__(self, rows: list[ScoreRow]):
        self._rows = {dataclasses.astuple(row)[:2] + dataclasses.astuple(row)[3:7]: row for row in rows}

    def __call__(self, trials: str, system: str, scale: str, measure: str, kind: str = ALL, group: str = ALL):
        """The ScoreRow, or None."""
        return self._rows.get((trials, system, scale, kind, group, measure))


CLASSES = ("target", "nontarget")
LOG_2 = np.log(2)
_ROUNDING = 1e-12  # a variance that is a smaller share of the mean square is none


def by_class(samples: SpeakerSamples, rows):
    """Gives (class, bool (n,)) of the trials that count, for targets and for non-targets."""
    return [(name, rows & (samples.target if name == "target" else ~samples.target)) for name in CLASSES]


def _ratio(numerator, denominator) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def drift(samples: SpeakerSamples, score, reference, rows) -> dict[str, np.ndarray]:
    """Measures how `score` (n,) has moved from `reference` (n,), for targets and for non-targets.

    bias: mean of the difference. spread: its standard deviation. rms: root of its mean square. slope: of the
    least-squares line of the score over the reference; 1 where it only shifted, nan where the reference is constant.
    Each by class, rms_target and so on; `rms` alone is that of both classes, weighing the same.
    """
    found = {}
    for name, kept in by_class(samples, rows):
        moved, at = (score - reference)[kept], reference[kept]
        at = at - (at.mean() if at.size else 0.0)  # squares of what is left keep their digits
        sums = samples.sums(np.stack([np.ones_like(at), moved, moved ** 2, at, at ** 2, moved * at], axis=1), kept)
        count = sums[:, 0]
        bias, square, centre, squares, both = (_ratio(column, count) for column in sums.T[1:])
        found[f"bias_{name}"] = bias
        found[f"spread_{name}"] = np.sqrt(np.maximum(square - bias ** 2, 0.0))
        found[f"rms_{name}"] = np.sqrt(square)
        variance = squares - centre ** 2
        variance = np.where(variance > _ROUNDING * squares, variance, 0.0)  # of one trial drawn often there is none
        found[f"slope_{name}"] = 1 + _ratio(both - bias * centre, variance)
    found["rms"] = np.sqrt((found["rms_target"] ** 2 + found["rms_nontarget"] ** 2) / 2)
    return found


def flipped(target, score, reference, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Finds flips, (n,) bool twice: harmful ones, where the reference is right and the score is not, and beneficial
    ones.

    A trial is accepted at or above the threshold."""
    right, was_right = (score >= threshold) == target, (reference >= threshold) == target
    return was_right & ~right, right & ~was_right


def flips(samples: SpeakerSamples, score, reference, threshold: float, rows) -> dict[str, np.ndarray]:
    """Flips in per cent of the trials: harmful, beneficial, of all trials and of each class, and both kinds as flips.

    net: harmful less beneficial ones, the mean of both classes, whatever their numbers: how far the half total error
    rate at the threshold rises.
    """
    harmful, beneficial = flipped(samples.target, score, reference, threshold)
    columns = np.stack([np.ones(len(harmful)), harmful, beneficial], axis=1)
    parts = {name: samples.sums(columns[kept], kept) for name, kept in by_class(samples, rows)}
    found = {}
    for suffix, sums in (("", sum(parts.values())), *((f"_{name}", part) for name, part in parts.items())):
        for column, kind in enumerate(("harmful", "beneficial"), 1):
            found[kind + suffix] = 100 * _ratio(sums[:, column], sums[:, 0])
    found["flips"] = found["harmful"] + found["beneficial"]
    found["net"] = sum(found[f"harmful_{name}"] - found[f"beneficial_{name}"] for name in CLASSES) / 2
    return found


def flip_shares(samples: SpeakerSamples, score, reference, threshold: float, rows) -> dict[str, np.ndarray]:
    """Gives the per cent of all the list's harmful (and of all its beneficial) flips that are among `rows`."""
    kinds = np.stack(flipped(samples.target, score, reference, threshold), axis=1).astype(float)
    inside, all_of_them = samples.sums(kinds[rows], rows), samples.sums(kinds)
    return {f"{name}_share": 100 * _ratio(inside[:, i], all_of_them[:, i])
            for i, name in enumerate(("harmful", "beneficial"))}


def costs(samples: SpeakerSamples, llr, p_target: float, c_miss: float, c_fa: float, rows) -> dict[str, np.ndarray]:
    """Measures cllr and actdcf of log-likelihood ratios (n,), as svq.backend.metrics defines them."""
    threshold = bayes_threshold(p_target, c_miss, c_fa)
    means = []
    for (name, kept), sign in zip(by_class(samples, rows), (-1, 1)):
        wrong = llr[kept] < threshold if name == "target" else llr[kept] >= threshold
        columns = np.stack([np.ones(wrong.size), np.logaddexp(0, sign * llr[kept]), wrong], axis=1)
        sums = samples.sums(columns, kept)
        means.append([_ratio(sums[:, 1], sums[:, 0]), _ratio(sums[:, 2], sums[:, 0])])
    (log_t, p_miss), (log_n, p_fa) = means
    miss, alarm = c_miss * p_target, c_fa * (1 - p_target)
    return {"cllr": (log_t + log_n) / (2 * LOG_2), "actdcf": (miss * p_miss + alarm * p_fa) / min(miss, alarm)}


LLR_EDGES = tuple(range(-8, 9))  # nats; the first and the last bin are open


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


def reliability_bins(samples: SpeakerSamples, llr, edges=LLR_EDGES) -> list[Bin]:
    """Bins log-likelihood ratios (n,); gives the bins that are not empty, rising.

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


@dataclass(frozen=True)
class Knee:
    """bits: the knee; None where the curve has none. below: the next fewer bits, at which the error has climbed.
    agree: share of the resampled curves with the same answer; nan without any."""

    bits: float | None
    below: float | None
    agree: float


def knee_index(bits, values) -> int | None:
    """Finds which of `bits` (k,), rising, is the knee of `values` (k,).

    Gives None for fewer than three, and where the error does not fall from the fewest bits to the most, or lies nowhere
    below the line between these.
    """
    bits, values = np.asarray(bits, float), np.asarray(values, float)
    drop = values[0] - values[-1] if len(values) else 0.0
    if len(bits) < 3 or not drop > 0:
        return None
    x, y = (bits - bits[0]) / (bits[-1] - bits[0]), (values - values[-1]) / drop
    below = (1 - x) - y
    best = 1 + int(np.argmax(below[1:-1]))
    return best if below[best] > 1e-12 else None


def find_knee(curves: dict[float, np.ndarray]) -> Knee:
    """Finds the knee of an error over bits. curves: bits -> (1 + replicates,), on all trials, then on the same
    resampled ones."""
    bits = sorted(curves)
    values = np.stack([curves[each] for each in bits]) if bits else np.zeros((0, 1))
    found = [knee_index(bits, column) for column in values.T]
    agree = float(np.mean([index == found[0] for index in found[1:]])) if len(found) > 1 else np.nan
    if found[0] is None:
        return Knee(None, None, agree)
    return Knee(bits[found[0]], bits[found[0] - 1], agree)
