"""One line for each measure, and the table of them: scores.tsv."""

from __future__ import annotations

import dataclasses

import numpy as np

from svq.atomic import atomic_write
from svq.backend.resampled import interval


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """A measure of one system on one list, or on one group of its trials.

    scale: what the scores were before they were set against float, one of svq.analysis.score_config.SCALES; `llr` for
    calibrated ones, `order` for measures that go by the order alone. kind, group: which trials; `all`, `all` for every
    one. eer, flips and shares are in per cent, cllr and min_cllr in bits, drift in units of the reference's score.
    low, high: 95 % interval over speakers. delta: to the reference, with the interval of the paired difference; nan for
    measures that are a difference by themselves, and without resamplings.
    """

    trials: str
    system: str
    bits: float
    scale: str
    kind: str
    group: str
    measure: str
    value: float
    low: float
    high: float
    delta: float
    delta_low: float
    delta_high: float


COLUMNS = tuple(field.name for field in dataclasses.fields(ScoreRow))
ALL = "all"


def make_row(names: dict, measure: str, values: np.ndarray, reference: np.ndarray | None = None) -> ScoreRow:
    """names: the fields up to `group`. values, reference: (1 + replicates,), the value and then the resampled ones."""
    delta = np.full(3, np.nan) if reference is None else _with_interval(values - reference)
    return ScoreRow(**names, measure=measure, **dict(zip(COLUMNS[7:], (*_with_interval(values), *delta))))


def _with_interval(values) -> tuple[float, float, float]:
    """The value and the 95 % interval of the resampled ones; those that do not exist (nan) do not count."""
    sampled = values[1:][~np.isnan(values[1:])] if not np.isnan(values[0]) else []
    return float(values[0]), *interval(sampled)


def write_rows(path, rows: list[ScoreRow]) -> None:
    with atomic_write(path) as file:
        file.write("\t".join(COLUMNS) + "\n")
        for row in rows:
            fields = (getattr(row, name) for name in COLUMNS)
            file.write("\t".join(f"{v:.6g}" if isinstance(v, float) else v for v in fields) + "\n")


class Lookup:
    """Rows by what they are of."""

    def __init__(self, rows: list[ScoreRow]):
        self._rows = {dataclasses.astuple(row)[:2] + dataclasses.astuple(row)[3:7]: row for row in rows}

    def __call__(self, trials: str, system: str, scale: str, measure: str, kind: str = ALL, group: str = ALL):
        """The ScoreRow, or None."""
        return self._rows.get((trials, system, scale, kind, group, measure))
