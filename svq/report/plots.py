"""The report's figures: each function turns plain arrays into one inline SVG.

Colours belong to systems (their index in the report's list), so a system looks the same
in every figure; quantized systems are dashed, which also survives a black-and-white print.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from scipy.special import expit, ndtri

from svq.draw import figure as fig
from svq.draw.figure import dash, draw_histogram, edges_of, nice_ticks, weight_histogram

_DET_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
_MAX_DET_POINTS = 300
_MAX_CURVE_POINTS = 150


class Det(NamedTuple):
    """One system's detection error trade-off on one list; rates are fractions."""

    index: int  # the system's place in the report, which fixes its colour
    dashed: bool
    fpr: np.ndarray
    fnr: np.ndarray
    eer: float


def operating_point(fpr, fnr, p_target: float) -> tuple[float, float]:
    """Finds the minDCF point: (fpr, fnr) where p_target * fnr + (1 - p_target) * fpr is least."""
    best = int(np.argmin(p_target * np.asarray(fnr) + (1 - p_target) * np.asarray(fpr)))
    return float(fpr[best]), float(fnr[best])


def thin_curve(x, y, points: int = _MAX_DET_POINTS):
    """Keeps at most about `points` of the vertices of a polyline x, y (n,), evenly along its length, and both ends."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) <= points:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    keep = np.searchsorted(length, np.linspace(0, length[-1], points), side="left")
    keep = np.unique(np.clip(keep, 0, len(x) - 1))
    return x[keep], y[keep]


def thin_mean(y, points: int = _MAX_CURVE_POINTS) -> np.ndarray:
    """Averages a series (n,), such as a long training log, over at most `points` consecutive stretches."""
    y = np.asarray(y, float)
    if len(y) <= points:
        return y
    edges = np.linspace(0, len(y), points + 1).astype(int)
    return np.add.reduceat(y, edges[:-1]) / np.diff(edges)


def det_plot(curves: Sequence[Det], title: str, name: str) -> str:
    """Draws DET curves on probit axes: EER as circles, the points of minDCF(0.01) and (0.05) as marks."""
    low, high = _det_range(curves)
    ticks = [tick for tick in _DET_TICKS if low <= tick <= high]
    with fig.rc():
        figure, (axes,) = fig.panels(height=fig.WIDTH)
        ends = ndtri([low, high])
        axes.plot(ends, ends, color=fig.GRID, linewidth=0.8)
        for curve in curves:
            _draw_det(axes, curve, low, high)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(list(ndtri(ticks))))
            axis.set_major_formatter(FuncFormatter(lambda _, i: f"{100 * ticks[i]:g}"))
        fig.caption(axes, title, "false acceptances (%)", "false rejections (%)")
        return fig.to_svg(figure, name, f"DET curves, {title}")


def _draw_det(axes, curve: Det, low: float, high: float) -> None:
    colour = fig.series(curve.index)
    # An empty tail (rate 0) has no place on a probit axis; it leaves through the frame.
    edge = low / 10, 1 - 1e-6
    x, y = ndtri(np.clip(curve.fpr, *edge)), ndtri(np.clip(curve.fnr, *edge))
    lowest, highest = ndtri([low, high])
    seen = np.flatnonzero((x >= lowest) & (x <= highest) & (y >= lowest) & (y <= highest))
    if len(seen):
        part = slice(max(seen[0] - 1, 0), seen[-1] + 2)
        axes.plot(*thin_curve(x[part], y[part]), color=colour, linestyle=dash(curve.dashed, curve.index))
    points = [((curve.eer, curve.eer), "o")]
    points += [(operating_point(curve.fpr, curve.fnr, p), m) for p, m in ((0.01, "v"), (0.05, "s"))]
    for (fpr, fnr), marker in points:
        if low <= fpr <= high and low <= fnr <= high:
            axes.plot(ndtri(fpr), ndtri(fnr), marker, color=colour, markersize=5.0,
                      markeredgecolor=fig.SURFACE, markeredgewidth=0.8, zorder=3)


def _det_range(curves: Sequence[Det]) -> tuple[float, float]:
    """Axes from a tick well under the least EER to 60 %, so that the elbow is in the middle."""
    least = min((curve.eer for curve in curves), default=0.01)
    below = [tick for tick in _DET_TICKS if tick <= max(least, 1e-3) / 4]
    low = below[-1] if below else _DET_TICKS[0]
    return low * 0.8, 0.62


def score_histogram(target, nontarget, threshold: float, index: int, title: str, name: str) -> str:
    """Draws densities of target and non-target scores, (n,) and (m,), and the equal-error threshold."""
    target, nontarget = np.asarray(target, float), np.asarray(nontarget, float)
    # The two tails beyond 0.05 % of a list hold nothing to see but stretch the axis.
    both = [np.quantile(part, [0.0005, 0.9995]) for part in (target, nontarget)]
    edges = edges_of(min(part[0] for part in both), max(part[1] for part in both))
    with fig.rc():
        figure, (axes,) = fig.panels(height=2.45)
        for scores, colour, alpha in ((nontarget, fig.MUTED, 0.22), (target, fig.series(index), 0.35)):
            density, _ = np.histogram(scores, edges)
            density = density / (len(scores) * np.diff(edges))
            axes.stairs(density, edges, fill=True, color=colour, alpha=alpha, linewidth=0)
            axes.stairs(density, edges, color=colour, linewidth=1.3)
        axes.axvline(threshold, color=fig.INK, linewidth=1.0, linestyle=dash(True))
        axes.set_yticks([])
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(nice_ticks(6))
        axes.grid(axis="y", visible=False)
        fig.caption(axes, title, "score", "density")
        return fig.to_svg(figure, name, f"Score histogram, {title}")


def cosine_histogram(counts, edges, index: int, title: str, name: str) -> str:
    """Draws how many utterances have which cosine between two systems' embeddings. counts: (bins,). edges: (bins +
    1,)."""
    with fig.rc():
        figure, (axes,) = fig.panels(height=2.0)
        axes.stairs(counts, edges, fill=True, color=fig.series(index), alpha=0.35, linewidth=0)
        axes.stairs(counts, edges, color=fig.series(index), linewidth=1.3)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(nice_ticks(4))
        axes.yaxis.set_major_locator(nice_ticks(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y", visible=False)
        fig.caption(axes, title, "cosine", "utterances")
        return fig.to_svg(figure, name, f"Cosines of INT8 and float embeddings, {title}")


def training_curves(curves: dict[str, np.ndarray], index: int, title: str, name: str) -> str:
    """Plots loss, accuracy, learning rate and margin of one run over its epochs.

    curves: columns of curves.csv: epoch, lr, margin, loss, accuracy (a fraction).
    """
    x = np.asarray(curves["epoch"], float)
    with fig.rc():
        figure, axes = fig.panels(2, 2, height=3.2)
        for place, (axis, key, text) in enumerate(zip(
                axes, ("loss", "accuracy", "lr", "margin"),
                ("loss", "training accuracy (%)", "learning rate", "margin"))):
            scale = 100.0 if key == "accuracy" else 1.0
            axis.plot(thin_mean(x), scale * thin_mean(curves[key]), color=fig.series(index),
                      marker="o" if len(x) == 1 else "")
            axis.yaxis.set_major_locator(nice_ticks(4))
            axis.xaxis.set_major_locator(nice_ticks(5))
            axis.set_ylim(bottom=0)
            fig.caption(axis, text, "epoch" if place > 1 else "")
        figure.suptitle(title, parse_math=False, fontsize=9.5, x=0.02, ha="left", fontweight="bold")
        return fig.to_svg(figure, name, f"Training curves, {title}")


def level_plot(weights, levels, bits: int, index: int, title: str, name: str) -> str:
    """Draws the histogram of a layer's weights with its quantization levels, which are already scaled by alpha."""
    weights = np.asarray(weights, float).ravel()
    levels = np.unique(np.asarray(levels, float))
    counts, edges = weight_histogram(weights, levels)
    with fig.rc():
        figure, (axes,) = fig.panels(height=2.45)
        axes.vlines(levels, 0, 1.12 * max(counts.max(), 1), color=fig.series(index),
                    linewidth=1.1 if len(levels) <= 16 else 0.5)
        draw_histogram(axes, counts, edges)
        axes.xaxis.set_major_locator(nice_ticks(5))
        axes.yaxis.set_major_locator(nice_ticks(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        fig.caption(axes, title, f"weight ({len(weights):,} at {bits} bit)", "weights per bin")
        return fig.to_svg(figure, name, f"Weights and quantization levels, {title}")


class Sized(NamedTuple):
    """A system in the size plot; low and high may be nan (no interval known)."""

    index: int
    system: str
    size_bytes: int
    eer: float  # percent
    low: float
    high: float
    parent: str | None


def size_plot(points: Sequence[Sized], title: str, name: str) -> str:
    """Plots EER over the size of the model file, with a thin line from each float system to its quantized forms."""
    place = {point.system: point for point in points}
    with fig.rc():
        figure, (axes,) = fig.panels(height=fig.height_beside(len(points)))
        for point in points:
            if point.parent in place:
                origin = place[point.parent]
                axes.plot([origin.size_bytes / 1e6, point.size_bytes / 1e6], [origin.eer, point.eer],
                          color=fig.MUTED, linewidth=0.6, linestyle=dash(True), zorder=1)
        for point in points:
            colour, x = fig.series(point.index), point.size_bytes / 1e6
            if np.isfinite(point.low) and np.isfinite(point.high):
                axes.vlines(x, point.low, point.high, color=colour, linewidth=1.2, alpha=0.7)
            axes.plot(x, point.eer, "o", color=colour, markersize=6.5, markeredgecolor=fig.SURFACE, markeredgewidth=0.8)
        axes.set_xscale("log")
        _pad_size_axes(axes, points)
        fig.names_beside(axes, [(point.size_bytes / 1e6, point.eer, point.system, fig.series(point.index)) for point in points])
        fig.caption(axes, title, "model file (MB, 10⁶ bytes)", "EER (%)")
        return fig.to_svg(figure, name, f"EER over model size, {title}")


def _eer_bounds(points: Sequence[Sized]) -> tuple[float, float]:
    """Least and greatest EER with their intervals."""
    values = np.array([[point.eer, point.low, point.high] for point in points])
    return float(np.nanmin(values)), float(np.nanmax(values))


def _pad_size_axes(axes, points: Sequence[Sized]) -> None:
    sizes = np.array([point.size_bytes for point in points]) / 1e6
    low, high = _eer_bounds(points)
    axes.set_xlim(sizes.min() / 1.5, sizes.max() * 1.5)
    room = max(high - low, 0.1 * high, 1e-3)
    axes.set_ylim(max(0.0, low - 0.08 * room), high + 0.08 * room)
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(nice_ticks(6))


class Calibrated(NamedTuple):
    """Cllr of one system on one list: the scores as they came, calibrated, and at best (PAV)."""

    index: int
    system: str
    raw: float
    calibrated: float
    least: float


def cllr_plot(points: Sequence[Calibrated], title: str, name: str) -> str:
    """Plots the Cllr before and after calibration, a line for each system: raw (hollow), calibrated (full), minimum
    (bar)."""
    with fig.rc():
        figure, (axes,) = fig.panels(height=max(1.9, 1.0 + 0.34 * len(points)))
        for row, point in enumerate(points):
            colour = fig.series(point.index)
            ends = sorted([point.raw, point.calibrated, point.least])
            axes.hlines(row, ends[0], ends[-1], color=fig.GRID, linewidth=2.0, zorder=1)
            axes.plot(point.raw, row, "o", color=colour, markersize=6.5, markerfacecolor=fig.SURFACE)
            axes.plot(point.calibrated, row, "o", color=colour, markersize=6.5)
            axes.plot(point.least, row, "|", color=colour, markersize=12, markeredgewidth=1.8)
        axes.set_yticks(range(len(points)), [point.system for point in points])
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        fig.caption(axes, title, "Cllr (bits)")
        return fig.to_svg(figure, name, f"Cllr before and after calibration, {title}")


class Reliability(NamedTuple):
    """A curve of a system: the probability of a target that scores state, and the share observed, (points,) each."""

    index: int
    dashed: bool
    stated: np.ndarray
    observed: np.ndarray


def reliability(llr_target, llr_nontarget, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Sets stated against observed probabilities of a target, at equal priors.

    llr_*: natural-log likelihood ratios. The two classes are weighted to the same mass, since a
    trial list's own share of targets is arbitrary. Returns the weighted mean of the stated
    posterior and the observed share in each of at most `bins` bins, rising. The bins hold equal
    mass: equal width would leave a handful of trials in the middle ones, and noise for a curve.
    """
    llr = np.concatenate([llr_target, llr_nontarget])
    order = np.argsort(llr, kind="stable")
    posterior = expit(llr[order])
    is_target = order < len(llr_target)
    weight = np.where(is_target, 0.5 / len(llr_target), 0.5 / len(llr_nontarget))
    before = np.cumsum(weight) - weight / 2
    # Equal scores belong together: a tie takes the bin of its first.
    first = np.searchsorted(posterior, posterior, side="left")
    which = np.minimum((before[first] * bins).astype(int), bins - 1)
    mass = np.bincount(which, weight, bins)
    kept = mass > 0
    stated = np.bincount(which, weight * posterior, bins)[kept] / mass[kept]
    observed = np.bincount(which, weight * is_target, bins)[kept] / mass[kept]
    return stated, observed


def reliability_plot(curves: Sequence[Reliability], title: str, name: str) -> str:
    """Draws a reliability diagram; its diagonal is perfect calibration."""
    with fig.rc():
        figure, (axes,) = fig.panels(height=fig.WIDTH)
        axes.plot([0, 1], [0, 1], color=fig.MUTED, linewidth=0.8)
        for curve in curves:
            axes.plot(curve.stated, curve.observed, "o", color=fig.series(curve.index),
                      linestyle=dash(curve.dashed, curve.index), markersize=3.5)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        fig.caption(axes, title, "stated probability of a target", "observed share of targets")
        return fig.to_svg(figure, name, f"Reliability of calibrated scores, {title}")
