"""The log of a live cascade: a line a trial, a line an embedding; and its costs counted again from these lines.

trials.tsv: enroll, test, label, rung (that settled it), decision, and the value at every rung, `-` where it was not
needed. embeddings.tsv: rung, utterance, frames, read_seconds, seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from svq.atomic import atomic_write
from svq.backend.tokens import read_columns
from svq.cascade.accounting import Counted
from svq.cascade.cost import RungCost
from svq.cascade.live import Embedded, Settled
from svq.errors import UserError, located

TRIALS, EMBEDDINGS = "trials.tsv", "embeddings.tsv"


def write_trials(folder, names: list[str], settled: Iterable[Settled]) -> None:
    """names: of the rungs."""
    with atomic_write(os.path.join(folder, TRIALS)) as file:
        file.write("\t".join(["enroll", "test", "label", "rung", "decision", *names]) + "\n")
        for one in settled:
            before = one.rung + 1 - len(one.values)  # rungs that were left out, where one is run alone
            values = ["-"] * before + [f"{value:.17g}" for value in one.values]
            values += ["-"] * (len(names) - len(values))
            file.write("\t".join([one.enroll, one.test, "target" if one.target else "nontarget", names[one.rung],
                                  "accept" if one.accepted else "reject", *values]) + "\n")


def write_embeddings(folder, embedded: Iterable[Embedded]) -> None:
    with atomic_write(os.path.join(folder, EMBEDDINGS)) as file:
        file.write("\t".join(Embedded._fields) + "\n")
        for one in embedded:
            file.write(f"{one.rung}\t{one.utterance}\t{one.frames}\t{one.read_seconds:.6f}\t{one.seconds:.6f}\n")


def read_reached(folder, names: list[str]) -> np.ndarray:
    """(R, n) bool: the rungs that each trial of trials.tsv went through. UserError for a file of another ladder."""
    path = os.path.join(folder, TRIALS)
    columns = _columns(path, 5 + len(names))
    return np.stack([[value != "-" for value in columns[5 + r]] for r in range(len(names))])


def recount(folder, names: list[str], costs: list[RungCost]) -> Counted:
    """Of the lines of embeddings.tsv: what was really computed, each line one embedding."""
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
    """By rung: embeddings, seconds of the network and of reading, added up over embeddings.tsv."""
    rungs, _, _, read, network = _columns(os.path.join(folder, EMBEDDINGS), 5)
    found = {name: {"embeddings": 0, "seconds": 0.0, "read_seconds": 0.0} for name in names}
    for rung, first, second in zip(rungs, read, network):
        found[rung]["embeddings"] += 1
        found[rung]["read_seconds"] += float(first)
        found[rung]["seconds"] += float(second)
    return found


def _columns(path: str, fields: int) -> list[list[str]]:
    """The columns of a file of this module, without their heads."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; svq.bin.cascade run makes it")
    return [list(column)[1:] for column in read_columns(path, (fields,))]
