"""Runs a cascade live over a trial list, keeps a log, and sets the logs of several runs beside each other.

This is `svq.bin.cascade run`. Costs are counted again from the log, which is two files. trials.tsv has a line a trial:
enroll, test, label, rung (that settled it), decision, and the value at every rung, `-` where it was not needed.
embeddings.tsv has a line an embedding: rung, utterance, frames, read_seconds, seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np

from svq.atomic import atomic_write, write_json
from svq.data.words import read_columns
from svq.cascade.cost import LIST, STREAMING, UNITS, Counted, RungCost, count, rung_costs, table_of
from svq.cascade.ladder import load_ladder, pure
from svq.cascade.live import Embedded, LiveCascade, Settled, TrialList
from svq.errors import UserError, located
from svq.files import read_json
from svq.progress import progress

TRIALS, EMBEDDINGS = "trials.tsv", "embeddings.tsv"


def write_trials(folder, names: list[str], settled: Iterable[Settled]) -> None:
    """Writes trials.tsv of a live run into `folder`: a line for each settled trial. names: of the rungs."""
    with atomic_write(os.path.join(folder, TRIALS)) as file:
        file.write("\t".join(["enroll", "test", "label", "rung", "decision", *names]) + "\n")
        for one in settled:
            before = one.rung + 1 - len(one.values)  # rungs that were left out, where one is run alone
            values = ["-"] * before + [f"{value:.17g}" for value in one.values]
            values += ["-"] * (len(names) - len(values))
            file.write("\t".join([one.enroll, one.test, "target" if one.target else "nontarget", names[one.rung],
                                  "accept" if one.accepted else "reject", *values]) + "\n")


def write_embeddings(folder, embedded: Iterable[Embedded]) -> None:
    """Writes what each embedding of a run took, a line each, whole or not at all."""
    with atomic_write(os.path.join(folder, EMBEDDINGS)) as file:
        file.write("\t".join(Embedded._fields) + "\n")
        for one in embedded:
            file.write(f"{one.rung}\t{one.utterance}\t{one.frames}\t{one.read_seconds:.6f}\t{one.seconds:.6f}\n")


def read_reached(folder, names: list[str]) -> np.ndarray:
    """Reads from trials.tsv which rungs each trial went through, (R, n) bool.

    names: of the R rungs. UserError for a file that is missing or does not have as many columns.
    """
    path = os.path.join(folder, TRIALS)
    columns = _columns(path, 5 + len(names))
    return np.stack([[value != "-" for value in columns[5 + r]] for r in range(len(names))])


def recount(folder, names: list[str], costs: list[RungCost]) -> Counted:
    """Counts the embeddings and the costs of a live run from embeddings.tsv, where each line is one embedding.

    names, costs: of the R rungs. UserError for a file that is missing or names a rung of another ladder.
    """
    path = os.path.join(folder, EMBEDDINGS)
    rungs, _, frames, *_ = _columns(path, 5)
    number = {name: r for r, name in enumerate(names)}
    for line, name in enumerate(rungs, 2):
        if name not in number:
            raise UserError(located(path, line, f"rung {name} is not in the ladder ({', '.join(names)})"))
    which, lengths = np.array([number[name] for name in rungs]), np.array([int(text) for text in frames])
    spent = [costs[r](lengths[which == r]).sum(axis=0) for r in range(len(names))]
    return Counted(np.bincount(which, minlength=len(names)), np.array(spent))


def seconds(folder, names: list[str]) -> dict[str, dict[str, float]]:
    """Adds up embeddings.tsv rung by rung: the number of embeddings, seconds of the network, seconds of reading."""
    rungs, _, _, read, network = _columns(os.path.join(folder, EMBEDDINGS), 5)
    found = {name: {"embeddings": 0, "seconds": 0.0, "read_seconds": 0.0} for name in names}
    for rung, first, second in zip(rungs, read, network):
        found[rung]["embeddings"] += 1
        found[rung]["read_seconds"] += float(first)
        found[rung]["seconds"] += float(second)
    return found


def _columns(path: str, fields: int) -> list[list[str]]:
    """Reads the columns of trials.tsv or embeddings.tsv without their heads. UserError where there is no such file."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; svq.bin.cascade run makes it")
    return [list(column)[1:] for column in read_columns(path, (fields,))]


