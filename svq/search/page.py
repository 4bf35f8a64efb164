"""The page of a search, index.html, and the files beside it: the trade-off table and figures as Optuna has them.

The figures show how the search went, what each setting did, and what the pruner saw. Each function that draws takes
plain values of the study and gives a `Drawn` of svq.draw.figure. Complete trials are full marks. Pruned ones are
hollow, at the last value that was measured.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from svq.atomic import atomic_write
from svq.draw import figure as fig
from svq.draw.figure import Drawn, nice_ticks
from svq.draw.page import page, section, write_figures
from svq.draw.tables import write_rows
from svq.report import findings
from svq.report.index import finish
from svq.search import tradeoff
from svq.search.storage import latest, quiet_optuna

FEWEST = 4  # complete trials that say anything about what matters


class Trial(NamedTuple):
    """A trial of the study: index, state (complete, pruned, fail, ...), value or nan, settings, value by epoch."""

    index: int
    state: str
    value: float
    params: dict
    intermediate: dict[int, float]


class Importance(NamedTuple):
    """The importance of a setting, as a share by Optuna's PED-ANOVA, or nan. correlation: Spearman's, of the setting
    with the trial's value; nan for choices of words."""

    key: str
    importance: float
    correlation: float


def trials_of(study) -> list[Trial]:
    """Gives the trials of a study in the order of their indices. A trial that was taken up again counts by its last
    try."""
    return [Trial(index, trial.state.name.lower(), trial.value if trial.state.name == "COMPLETE" else math.nan,
                  dict(trial.params), dict(trial.intermediate_values)) for index, trial in latest(study).items()]


def importances(study) -> tuple[list[Importance], str]:
    """Ranks the settings of a study, the most important first; gives them and a note on what the ranking is worth."""
    done = [trial for trial in trials_of(study) if trial.state == "complete"]
    keys = list(dict.fromkeys(key for trial in done for key in trial.params))
    note = ("Optuna's PED-ANOVA, which needs no scikit-learn (its fANOVA would): how far the settings of the best "
            "trials are from those of all. Rank correlation: Spearman's, with the value; above 0 a larger setting is "
            "worse. ")
    if len(done) < FEWEST:
        return [], f"Only {len(done)} trials are complete: no importances under {FEWEST}."
    shares = _shares(study)
    found = [Importance(key, shares.get(key, math.nan), _correlation(done, key)) for key in keys]
    found.sort(key=lambda each: (-each.importance if math.isfinite(each.importance) else 1.0, each.key))
    note += f"From {len(done)} complete trials" + ("." if len(done) >= 30 else ", too few to trust in.")
    return found, note if shares else note + " PED-ANOVA found too little difference between them."


def _shares(study) -> dict[str, float]:
    optuna = quiet_optuna()
    try:
        return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):  # all trials alike, or a setting of one value only
        return {}


