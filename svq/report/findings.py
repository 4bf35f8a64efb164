"""A sentence on what each figure of the report shows, computed from its numbers: true of one system, of ties, of
gaps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from svq.report.compared import best_of


def names_of(names: Sequence[str], most: int = 3) -> str:
    """Gives names as words: 'a', 'a and b', 'a, b and c', 'a, b, c and 2 others'."""
    names = list(names)
    if len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def spread(what: str, values: Iterable[tuple[str, float]], form: str, unit: str = "") -> str:
    """Says from where to where a figure goes, and whose the ends are.

    values: (name, figure) each; nan is left out. form: how figures are printed; those that look the same are the same
    here.
    """
    known = [(name, format(value, form)) for name, value in sorted(values, key=lambda each: each[1]) if not math.isnan(value)]
    if not known:
        return f"{what}: nothing is known."
    low, high = known[0][1], known[-1][1]
    if low == high:
        whose = known[0][0] if len(known) == 1 else f"all {len(known)}"
        return f"{what}: {low}{unit} ({whose})."
    ends = (names_of(sorted(name for name, text in known if text == end)) for end in (low, high))
    return f"{what}: from {low}{unit} ({next(ends)}) to {high}{unit} ({next(ends)})."


def headline(report, trials: str) -> str:
    """Says which system has the lowest EER on a list, and which ones cannot be told from it."""
    rows = [row for row in report.headline() if row.trials == trials and not math.isnan(row.eer)]
    if not rows:
        return f"{trials}: no EER is known."
    least = min(rows, key=lambda row: row.eer)
    ties = [row.system for row in rows if f"{row.eer:.2f}" == f"{least.eer:.2f}"]
    said = f"{trials}: {names_of(ties)} {'has' if len(ties) == 1 else 'have'}"
    said += f" {'the lowest' if len(rows) > 1 else 'an'} EER{' of' if len(rows) == 1 else ','} {least.eer:.2f} %"
    if not math.isnan(least.eer_low):
        said += f" ({least.eer_low:.2f} to {least.eer_high:.2f})" if len(ties) == 1 else ""
    if len(rows) == len(ties):
        return f"{said}."
    samples = [report.samples.get(row, {}).get("eer") for row in rows]
    if any(each is None or not len(each) for each in samples):
        return f"{said}; without intervals nothing says whether that is more than chance."
    found = best_of([row.eer for row in rows], samples)
    others = [rows[i].system for i in sorted(found) if rows[i].system not in ties]
    if not found:
        return f"{said}; no other system can be told from it."
    return f"{said}; " + (f"{names_of(others)} cannot be told from it." if others else "all others are told from it.")


def size(report, trials: str) -> str:
    """Says which is the smallest file whose EER cannot be told from the lowest; without intervals, the smallest file's
    EER."""
    rows = [row for row in report.headline() if row.trials == trials and not math.isnan(row.eer)]
    if not rows:
        return f"{trials}: no EER is known."
    least = min(rows, key=lambda row: row.eer)
    if len(rows) == 1:
        return f"{least.system}: EER {least.eer:.2f} % in {_megabytes(least)}."
    samples = [report.samples.get(row, {}).get("eer") for row in rows]
    if any(each is None or not len(each) for each in samples):
        small = min(rows, key=lambda row: row.size_bytes)
        return (f"The lowest EER is {least.eer:.2f} % ({least.system}, {_megabytes(least)}); "
                f"the smallest file is {small.system}'s: {small.eer:.2f} %, {_megabytes(small)}.")
    found = best_of([row.eer for row in rows], samples) or range(len(rows))
    small = min((rows[i] for i in found), key=lambda row: row.size_bytes)
    if small.system == least.system:
        smaller = any(row.size_bytes < least.size_bytes for row in rows)
        return (f"{least.system} has the lowest EER, {least.eer:.2f} % in {_megabytes(least)}; "
                f"{'every smaller file has a higher one, and is told from it' if smaller else 'no file is smaller'}.")
    lowest = f"the lowest EER ({least.eer:.2f} %, {least.system}, {_megabytes(least)})"
    return f"The smallest file that cannot be told from {lowest} is {small.system}'s: {small.eer:.2f} %, {_megabytes(small)}."


def _megabytes(row) -> str:
    return f"{row.size_bytes / 1e6:.2f} MB"


def scores(target: np.ndarray, nontarget: np.ndarray, threshold: float) -> str:
    """Says how far apart the two classes of trials are, in their pooled standard deviation, and where the threshold
    is."""
    deviation = math.sqrt((np.var(target) + np.var(nontarget)) / 2)
    gap = float(np.mean(target) - np.mean(nontarget))
    apart = f"{gap / deviation:.1f} standard deviations" if deviation > 0 else f"{gap:.3g}"
    return f"The means of the two classes are {apart} apart; the threshold is {threshold:.3g}."


def calibration(points: Sequence) -> str:
    """Says how far calibrated scores are from the least Cllr that is possible. points: of plots.Calibrated."""
    return spread("Cllr after calibration, above the least possible",
                  [(point.system, point.calibrated - point.least) for point in points], ".3f", " bits")


def reliability(curves: Sequence, systems: Sequence[str]) -> str:
    """Says which point is farthest from the diagonal. curves: of plots.Reliability."""
    gaps = [(abs(o - s), s, o, systems[curve.index]) for curve in curves for s, o in zip(curve.stated, curve.observed)]
    gap, stated, observed, system = max(gaps, key=lambda each: each[0])
    if gap < 0.005:
        return "No point is more than 0.005 off the diagonal."
    return f"Farthest from the diagonal: where {system} states {stated:.2f}, {observed:.2f} are targets."


def training(curves: dict[str, np.ndarray]) -> str:
    """Says where loss and accuracy of a run began and ended. curves: columns of curves.csv."""
    epochs, loss, accuracy = (curves[name] for name in ("epoch", "loss", "accuracy"))
    if len(loss) == 1:
        return f"Loss {loss[0]:.3g}, accuracy {100 * accuracy[0]:.1f} % at epoch {epochs[0]:.3g}."
    return (f"Loss from {loss[0]:.3g} to {loss[-1]:.3g}, accuracy from {100 * accuracy[0]:.1f} % to {100 * accuracy[-1]:.1f} % "
            f"at epoch {epochs[-1]:.3g}.")


def levels(weights, values) -> str:
    """Says how many levels a layer has, and which share of its weights lies outside of them."""
    weights, values = np.asarray(weights).ravel(), np.unique(np.asarray(values))
    outside = 100 * np.mean((weights < values[0]) | (weights > values[-1]))
    return f"{len(values)} level{'s' if len(values) != 1 else ''}; {outside:.1f} % of the weights lie beyond the outer ones."


def agreement(found) -> str:
    """Says how near embeddings of INT8 arithmetic are. found: of collect.Agreement."""
    return f"Median cosine {found.quantiles[3]:.4f}, the least {found.quantiles[0]:.4f}, of {found.utterances:,} utterances."


def frontier(points: Sequence, floats: Sequence) -> str:
    """Says the lowest EER of quantized and of float systems, with the files' sizes. points: of quant_plots.Point."""
    parts = []
    for what, chosen in (("quantized", points), ("float", floats)):
        known = [point for point in chosen if not math.isnan(point.eer)]
        if known:
            least = min(known, key=lambda point: (point.eer, point.megabytes))
            interval = "" if math.isnan(least.low) else f" ({least.low:.2f} to {least.high:.2f})"
            parts.append(f"of {len(chosen)} {what}, {least.eer:.2f} %{interval} in {least.megabytes:.3g} MB by {least.system}")
    return f"Lowest EER: {'; '.join(parts)}." if parts else "No EER is known."


def bits_by_layer(names: Sequence[str], allocations: Sequence) -> str:
    """Says which layers have the fewest and the most bits, of the system of fewest bits. allocations: of
    quant_plots.Allocation."""
    least = min(allocations, key=lambda each: each.average)
    return f"{least.system}, " + spread("bits", zip(names, map(float, least.bits)), "g")


def binarized(panels: Sequence) -> str:
    """Says the farthest from even that binary layers share their weights out. panels: of quant_plots.Binarized."""
    shares = [(f"{each.system}: {each.layer}", 100 * each.counts.max() / each.counts.sum()) for each in panels]
    return spread("Share of a layer's weights at its most frequent value", shares, ".1f", " %")