def run_list(path, trials, folder, input: str = "auto", num_threads: int = 1, only: str | None = None,
             device: str = "cpu") -> dict:
    """Runs the ladder in the file `path` over a trial list; writes the log and summary.json; returns the summary.

    trials: the list's path. folder: where the files go. input: auto, feats or wav, see svq.data.extraction.Utterances.
    only: name of a rung that settles every trial alone. device: where networks run that are not exported. UserError for a name that is not in the ladder.
    """
    ladder, listed = load_ladder(path), TrialList(trials)
    if only is not None and only not in ladder.names:
        raise UserError(f"--only {only}: not a rung of {path}; it has {', '.join(ladder.names)}")
    cascade = LiveCascade(ladder, listed, path, input, num_threads,
                          None if only is None else ladder.names.index(only), device)
    settled = list(progress(cascade, len(listed), "trials"))
    write_trials(folder, ladder.names, settled)
    write_embeddings(folder, cascade.embedded)
    found = summary(folder, ladder, listed) | {
        "only": only, "load_seconds": cascade.load_seconds, "num_threads": num_threads,
        "device": device, "accepted": float(np.mean([one.accepted for one in settled])),
        "wrong": float(np.mean([one.accepted != one.target for one in settled]))}
    write_json(os.path.join(folder, "summary.json"), found)
    return found


def summary(folder, ladder, listed) -> dict:
    """Gives what the log in `folder` adds up to: embeddings and seconds by rung, costs as shares of the last rung's."""
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


HEADS = ("what ran", "escalated (%)", "embeddings", "network (s)", "of {last} alone (%)", "reading (s)",
         "bit-operations counted (%)", "wrong decisions (%)")
_SAME = {"list", "trials", "rungs", "gates", "num_threads"}  # in runs that can be compared


def read_runs(folders: Iterable) -> list[dict]:
    """Reads the summary.json of each folder.

    UserError where they are not of one list, ladder and number of threads, where one is unreadable, or where none is a
    run of the last rung alone.
    """
    found = []
    for folder in folders:
        path = os.path.join(folder, "summary.json")
        try:
            read = read_json(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; svq.bin.cascade run makes it") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON, or cut short ({error}); run the cascade again") from None
        if not isinstance(read, dict) or not _SAME <= read.keys():
            raise UserError(f"{path}: of an older svq; run the cascade again")
        read.setdefault("device", "cpu")  # of a file from before there was another
        if found and any(read[key] != found[0][key] for key in (*_SAME, "device")):
            raise UserError(f"{path}: of another list or ladder, or of other threads or another device, than the first; run "
                            "both again")
        found.append(read)
    if found and not any(alone(run) for run in found):
        raise UserError(f"no run of {found[0]['rungs'][-1]} alone to compare with; make one with "
                        f"svq.bin.cascade run --only {found[0]['rungs'][-1]}")
    return found


def alone(run: dict) -> bool:
    """Says whether a run used the last rung alone, as the run that the others are compared with did."""
    return run["only"] == run["rungs"][-1]


def heads(runs: Sequence[dict]) -> list[str]:
    """Gives the heads of the table of runs."""
    return [head.format(last=runs[0]["rungs"][-1]) for head in HEADS]


def rows(runs: Sequence[dict]) -> list[list[str]]:
    """Gives the cells of the table of measured runs as text: a row for each run, in the order of HEADS."""
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
    """Says under which conditions runs were measured."""
    first = runs[0]
    return (f"Measured over {first['trials']:,} trials of {first['list']}, one at a time, {first['num_threads']} thread"
            f"{'s' * (first['num_threads'] != 1)}: each utterance embedded at most once a rung, enrolments when they "
            "are first needed; embeddings in the order of the rungs. Reading: from recordings or files to features, once "
            f"more for every rung.{'' if first['device'] == 'cpu' else ' Networks in torch ran on a GPU.'}")