def _correlation(trials: Sequence[Trial], key: str) -> float:
    from scipy.stats import rankdata

    values = [trial.params.get(key) for trial in trials]
    if not all(isinstance(value, (int, float)) for value in values):
        return math.nan
    ranks = rankdata(values), rankdata([trial.value for trial in trials])
    if any(np.ptp(each) == 0 for each in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


ERROR = "value (error + size), %"


def last_value(trial: Trial) -> float:
    """Gives the value of a complete trial, else the last value measured in training; nan where none was."""
    if trial.state == "complete":
        return trial.value
    return trial.intermediate[max(trial.intermediate)] if trial.intermediate else math.nan


def running_best(trials: Sequence[Trial]) -> list[float]:
    """Gives for each trial the lowest value among the complete trials up to it; nan before the first of those."""
    values = [trial.value if trial.state == "complete" else math.inf for trial in trials]
    best = np.minimum.accumulate(values) if values else []
    return [float(value) if math.isfinite(value) else math.nan for value in best]


def _marks(axes, x, trials: Sequence[Trial], x_of) -> None:
    for state, face in (("complete", fig.series(0)), ("pruned", fig.SURFACE)):
        chosen = [trial for trial in trials if trial.state == state]
        axes.plot([x_of(trial) for trial in chosen], [last_value(trial) for trial in chosen], linestyle="none",
                  marker="o", markersize=5, color=fig.series(0), markerfacecolor=face, label=state)
    axes.yaxis.set_major_locator(nice_ticks(6))


def history(trials: Sequence[Trial]) -> Drawn:
    """Draws the value of every trial and the best value up to it."""
    best = running_best(trials)
    with fig.rc():
        figure, (axes,) = fig.panels(width=5.6, height=3.2)
        axes.step([trial.index for trial in trials], best, where="post", color=fig.series(1), label="best so far")
        _marks(axes, None, trials, lambda trial: trial.index)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        fig.caption(axes, "", "trial", ERROR)
        axes.legend(frameon=False, fontsize=7.5)
        svg = fig.to_svg(figure, "history", "value of every trial")
    rows = [(str(t.index), t.state, last_value(t), b) for t, b in zip(trials, best)]
    return Drawn("history", "How the search went", "Full: complete. Hollow: pruned, at the last value measured.", svg,
                 ("trial", "state", "value", "best"), rows, _said_of_history(trials))


def _said_of_history(trials: Sequence[Trial]) -> str:
    done = [trial for trial in trials if trial.state == "complete"]
    said = f"Complete trials: {len(done)} of {len(trials)}"
    if not done:
        return f"{said}."
    least = min(done, key=lambda trial: trial.value)
    ties = sum(trial.value == least.value for trial in done)
    return f"{said}; the lowest value is {least.value:.3f} %, of trial {least.index}{f' and {ties - 1} more' if ties > 1 else ''}."


def importance(found: Sequence[Importance], note: str) -> Drawn:
    """Draws the importance of every setting as a bar. note: the figure's, see `importances`."""
    with fig.rc():
        figure, (axes,) = fig.panels(width=5.6, height=0.7 + 0.32 * len(found))
        place = np.arange(len(found))[::-1]
        axes.barh(place, [0.0 if math.isnan(each.importance) else each.importance for each in found],
                  color=fig.series(0), height=0.6)
        axes.set_yticks(place, [each.key for each in found])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
        fig.caption(axes, "", "importance", "")
        svg = fig.to_svg(figure, "importance", "importance of every setting")
    return Drawn("importance", "What mattered", note, svg, ("setting", "importance", "rank_correlation"),
                 [tuple(each) for each in found],
                 findings.spread("Importance", [(each.key, each.importance) for each in found], ".2f"))


def slices(trials: Sequence[Trial]) -> Drawn:
    """Draws the trials' values against each setting alone, a panel for each."""
    keys = keys_of(trials)
    columns = min(2, len(keys))  # more would be too small on a phone
    with fig.rc():
        rows = -(-len(keys) // columns)
        figure, axes = fig.panels(rows, columns, width=0.6 + 2.3 * columns, height=0.3 + 2.2 * rows)
        for number, (panel, key) in enumerate(zip(axes, keys)):
            scale = Scale([trial.params[key] for trial in trials if key in trial.params])
            known = [trial for trial in trials if key in trial.params]
            _marks(panel, None, known, lambda trial: scale.number(trial.params[key]))
            scale.set_ticks(panel)
            fig.caption(panel, key, "", ERROR if number % columns == 0 else "")
        for panel in axes[len(keys) :]:
            panel.set_visible(False)
        svg = fig.to_svg(figure, "slices", "value against every setting")
    values = [(str(t.index), t.state, last_value(t), *(_plain(t.params.get(key)) for key in keys)) for t in trials]
    return Drawn("slices", "Setting by setting", "The other settings differ from mark to mark: what lines up here may "
                 "be the doing of another one.", svg, ("trial", "state", "value", *keys), values, _said_of_slices(trials, keys))


def _said_of_slices(trials: Sequence[Trial], keys: Sequence[str]) -> str:
    """The setting that the value goes with most, by rank."""
    done = [trial for trial in trials if trial.state == "complete"]
    found = [(key, _correlation(done, key)) for key in keys] if len(done) >= FEWEST else []
    found = [(key, value) for key, value in found if not math.isnan(value)]
    if not found:
        return "Too few complete trials, or none with different numbers, to say which setting the value goes with."
    key, value = max(found, key=lambda each: abs(each[1]))
    return f"The value goes most with {key}: rank correlation {value:+.2f} over {len(done)} complete trials."


def parallel(trials: Sequence[Trial]) -> Drawn:
    """Draws each trial as a line through all of its settings; the best third stands out."""
    keys = keys_of(trials)
    complete = sorted((t for t in trials if t.state == "complete"), key=lambda t: t.value)
    best = {t.index for t in complete[: max(1, len(complete) // 3)]}
    scales = {key: Scale([t.params[key] for t in trials if key in t.params]) for key in keys}
    with fig.rc():
        figure, (axes,) = fig.panels(width=max(4.0, 1.5 * len(keys) + 1), height=3.2)
        for trial in sorted(trials, key=lambda t: t.index in best):
            if not all(key in trial.params for key in keys):
                continue
            strong = trial.index in best
            axes.plot(range(len(keys)), [scales[key].share(trial.params[key]) for key in keys],
                      linewidth=1.8 if strong else 0.9, color=fig.series(1) if strong else fig.MUTED,
                      alpha=1.0 if strong else 0.55, linestyle="solid" if trial.state == "complete" else (0, (3, 2)))
        axes.set_xticks(range(len(keys)), [f"{key}\n{scales[key].ends()}" for key in keys])
        for label in axes.get_xticklabels():
            label.set_parse_math(False)
        axes.set_yticks([])
        axes.grid(axis="x", visible=True)
        svg = fig.to_svg(figure, "parallel", "settings of every trial")
    rows = [(str(t.index), str(t.index in best).lower(), *(scales[key].share(t.params[key]) for key in keys))
            for t in trials if all(key in t.params for key in keys)]
    chosen = [f"{key} {_ends([t.params[key] for t in complete if t.index in best and key in t.params])}" for key in keys]
    said = f"The best {len(best)} of {len(complete)}: {'; '.join(chosen)}." if best else "No trial is complete."
    return Drawn("parallel", "Settings together", "A line is a trial, low to high of what was tried from bottom to "
                 "top; coloured: the best third. Dashed: pruned.", svg, ("trial", "best_third", *keys), rows, said)


def _ends(values: Sequence) -> str:
    """The least and the greatest of some numbers, or all different words."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        low, high = (f"{end:.3g}" for end in ((min(values), max(values)) if values else (math.nan, math.nan)))
        return low if low == high else f"{low} to {high}"
    return " or ".join(sorted({str(value) for value in values}))


def intermediate(trials: Sequence[Trial]) -> Drawn:
    """Draws the value that was measured after each epoch, a line for each trial."""
    with fig.rc():
        figure, (axes,) = fig.panels(width=5.6, height=3.2)
        for trial in trials:
            epochs = sorted(trial.intermediate)
            done = trial.state == "complete"
            axes.plot(epochs, [trial.intermediate[epoch] for epoch in epochs],
                      color=fig.series(0) if done else fig.MUTED, linestyle="solid" if done else (0, (3, 2)),
                      linewidth=1.0, marker="o", markersize=3, alpha=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_locator(nice_ticks(6))
        fig.caption(axes, "", "epoch", ERROR)
        svg = fig.to_svg(figure, "intermediate", "value after every epoch")
    rows = [(str(t.index), t.state, str(epoch), t.intermediate[epoch])
            for t in trials for epoch in sorted(t.intermediate)]
    pruned = sum(trial.state == "pruned" for trial in trials)
    last = max(epoch for trial in trials for epoch in trial.intermediate)
    said = f"Given up early: {pruned} of {len(trials)} trials. The last epoch that was measured: {last}."
    return Drawn("intermediate", "After each epoch", "What the pruner saw; dashed: pruned.", svg,
                 ("trial", "state", "epoch", "value"), rows, said)


def keys_of(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.params))


def _plain(value):
    return value if isinstance(value, (str, float)) and value is not None else "nan" if value is None else str(value)


class Scale:
    """A scale that places the values of one setting on a line.

    Words are placed in alphabetical order, numbers as they are or by their logarithm.
    """

    def __init__(self, values: Sequence):
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        self.words = None if numbers else sorted({str(value) for value in values})
        self.log = bool(numbers and values and min(values) > 0 and max(values) / min(values) > 20)
        places = [self.number(value) for value in values] or [0.0]
        self.values, self.low, self.high = values, min(places), max(places)

    def number(self, value) -> float:
        """Gives the place of a value on the scale: the number of a word, a logarithm, or the value."""
        if self.words is not None:
            return float(self.words.index(str(value)))
        return math.log10(value) if self.log else float(value)

    def share(self, value) -> float:
        """Gives the place of a value between 0, the least that was tried, and 1, the most."""
        return 0.5 if self.high == self.low else (self.number(value) - self.low) / (self.high - self.low)

    def ends(self) -> str:
        """Says the two ends of the scale."""
        if self.words is not None:
            return f"{self.words[0]} to {self.words[-1]}"
        return f"{min(self.values):.3g} to {max(self.values):.3g}"

    def set_ticks(self, axes) -> None:
        if self.words is not None:
            axes.set_xticks(range(len(self.words)), self.words)
            return
        axes.xaxis.set_major_locator(nice_ticks(4))
        if self.log:
            axes.xaxis.set_major_formatter(lambda place, _: f"{10**place:.2g}")


def figures_of(study) -> tuple[list[Drawn], str]:
    """Draws every figure that the study has values for; gives them and a note on what is missing."""
    trials = trials_of(study)
    shown = [trial for trial in trials if trial.params]
    if not shown:
        return [], "No trial has been drawn yet."
    found, note = importances(study)
    figures = [history(trials)] + ([importance(found, note)] if found else [])
    figures += [slices(shown), parallel(shown)]
    if any(trial.intermediate for trial in trials):
        figures.append(intermediate(trials))
    return figures, "" if found else note


def write(folder, title: str, rows: Sequence[tradeoff.Row], about: tradeoff.Conditions,
          figures: Sequence[Drawn] = (), note: str = "") -> None:
    """Writes tradeoff.tsv, tradeoff.md, each figure as .svg and .tsv, and last index.html into `folder`."""
    folder = os.fspath(folder)
    write_rows(os.path.join(folder, "tradeoff.tsv"), tradeoff.Row, rows)
    with atomic_write(os.path.join(folder, "tradeoff.md")) as file:
        file.write(tradeoff.markdown(rows, about))
    write_figures(folder, figures)
    sections = [("tradeoff", "Trade-off", tradeoff.html(rows, about))]
    sections += [(drawn.name, drawn.title, section(drawn)) for drawn in figures]
    summary = f"{len(rows)} systems. {note}".strip()
    with atomic_write(os.path.join(folder, "index.html")) as file:
        file.write(page(title, summary, sections, "Made by <code>steps/tradeoff.sh</code>."))
    finish(os.path.join(folder, "index.html"))
