"""Figures on quantization: error against size, weights with their levels, bits by layer.

Each function turns plain values into a `Drawn`: an SVG and the numbers in it. The figures named are those of
Liu et al., "Towards lightweight speaker verification via adaptive neural network quantization". Marks and
dashes tell series apart as well as colours, so that a print in grey can be read.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from svq.draw import figure as fig
from svq.draw.figure import Drawn, draw_histogram, nice_ticks, weight_histogram
from svq.report import findings
from svq.report.results import FLOAT_BITS

_MARKERS = "osD^vP*X<>hp"
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.4)), (0, (5, 1.4, 1.2, 1.4)))
_WIDE = 7.6  # inches: a figure with an entry for each layer


class Point(NamedTuple):
    """A system on the frontier. variant: off its family's line; low and high may be nan."""

    family: str
    system: str
    variant: bool
    bits: float
    megabytes: float
    eer: float  # percent
    low: float
    high: float


def frontier(points: Sequence[Point], floats: Sequence[Point], trials: str) -> Drawn:
    """Plots EER against file size, a line for each family, float systems across (fig. 6)."""
    families = list(dict.fromkeys(point.family for point in points))
    with fig.rc():
        figure, (axes,) = fig.panels(width=4.8, height=4.4)
        for index, point in enumerate(floats):
            # Ink, not a series' colour: these are not on the size axis.
            axes.axhline(point.eer, color=fig.INK, linewidth=1.0, linestyle=_DASHES[index % 4],
                         label=f"{point.system}, float, {point.megabytes:.3g} MB")
            axes.plot([0.995 - 0.02 * index] * 2, [point.low, point.high], color=fig.INK, linewidth=0.8,
                      transform=axes.get_yaxis_transform())
        # The palette ends at eight: lines come first, of two single points one may repeat a colour.
        palette = sorted(families, key=lambda family: sum(p.family == family and not p.variant for p in points) < 2)
        for index, family in enumerate(families):
            chosen = [point for point in points if point.family == family]
            # Systems of as many bits have one size: set a point or two apart, their intervals can be seen.
            shift = ScaledTranslation((index - (len(families) - 1) / 2) * 1.6 / 72, 0, figure.dpi_scale_trans)
            _draw_family(axes, chosen, palette.index(family), axes.transData + shift)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(nice_ticks(8))
        _frame(axes, points, floats)
        fig.caption(axes, "", "model file (MB, 10⁶ bytes)", "EER (%)")
        legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=7.5, handlelength=2.6)
        for text in legend.get_texts():
            text.set_parse_math(False)
        svg = fig.to_svg(figure, f"frontier_{trials}", f"EER against file size, {trials}")
    note = "Bars: 95 % intervals; those of float systems stand at the right edge. "
    note += "Hollow: another seed, or a variant of the method. Families of one size are drawn slightly apart."
    rows = [(p.family, p.system, *p[3:]) for p in [*floats, *points]]
    return Drawn(f"frontier_{trials}", f"Error against size: {trials}", note, svg,
                 ("family", "system", "bits", "megabytes", "eer", "eer_low", "eer_high"), rows,
                 findings.frontier(points, floats))


def _draw_family(axes, points: Sequence[Point], index: int, transform) -> None:
    style = {"color": fig.series(index), "marker": _MARKERS[index % len(_MARKERS)], "markersize": 5.5,
             "transform": transform}
    for point in points:
        axes.plot([point.megabytes] * 2, [point.low, point.high], color=fig.series(index), linewidth=0.8,
                  alpha=0.8, transform=transform)
    line = sorted((p for p in points if not p.variant), key=lambda p: p.megabytes)
    # Drawn though it be empty: the legend needs an entry for a family with nothing but variants.
    axes.plot([p.megabytes for p in line], [p.eer for p in line], **style, linestyle=_DASHES[index % 4],
              label=points[0].family, markeredgecolor=fig.SURFACE, markeredgewidth=0.6)
    others = [p for p in points if p.variant]
    axes.plot([p.megabytes for p in others], [p.eer for p in others], **style, linestyle="none",
              markerfacecolor=fig.SURFACE)


