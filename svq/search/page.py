"""index.html of a search: the trade-off table and Optuna's figures in our own style, and the files beside it."""

from __future__ import annotations

import os
from typing import Sequence

from svq.atomic import atomic_write
from svq.draw.figure import Drawn
from svq.draw.page import page, section, write_figures
from svq.search import plots, tradeoff_table


def figures_of(study) -> tuple[list[Drawn], str]:
    """Every figure that there is something to show for, and a note on those that there is not."""
    from svq.search.summary import importances, trials_of

    trials = trials_of(study)
    shown = [trial for trial in trials if trial.params]
    if not shown:
        return [], "No trial has been drawn yet."
    found, note = importances(study)
    figures = [plots.history(trials)] + ([plots.importance(found, note)] if found else [])
    figures += [plots.slices(shown), plots.parallel(shown)]
    if any(trial.intermediate for trial in trials):
        figures.append(plots.intermediate(trials))
    return figures, "" if found else note


def write(folder, title: str, rows: Sequence[tradeoff_table.Row], about: tradeoff_table.Conditions,
          figures: Sequence[Drawn] = (), note: str = "") -> None:
    """index.html, tradeoff.md, tradeoff.tsv and each figure as .svg and .tsv, the page last."""
    folder = os.fspath(folder)
    tradeoff_table.write_tsv(os.path.join(folder, "tradeoff.tsv"), rows)
    with atomic_write(os.path.join(folder, "tradeoff.md")) as file:
        file.write(tradeoff_table.markdown(rows, about))
    write_figures(folder, figures)
    sections = [("tradeoff", "Trade-off", tradeoff_table.html(rows, about))]
    sections += [(drawn.name, drawn.title, section(drawn)) for drawn in figures]
    summary = f"{len(rows)} systems. {note}".strip()
    with atomic_write(os.path.join(folder, "index.html")) as file:
        file.write(page(title, summary, sections, "Made by <code>steps/tradeoff.sh</code>."))
