"""What svq.bin.cascade run measured, a cascade beside its rungs alone: a table of several runs over one list."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

from svq.errors import UserError, located

HEADS = ("what ran", "escalated (%)", "embeddings", "network (s)", "of {last} alone (%)", "reading (s)",
         "bit-operations counted (%)", "wrong decisions (%)")
_SAME = {"list", "trials", "rungs", "gates", "num_threads"}  # in runs that can be compared


def read_runs(folders: Iterable) -> list[dict]:
    """The summary.json of each folder. UserError where they are not of one list and ladder, or none is the last rung's
    alone."""
    found = []
    for folder in folders:
        path = os.path.join(folder, "summary.json")
        try:
            with open(path, encoding="utf-8") as file:
                read = json.load(file)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; svq.bin.cascade run makes it") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON, or cut short ({error}); run the cascade again") from None
        if not _SAME <= read.keys():
            raise UserError(f"{path}: of an older svq; run the cascade again")
        if found and any(read[key] != found[0][key] for key in _SAME):
            raise UserError(f"{path}: of another list or ladder, or of other threads, than the first; run both again")
        found.append(read)
    if found and not any(alone(run) for run in found):
        raise UserError(f"no run of {found[0]['rungs'][-1]} alone to compare with; make one with "
                        f"svq.bin.cascade run --only {found[0]['rungs'][-1]}")
    return found


def alone(run: dict) -> bool:
    """Whether a run is the last rung's, alone: what the others are compared with."""
    return run["only"] == run["rungs"][-1]


def heads(runs: Sequence[dict]) -> list[str]:
    return [head.format(last=runs[0]["rungs"][-1]) for head in HEADS]


def rows(runs: Sequence[dict]) -> list[list[str]]:
    """A line of cells for each run, in the order of HEADS."""
    whole = sum(next(run for run in runs if alone(run))["seconds"].values())
    return [_row(run, whole) for run in runs]


def _row(run: dict, whole: float) -> list[str]:
    network = sum(run["seconds"].values())
    embeddings = " / ".join(str(run["embeddings"][name]) for name in run["rungs"])
    return ["cascade" if run["only"] is None else f"{run['only']} alone",
            f"{100 * run['escalation']:.1f}" if run["only"] is None else "-",
            embeddings if run["only"] is None else str(run["embeddings"][run["only"]]),
            f"{network:.2f}", f"{100 * network / whole:.1f}", f"{sum(run['read_seconds'].values()):.2f}",
            f"{100 * run['list_shares']['bit_operations']:.1f}", f"{100 * run['wrong']:.2f}"]


def note(runs: Sequence[dict]) -> str:
    first = runs[0]
    return (f"Measured over {first['trials']:,} trials of {first['list']}, one at a time, {first['num_threads']} thread"
            f"{'s' * (first['num_threads'] != 1)}: each utterance embedded at most once a rung, enrolments when they "
            "are first needed; embeddings in the order of the rungs. Reading: from recordings or files to features, once "
            "more for every rung.")
