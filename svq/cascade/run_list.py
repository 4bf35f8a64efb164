"""svq.bin.cascade run: a list decided live, its log, and what the log says about costs and seconds."""

from __future__ import annotations

import os

import numpy as np

from svq.atomic import write_json
from svq.cascade.accounting import LIST, STREAMING, count, table_of
from svq.cascade.cost import UNITS, rung_costs
from svq.cascade.gate import pure
from svq.cascade.ladder import load_ladder
from svq.cascade.live import LiveCascade
from svq.cascade.log import read_reached, recount, seconds, write_embeddings, write_trials
from svq.cascade.trial_list import TrialList
from svq.errors import UserError
from svq.progress import progress


def run_list(path, trials, folder, input: str = "auto", num_threads: int = 1, only: str | None = None) -> dict:
    """Runs the ladder in file `path` over a list; writes the log and `folder`/summary.json, which it returns."""
    ladder, listed = load_ladder(path), TrialList(trials)
    if only is not None and only not in ladder.names:
        raise UserError(f"--only {only}: not a rung of {path}; it has {', '.join(ladder.names)}")
    cascade = LiveCascade(ladder, listed, path, input, num_threads,
                          None if only is None else ladder.names.index(only))
    settled = list(progress(cascade, len(listed), "trials"))
    write_trials(folder, ladder.names, settled)
    write_embeddings(folder, cascade.embedded)
    found = summary(folder, ladder, listed) | {
        "only": only, "load_seconds": cascade.load_seconds, "num_threads": num_threads,
        "accepted": float(np.mean([one.accepted for one in settled])),
        "wrong": float(np.mean([one.accepted != one.target for one in settled]))}
    write_json(os.path.join(folder, "summary.json"), found)
    return found


def summary(folder, ladder, listed) -> dict:
    """Counted from the log: embeddings and seconds by rung, and costs as shares of the last rung's alone."""
    names = ladder.names
    costs = rung_costs(ladder.rungs, listed.frames)
    table, reached = table_of(costs, listed.frames), read_reached(folder, names)
    last = pure(len(listed), len(names), len(names) - 1)
    computed, streaming = recount(folder, names, costs), count(listed, reached, table, STREAMING)
    whole = {name: count(listed, last, table, name) for name in (LIST, STREAMING)}
    took = seconds(folder, names)
    return {
        "list": listed.name, "trials": len(listed), "rungs": names,
        "gates": ladder.gates(),
        "escalation": float((reached.sum(axis=0) > 1).mean()),  # one rung alone escalates nothing
        "settled": dict(zip(names, np.bincount(len(names) - 1 - reached[::-1].argmax(axis=0),
                                               minlength=len(names)).tolist())),
        "embeddings": {name: took[name]["embeddings"] for name in names},
        "seconds": {name: took[name]["seconds"] for name in names},
        "read_seconds": {name: took[name]["read_seconds"] for name in names},
        "list_shares": {unit: computed.share(unit, whole[LIST]) for unit in UNITS},
        "streaming_shares": {unit: streaming.share(unit, whole[STREAMING]) for unit in UNITS},
    }
