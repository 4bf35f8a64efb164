"""What a cascade over a list computes, counted in two ways.

*Streaming*: each trial brings its own test utterance, as on a device: it is embedded at every rung that the trial
reaches. Enrolments are there at every precision already, or are computed on demand: each utterance of a model once at
each rung, when the first trial with that model gets there.

*List*: the embeddings of a list are computed at most once for an utterance and a rung, both sides alike, as in an
evaluation. With many trials an utterance one unsure trial is enough to embed it again, so that this saves less.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from svq.cascade.cost import UNITS, RungCost

STREAMING, ON_DEMAND, LIST = "streaming", "on demand", "list"
ACCOUNTINGS = (STREAMING, ON_DEMAND, LIST)


@dataclasses.dataclass(frozen=True)
class Counted:
    """embeddings: (R,) how many at each rung. costs: (R, 3) their costs, in the order of UNITS."""

    embeddings: np.ndarray
    costs: np.ndarray

    def total(self, unit: str) -> float:
        return float(self.costs[:, UNITS.index(unit)].sum())

    def share(self, unit: str, other: Counted) -> float:
        """Of what `other` costs."""
        return self.total(unit) / other.total(unit)


def table_of(costs: list[RungCost], frames) -> np.ndarray:
    """(R, U, 3): the cost of an embedding at each rung, of each utterance."""
    return np.stack([cost(frames) for cost in costs])


def count(listed, reached: np.ndarray, table: np.ndarray, accounting: str = STREAMING) -> Counted:
    """listed: a TrialList, or what has its test, model, member and member_model. reached: (R, n) bool, which rungs each
    trial goes through. table: (R, U, 3), see `table_of`."""
    embeddings, costs = [], []
    for rung, here in enumerate(reached):
        if accounting == LIST:
            rows = np.union1d(listed.test[here], enrolled(listed, here))
        else:
            rows = listed.test[here]
            if accounting == ON_DEMAND:
                rows = np.concatenate([rows, enrolled(listed, here)])
        embeddings.append(len(rows))
        costs.append(table[rung, rows].sum(axis=0))
    return Counted(np.array(embeddings), np.array(costs))


def enrolled(listed, here: np.ndarray) -> np.ndarray:
    """Utterances of the models that these trials (n,) bool need, each once."""
    return np.unique(listed.member[np.isin(listed.member_model, np.unique(listed.model[here]))])


def per_trial(listed, table: np.ndarray, unit: str = "bit_operations") -> np.ndarray:
    """(R, n) cost of the test utterance of each trial at each rung alone."""
    return table[:, listed.test, UNITS.index(unit)]