def _frame(axes, points: Sequence[Point], floats: Sequence[Point]) -> None:
    """Limits round the points: with a transform of their own, matplotlib does not find them."""
    sizes = np.array([point.megabytes for point in points])
    errors = np.array([[p.eer, p.low, p.high] for p in [*points, *floats]])
    low, high = np.nanmin(errors), np.nanmax(errors)
    room = max(high - low, 0.1 * high, 1e-3)
    axes.set_xlim(sizes.min() / 1.15, sizes.max() * 1.15)
    axes.set_ylim(max(0.0, low - 0.06 * room), high + 0.06 * room)


class Levels(NamedTuple):
    """A method's levels for a layer: codebook (K,), and how many weights take each (K,)."""

    method: str
    codebook: np.ndarray
    counts: np.ndarray
    error: float  # ||W - Q||^2 / ||W||^2


def levels(weights: np.ndarray, methods: Sequence[Levels], bits: int, layer: str) -> Drawn:
    """Draws the histogram of a layer's weights with the levels of each method (figs. 2 and 7)."""
    weights = np.asarray(weights, float).ravel()
    books = np.concatenate([method.codebook for method in methods])
    counts, edges = weight_histogram(weights, books)
    name = f"levels_{bits}bit"
    with fig.rc():
        rows = -(-len(methods) // 2)
        figure, axes = fig.panels(rows, min(2, len(methods)), width=5.6 if len(methods) > 1 else 3.9,
                                  height=0.5 + 1.75 * rows)
        for place, (panel, method) in enumerate(zip(axes, methods)):
            draw_histogram(panel, counts, edges)
            panel.vlines(method.codebook, 0, 1.12 * counts.max(), color=fig.series(0), linewidth=1.0)
            panel.xaxis.set_major_locator(nice_ticks(5))
            panel.yaxis.set_major_locator(nice_ticks(4, integer=True))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            left, last = place % 2 == 0, place >= len(methods) - 2
            fig.caption(panel, f"{method.method}: error {100 * method.error:.2f} %", "weight" if last else "",
                        "weights per bin" if left else "")
        for panel in axes[len(methods) :]:
            panel.set_axis_off()
        svg = fig.to_svg(figure, name, f"Weights of {layer} and quantization levels of {bits} bits")
    note = (f"Histogram of the {len(weights):,} float weights of layer {layer}; each line is a value that a weight can "
            "take once quantized, before any finetuning. Error: squared, relative to that of a weight of zero.")
    table = [("histogram", *row) for row in zip(edges[:-1], edges[1:], counts)]
    for method in methods:
        table += [(method.method, level, level, count) for level, count in zip(method.codebook, method.counts)]
    said = findings.spread("Error", [(method.method, 100 * method.error) for method in methods], ".2f", " %")
    return Drawn(name, f"Levels of {bits} bits", note, svg, ("series", "low", "high", "weights"), table, said)


class Layer(NamedTuple):
    """A layer of the float network; trace: its average Hessian trace, error: its standard error; nan: unknown."""

    name: str
    shape: tuple[int, ...]
    trace: float
    error: float


class Allocation(NamedTuple):
    """Bits of each layer of a mixed system; uniform: a system of as many bits everywhere (None: there is none)."""

    system: str
    average: float
    bits: list[int]
    uniform: tuple[str, int] | None


def bits_by_layer(layers: Sequence[Layer], allocations: Sequence[Allocation]) -> Drawn:
    """Draws the bits of every layer of mixed systems beside uniform ones, under the layers' average traces (fig. 8)."""
    traced = any(np.isfinite(layer.trace) for layer in layers)
    heights = [1.1] * traced + [0.75] * len(allocations)
    names = [layer.name for layer in layers]
    with fig.rc():
        figure, axes = fig.panels(len(heights), 1, width=_WIDE, height=sum(heights) + 0.35 * len(heights) + 0.8,
                                  sharex=True, height_ratios=heights)
        if traced:
            _draw_traces(axes[0], layers)
        for index, (panel, allocation) in enumerate(zip(axes[traced:], allocations)):
            _draw_bits(panel, allocation, index)
        for panel in axes:
            panel.grid(axis="x", visible=False)
        axes[-1].set_xlim(-0.6, len(layers) - 0.4)
        axes[-1].set_xticks(range(len(layers)), names, rotation=90, fontsize=7, parse_math=False)
        fig.caption(axes[-1], axes[-1].get_title(loc="left"), "layer, from input to embedding", "bits")
        figure.align_ylabels()
        svg = fig.to_svg(figure, "bits_by_layer", "Bits of each layer of the mixed precision systems")
    note = "Bars: bits of a layer; dashed: a system of the same bits in every layer. "
    if traced:
        note += "Average trace: that of the layer's Hessian over its number of weights, bars of one standard error."
    columns = ("layer", "shape", "weights", "trace", "trace_std_error", *(a.system for a in allocations))
    rows = [(layer.name, "x".join(map(str, layer.shape)), int(np.prod(layer.shape)), layer.trace, layer.error,
             *(allocation.bits[i] for allocation in allocations)) for i, layer in enumerate(layers)]
    return Drawn("bits_by_layer", "Bits by layer", note, svg, columns, rows, findings.bits_by_layer(names, allocations))


def _draw_traces(axes, layers: Sequence[Layer]) -> None:
    traces, errors = (np.array(values) for values in zip(*((layer.trace, layer.error) for layer in layers)))
    shown = np.flatnonzero(traces > 0)  # an estimate may be negative, and has no place on a log axis
    # A bar must not reach down to zero on a log axis.
    below = np.minimum(np.nan_to_num(errors[shown]), 0.9 * traces[shown])
    axes.set_yscale("log")
    axes.errorbar(shown, traces[shown], [below, np.nan_to_num(errors[shown])], fmt="o", color=fig.series(1),
                  markersize=3.5, elinewidth=1.0)
    axes.yaxis.set_minor_locator(NullLocator())
    fig.caption(axes, "average Hessian trace", "", "trace (log)")


def _draw_bits(axes, allocation: Allocation, index: int) -> None:
    top = max([bits for bits in allocation.bits if bits < FLOAT_BITS], default=1) + 1
    heights = [min(bits, top) for bits in allocation.bits]
    axes.bar(range(len(heights)), heights, width=0.7, color=fig.series(0))
    title = f"{allocation.system}: {allocation.average:.2f} bits on average"
    if allocation.uniform is not None:
        system, bits = allocation.uniform
        axes.axhline(bits, color=fig.INK, linewidth=0.9, linestyle=_DASHES[1])
        title += f"; dashed: {system}, {bits} in every layer"
    is_float = FLOAT_BITS in allocation.bits
    axes.set_ylim(0, top if is_float else top - 0.7)
    axes.yaxis.set_major_locator(FixedLocator(range(0, top + is_float)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "float" if value == top else f"{value:.0f}"))
    fig.caption(axes, title, "", "bits")


class Binarized(NamedTuple):
    """A layer before and after: float weights of any shape, the values that it takes and how many weights each."""

    system: str
    layer: str
    weights: np.ndarray
    values: np.ndarray
    counts: np.ndarray


def binarized(panels: Sequence[Sequence[Binarized]]) -> Drawn:
    """Draws pre-trained weights and their values in binary systems, a row of panels for each system (fig. 9)."""
    rows = []
    with fig.rc():
        figure, axes = fig.panels(len(panels), len(panels[0]), width=5.8, height=0.3 + 2.0 * len(panels))
        for place, (panel, each) in enumerate(zip(axes, [each for row in panels for each in row])):
            counts, edges = weight_histogram(np.asarray(each.weights, float).ravel(), each.values)
            draw_histogram(panel, 100 * counts / each.weights.size, edges)
            first, last = place % len(panels[0]) == 0, place % len(panels[0]) == len(panels[0]) - 1
            _draw_values(panel.twinx(), each, last)
            panel.xaxis.set_major_locator(nice_ticks(5))
            panel.yaxis.set_major_locator(nice_ticks(4))
            fig.caption(panel, f"{each.system}: {each.layer}", "weight" if place >= len(axes) - len(panels[0]) else "",
                        "float weights per bin (%)" if first else "")
            rows += [(each.system, each.layer, "float", *row) for row in zip(edges[:-1], edges[1:], counts)]
            rows += [(each.system, each.layer, "binary", value, value, n) for value, n in zip(each.values, each.counts)]
        svg = fig.to_svg(figure, "binarized", "Pre-trained and binarized weights of the first and the last convolution")
    note = ("Grey, left axis: histogram of the float weights before quantization. Bars, right axis: share of the "
            "weights that take each value once finetuned.")
    columns = ("system", "layer", "series", "low", "high", "weights")
    said = findings.binarized([each for row in panels for each in row])
    return Drawn("binarized", "Binarized weights", note, svg, columns, rows, said)


def _draw_values(axes, each: Binarized, labelled: bool) -> None:
    shares = 100 * each.counts / each.counts.sum()
    axes.vlines(each.values, 0, shares, color=fig.series(0), linewidth=2.2 if len(each.values) <= 4 else 0.6)
    if len(each.values) <= 4:
        for place, (value, share) in enumerate(zip(each.values, shares)):
            # Two values may be near: the first is named to its left, the last to its right.
            side = "right" if place == 0 else "left" if place == len(shares) - 1 else "center"
            axes.annotate(f"{value:.3g}".replace("-", "\u2212"), (value, share), (0, 3), textcoords="offset points",
                          ha=side, fontsize=7.5)
    axes.set_ylim(0, 1.25 * max(shares.max(), 1))
    axes.yaxis.set_major_locator(nice_ticks(4))
    axes.grid(visible=False)
    axes.set_ylabel("binarized (%)" if labelled else "")


def weight_densities(layers: Sequence[tuple[str, np.ndarray]]) -> Drawn:
    """Draws densities of the float weights of lower and deeper layers (fig. 5). layers: (name, weights of any shape)
    each."""
    rows = []
    with fig.rc():
        figure, (axes,) = fig.panels(width=4.6, height=3.2)
        for index, (name, weights) in enumerate(layers):
            weights = np.asarray(weights, float).ravel()
            grid, height = density(weights)
            axes.plot(grid, height, color=fig.series(index), linestyle=_DASHES[index % 4],
                      label=f"{name}, σ = {weights.std():.2g}")
            rows += [(name, *row) for row in zip(grid, height)]
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
        axes.xaxis.set_major_locator(nice_ticks(6))
        fig.caption(axes, "", "weight", "density")
        for text in axes.legend(frameon=False, fontsize=7.5, handlelength=2.6).get_texts():
            text.set_parse_math(False)
        svg = fig.to_svg(figure, "weights", "Densities of the float weights of lower and deeper convolutions")
    note = "The first convolution, and of each width of the network the last one, before quantization."
    said = findings.spread("Standard deviation", [(name, float(np.std(weights))) for name, weights in layers], ".2g")
    return Drawn("weights", "Weights from input to embedding", note, svg, ("layer", "weight", "density"), rows, said)


def density(weights: np.ndarray, points: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """Estimates the density of (n,) weights, over nearly all of them, by Gaussian kernels of Scott's width.

    Gives (points,) where, and (points,) the density there.
    """
    # Of a large layer a few thousand quantiles stand for all its weights.
    sample = np.quantile(weights, (np.arange(count := min(len(weights), 4000)) + 0.5) / count)
    width = 1.06 * sample.std() * count**-0.2 or 1e-6  # constant weights: a spike
    low, high = np.quantile(weights, [0.002, 0.998])
    grid = np.linspace(low - 2 * width, high + 2 * width, points)
    kernels = np.exp(-0.5 * ((grid[:, None] - sample) / width) ** 2)
    return grid, kernels.mean(1) / (width * np.sqrt(2 * np.pi))
