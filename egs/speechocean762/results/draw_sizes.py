"""Draws EER over the size of the file for all systems of results/finetuned.tsv, from 32 bits to 1.

Usage: . ./path.sh; python3 egs/speechocean762/results/draw_sizes.py docs/sizes.svg
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

from svq.atomic import atomic_write
from svq.draw import figure as fig
from svq.draw.page import standalone

RESULTS = Path(__file__).with_name("finetuned.tsv")
NETWORKS = {"ecapa": "ECAPA-TDNN", "xvector": "x-vector", "small": "ResNet18 of width 8", "resnet34": "ResNet34 of width 16"}
# How a network's systems are made, and how they are drawn: what their rows match, marker, size, line.
KINDS = (("finetuned without labels", r"|calibrated\d", "o", 5.5, "solid"),
         ("calibrated, nothing trained", r"calibrated\d-ptq", "v", 4.0, None),
         ("finetuned with labels", r"float|kmqat\d|uniform\d", "x", 4.5, None))


def main(out: str) -> None:
    with open(RESULTS, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with fig.rc():
        figure, (axes,) = fig.panels(width=6.6, height=3.6)
        for number, network in enumerate(NETWORKS):
            draw_network(axes, [row for row in rows if row["system"].split("_")[0] == network], network, number)
        for label, _, marker, size, line in KINDS:
            axes.plot([], [], marker, color=fig.MUTED, markersize=size, linestyle=line or "none", label=label)
        axes.set_xscale("log")
        axes.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20], labels="0.05 0.1 0.2 0.5 1 2 5 10 20".split())
        axes.minorticks_off()
        axes.yaxis.set_major_locator(fig.nice_ticks(7))
        fig.caption(axes, "", "model file (MB, 10⁶ bytes)", "EER (%) of 80 unseen speakers")
        fig.legend_below(figure, axes)
        svg = fig.to_svg(figure, "sizes", "EER over the size of the model file for four networks at 32 bits to 1")
    with atomic_write(Path(out)) as file:
        file.write(standalone(svg))


def draw_network(axes, rows, network: str, number: int) -> None:
    """Draws the systems of one network, a line through those that were finetuned without labels, and its name at float."""
    for _, pattern, marker, size, line in KINDS:
        points = sorted((int(row["bytes"]) / 1e6, float(row["eer"])) for row in rows
                        if re.fullmatch(pattern, row["system"].removeprefix(network).removeprefix("_")))
        axes.plot(*zip(*points), marker, color=fig.series(number), markersize=size, linestyle=line or "none", linewidth=1.2)
    place = min(rows, key=lambda row: int(row["bytes"])) if network == "small" else rows[0]  # of the name: 1 bit, else float
    axes.annotate(NETWORKS[network], (int(place["bytes"]) / 1e6, float(place["eer"])), (0, 7), textcoords="offset points",
                  ha="left" if network == "small" else "right", fontsize=8.5, color=fig.series(number))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("draw_sizes.py: needs <out.svg>")
    main(sys.argv[1])
