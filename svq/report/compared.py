"""Figures that can be told apart: marks of the best, and changes from the system that another is measured against.

The 95 % interval of the difference over resampled speakers decides, the same speakers for both systems
(svq.report.replicates). Whether the intervals of two figures overlap says less.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from svq.backend.bootstrap import interval
from svq.names import FLOAT_ROW, Names, compose
from svq.report.results import FLOAT_BITS, parent_of


def best_of(values: Sequence[float], samples: Sequence[np.ndarray | None]) -> set[int]:
    """Says which of some figures, of which less is better, are to be marked: the least one, and all that cannot be told
    from it.

    values: a figure each. samples: (replicates,) of each from the same draws, or None. Gives places counted from 0;
    none where a mark would say nothing: without samples, for one figure only, or where all would have it.
    """
    known = [i for i, value in enumerate(values) if not math.isnan(value)]
    if len(known) < 2 or any(samples[i] is None or not len(samples[i]) for i in known):
        return set()
    best = min(known, key=lambda i: values[i])
    found = {i for i in known if i == best or not interval(samples[i] - samples[best])[0] > 0}
    return found if len(found) < len(known) else set()


def best_by_interval(values: Sequence[tuple[float, float, float]]) -> set[int]:
    """Says the same as `best_of` where nothing but intervals is known: (value, low, high) each, nan for unknown.

    A figure whose interval meets that of the least one cannot be told from it.
    """
    known = [i for i, (value, _, _) in enumerate(values) if not math.isnan(value)]
    if len(known) < 2 or any(math.isnan(values[i][1]) or math.isnan(values[i][2]) for i in known):
        return set()
    best = min(known, key=lambda i: values[i][0])
    found = {i for i in known if i == best or values[i][1] <= values[best][2]}
    return found if len(found) < len(known) else set()


@dataclasses.dataclass(frozen=True)
class Change:
    """Difference between two figures.

    percent, low, high: of the other one, with the 95 % interval, nan where there is none or the other one is 0. told:
    "worse", "better", or "same" where the two cannot be told apart or nothing was resampled.
    """

    percent: float
    low: float
    high: float
    told: str


def change(value: float, samples: np.ndarray | None, other: float, other_samples: np.ndarray | None) -> Change:
    """Gives how a figure differs from another one; less is better. samples: (replicates,) each, from the same draws."""
    percent = 100 * (value / other - 1) if other else math.nan
    if samples is None or other_samples is None or not len(samples):
        return Change(percent, math.nan, math.nan, "same")
    low, high = interval(samples - other_samples)
    told = "worse" if low > 0 else "better" if high < 0 else "same"
    if not other or not other_samples.all():
        return Change(percent, math.nan, math.nan, told)
    return Change(percent, *interval(100 * (samples / other_samples - 1)), told)


@dataclasses.dataclass(frozen=True)
class Against:
    """The float system that a quantized one is measured against.

    system: the float control that was finetuned as it was, else the network that it was made from. differs: settings of
    the finetuning in which the control is another. finetuned: whether finetuning alone may have changed something, too.
    """

    system: str
    differs: tuple[str, ...] = ()
    finetuned: bool = False

    @property
    def said(self) -> str:
        """Words for what a change is measured against, and the settings in which its finetuning differs."""
        if self.differs:
            return f"against {self.system}, finetuned otherwise: {', '.join(self.differs)}"
        return f"against {self.system}{', not finetuned' if self.finetuned else ''}"


def against(system: str, bits: Mapping[str, float], names: Names, settings: Mapping[str, Mapping]) -> Against | None:
    """Gives what a system of a report is measured against; None for a float one, and where its network is not there.

    bits: average bits per weight of every system in the report. settings: the training settings of those that have some
    (provenance.yaml). NETWORK_float is the control of NETWORK_ROW and its seeds, that of the same seed where it is
    there; NETWORK_ROW-ptq is not finetuned, and is measured against NETWORK.
    """
    parent = parent_of(system, dict(bits), names)
    if parent is None:
        return None
    found = names.parse(system)
    if found.ptq or found.row is None or found.row == FLOAT_ROW:
        return Against(parent)
    stem = f"{found.net}_{FLOAT_ROW}"
    control = next((name for name in (compose(stem, found.seed), stem) if bits.get(name, 0) >= FLOAT_BITS), None)
    if control is None:
        return Against(parent, finetuned=True)
    source = found.exported_from if found.exported_from in settings else system
    return Against(control, tuple(differing(settings.get(source), settings.get(control))))


# Settings that say how weights are quantized, or that leave the result of a training as it is.
_OWN = {"model", "quant", "allocate", "ptq", "select", "seed", "precision", "channels_last", "num_threads", "num_workers",
        "checkpoint_minutes"}


def differing(first: Mapping | None, second: Mapping | None) -> Iterable[str]:
    """Gives the training settings, by name, that two systems do not share; nothing where those of one are not known."""
    if not first or not second:
        return []
    return [str(key) for key in {**first, **second} if key not in _OWN
            and _without_workers(first.get(key)) != _without_workers(second.get(key))]


def _without_workers(tree):
    return {key: value for key, value in tree.items() if key not in _OWN} if isinstance(tree, Mapping) else tree
