"""Means over trials that say what quantization did to scores, each for the list and all its resampled speakers.

All functions take a SpeakerSamples and `rows`, a bool (n,) that says which trials count, and give dicts of
(1 + replicates,) arrays: the value, then that of each draw. Where a draw leaves nothing to average, it is nan.
"""

from __future__ import annotations

import numpy as np

from svq.backend.metrics import bayes_threshold
from svq.backend.resampled import SpeakerSamples

CLASSES = ("target", "nontarget")
LOG_2 = np.log(2)
_ROUNDING = 1e-12  # a variance that is a smaller share of the mean square is none


def by_class(samples: SpeakerSamples, rows):
    """(class, bool (n,)) of the trials that count."""
    return [(name, rows & (samples.target if name == "target" else ~samples.target)) for name in CLASSES]


def _ratio(numerator, denominator) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def drift(samples: SpeakerSamples, score, reference, rows) -> dict[str, np.ndarray]:
    """How `score` (n,) has moved from `reference` (n,), for targets and for non-targets.

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
    """(n,) bool twice: harmful flips, where the reference decides rightly and the score does not, and beneficial ones.

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
    """Per cent of all the list's harmful (and of all beneficial) flips that are among `rows`."""
    kinds = np.stack(flipped(samples.target, score, reference, threshold), axis=1).astype(float)
    inside, all_of_them = samples.sums(kinds[rows], rows), samples.sums(kinds)
    return {f"{name}_share": 100 * _ratio(inside[:, i], all_of_them[:, i])
            for i, name in enumerate(("harmful", "beneficial"))}


def costs(samples: SpeakerSamples, llr, p_target: float, c_miss: float, c_fa: float, rows) -> dict[str, np.ndarray]:
    """cllr and actdcf of log-likelihood ratios (n,), as svq.backend.metrics defines them."""
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
