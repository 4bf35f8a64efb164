"""Which rung settles a trial: the first that puts it farther from the threshold than its delta; the last any trial.

"On Low-Bit Quantization Errors in Speaker Verification: Diagnostic and Mitigation", section 6.1, for ladders of any
length. Values are calibrated scores on one scale, float64; R rungs have R - 1 deltas, none negative.
"""

from __future__ import annotations

import numpy as np


def sure(values, threshold: float, delta: float):
    """Whether a rung with this delta settles trials with these values; bool, of the shape of `values`.

    NaN is sure of nothing, and an infinite delta settles nothing at all.
    """
    return np.abs(np.asarray(values) - threshold) > delta


def settle(values, threshold: float, deltas) -> np.ndarray:
    """(n,) the rung that settles each trial, of values (R, n) and deltas (R - 1,)."""
    values = np.asarray(values, dtype=np.float64)
    if len(deltas) != len(values) - 1:
        raise ValueError(f"{len(deltas)} deltas for {len(values)} rungs")
    rung = np.full(values.shape[1], len(deltas))
    for r in reversed(range(len(deltas))):  # the first that is sure has the last word
        rung[sure(values[r], threshold, deltas[r])] = r
    return rung


def reached(rung: np.ndarray, rungs: int) -> np.ndarray:
    """(R, n) bool: which rungs a trial went through, its own included."""
    return rung[None] >= np.arange(rungs)[:, None]


def pure(n: int, rungs: int, which: int) -> np.ndarray:
    """(R, n) bool: as `reached`, of one rung used alone."""
    return np.repeat(np.arange(rungs)[:, None] == which, n, axis=1)


def settled_values(values, rung: np.ndarray) -> np.ndarray:
    """(n,) the value at which each trial was settled."""
    return np.asarray(values)[rung, np.arange(len(rung))]


def random_rungs(rung: np.ndarray, rungs: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) the control: as many trials reach every rung as in `rung`, but which ones is drawn."""
    counts = reached(rung, rungs).sum(axis=1)
    place = rng.permutation(len(rung))
    return (place[None] < counts[1:, None]).sum(axis=0)
