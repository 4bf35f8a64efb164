"""The files of a score analysis: maps, scores.tsv, scores.md, figures, and index.html that holds all in one."""

from __future__ import annotations

from html import escape
from pathlib import Path

from svq.analysis import score_tables
from svq.analysis.score_analysis import Analysis
from svq.analysis.score_plots import figures
from svq.analysis.score_rows import write_rows
from svq.atomic import atomic_write
from svq.backend.score_map import save_map
from svq.config import dump_config
from svq.draw.page import page, section, write_figures

MADE = "Made by <code>steps/score_analysis.sh</code>."


def summary(out: Analysis) -> str:
    """One line: how many systems, and what the lists are."""
    lists = "; ".join(f"{name}: {targets:,} target and {others:,} non-target trials of {speakers} speakers"
                      for name, (targets, others, speakers) in out.sizes.items())
    return f"{len(out.compared)} systems against {out.reference}. {lists}. Fitted on {next(iter(out.sizes))} alone."


def markdown(out: Analysis) -> str:
    parts = [summary(out), *(score_tables.markdown(table) for table in score_tables.tables(out)), *out.notes]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def write(folder, out: Analysis, title: str) -> None:
    """Everything, the page last: it says that the rest is there."""
    folder = Path(folder)
    for system, maps in out.fitted.maps.items():
        if system != out.reference:
            for kind, each in maps.items():
                save_map(each, folder / "maps" / f"{system}.{kind}.json")
        save_map(out.fitted.calibrations[system], folder / "maps" / f"{system}.calibration.json")
    dump_config(out.config, folder / "config.yaml")
    write_rows(folder / "scores.tsv", out.rows)
    with atomic_write(folder / "scores.md") as file:
        file.write(markdown(out))
    drawn = figures(out)
    write_figures(folder, drawn)
    sections = [(table.key, table.title, score_tables.html(table)) for table in score_tables.tables(out)]
    sections += [(each.name, each.title, section(each)) for each in drawn]
    with atomic_write(folder / "index.html") as file:
        file.write(page(title, escape(" ".join((summary(out), *out.notes))), sections, MADE))
