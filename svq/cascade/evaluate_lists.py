"""svq.bin.cascade evaluate: from a finished ladder and trial lists to tables, figures and the page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from svq.atomic import atomic_write
from svq.cascade.accounting import table_of
from svq.cascade.cost import rung_costs, storage
from svq.cascade.evaluate import Replay, curve, evaluate
from svq.cascade.ladder import Ladder, load_ladder, load_maps
from svq.cascade.measures import Point
from svq.cascade.page import Evaluated, markdown, plot, render, tsv
from svq.cascade.trial_list import TrialList
from svq.draw.page import write_figures
from svq.errors import UserError


def evaluate_lists(path, trials: Iterable, replicates: int, seed: int,
                   controls: int) -> tuple[list[Evaluated], Ladder]:
    """Of the ladder in file `path` on each trial list, by replay; and the ladder."""
    ladder = load_ladder(path)
    maps, deltas, threshold = load_maps(ladder, path), ladder.deltas(path), ladder.threshold(path)
    found: list[Evaluated] = []
    for each in trials:
        listed = TrialList(each)
        if any(listed.name == other.name for other in found):
            raise UserError(f"{each}: a second list named {listed.name}; give each once")
        table = table_of(rung_costs(ladder.rungs, listed.frames), listed.frames)
        replay = Replay(listed, listed.values(ladder, maps), table, Point.of(ladder.operating, threshold),
                        ladder.names)
        title = (f"{listed.name}: {int(listed.target.sum()):,} target and {int((~listed.target).sum()):,} non-target "
                 "trials")
        found.append(Evaluated(listed.name, title, evaluate(replay, deltas, replicates, seed, controls),
                               curve(replay, deltas, seed=seed)))
    return found, ladder


def settings_of(ladder: Ladder) -> str:
    """A sentence on the operating point, the deltas and where they are from."""
    gates = ", ".join(f"{rung.name} {rung.delta:.4g}" for rung in ladder.rungs[:-1])
    said = (f"Decisions at {ladder.operating.describe()}: {ladder.threshold():.4g}. Deltas: {gates}. The files of all "
            f"rungs together have {storage(ladder.rungs):,} bytes.")
    if ladder.chosen:
        limits = ", ".join(f"{name} {value:g}" for name, value in ladder.chosen.get("limits", {}).items())
        said += f" Chosen on {ladder.chosen.get('on')} within {limits}."
    return said


def write_report(folder, lists: Sequence[Evaluated], ladder: Ladder, runs: Sequence[dict] = ()) -> None:
    """cascade.md, the figures with their numbers, index.html and, last, cascade.tsv. runs: of svq.cascade.live_runs."""
    figures = [plot(listed, ladder.names) for listed in lists]
    settings = settings_of(ladder)
    if runs and (runs[0]["rungs"], runs[0]["gates"]) != (ladder.names, ladder.gates()):
        raise UserError(f"the runs are of the rungs {', '.join(runs[0]['rungs'])} with threshold and deltas "
                        f"{', '.join(runs[0]['gates'])}, the ladder has {', '.join(ladder.names)} with "
                        f"{', '.join(ladder.gates())}; run the cascade again")
    write_figures(folder, figures)
    for name, text in (("cascade.md", markdown(lists, ladder.names, settings, runs)),
                       ("index.html", render(lists, figures, ladder.names, settings, runs)),
                       ("cascade.tsv", tsv(lists))):
        with atomic_write(os.path.join(folder, name)) as file:
            file.write(text)
