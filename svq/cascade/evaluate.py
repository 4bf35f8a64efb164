"""Evaluates a cascade on a trial list by replay of its rungs' scores: measures and costs.

Beside the cascade stand every rung alone and a random control. Measures have intervals over speakers; their differences
to the last rung's are paired.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from svq.backend.bootstrap import SpeakerSamples, eer_measure, interval, min_dcf_measure
from svq.cascade.cost import ACCOUNTINGS, STREAMING, UNITS, Counted, count, per_trial
from svq.cascade.ladder import Operating, pure, random_rungs, reached, settle, settled_values

MEASURES = ("eer", "mindcf", "actdcf", "flips", "harmful", "beneficial")


@dataclasses.dataclass(frozen=True)
class Point:
    """An operating point: prior of a target, costs of a miss and a false alarm, and the threshold on the values.

    eer: the threshold is that of an EER. Both error rates count the same there, so actDCF is p_miss + p_fa; minDCF
    keeps p_target.
    """

    p_target: float
    c_miss: float
    c_fa: float
    threshold: float
    eer: bool = False

    @classmethod
    def of(cls, operating: Operating, threshold: float) -> Point:
        """Makes the operating point of a ladder, with the threshold that it came to."""
        return cls(operating.p_target, operating.c_miss, operating.c_fa, threshold, operating.eer)

    def act_weights(self) -> tuple[float, float]:
        """Gives the weights of p_miss and p_fa at the threshold in the normalized cost (actDCF)."""
        if self.eer:
            return 1.0, 1.0
        miss, alarm = self.c_miss * self.p_target, self.c_fa * (1 - self.p_target)
        return miss / min(miss, alarm), alarm / min(miss, alarm)


def measured(samples: SpeakerSamples, values, reference, point: Point) -> np.ndarray:
    """Measures a system against the last rung; gives (1 + replicates, 6) in the order of MEASURES.

    These are the EER in percent, two normalized costs, and three shares of trials in percent. A flip is a decision
    other than the last rung's; it is harmful where the last rung was right, else beneficial. values: (n,) of the system
    on the common scale; reference: (n,) of the last rung. A trial is accepted at or above the threshold.
    """
    target = samples.target
    accepted, before = values >= point.threshold, reference >= point.threshold
    wrong, flips = accepted != target, accepted != before
    columns = [flips, flips & wrong, flips & ~wrong, wrong & target, wrong & ~target, target, np.ones(len(target))]
    sums = samples.sums(np.stack(columns, axis=1))
    miss, alarm = point.act_weights()
    act = miss * sums[:, 3] / sums[:, 5] + alarm * sums[:, 4] / (sums[:, 6] - sums[:, 5])
    least = min_dcf_measure(point.p_target, point.c_miss, point.c_fa)
    eer, cost = samples.ranked(values, [eer_measure, least]).T
    return np.stack([100 * eer, cost, act, *(100 * sums[:, :3] / sums[:, 6:]).T], axis=1)


CASCADE, RANDOM, ALONE = "cascade", "random", "rung"
_LEVELS = (0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1)


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of a system on a list. kind: CASCADE, RANDOM (the mean of the controls) or ALONE (one rung for all).

    measures: (6,) in the order of MEASURES. low, high: (6,) their 95 % intervals; for RANDOM the mean less and plus one
    standard deviation over the seeds. gap, gap_low, gap_high: (6,) the paired differences to the last rung alone.
    settled: (R,) percent of the trials settled by each rung. escalation: percent that left the first rung, with its
    interval. shares: (3 accountings, 3 units) costs as shares of the last rung's. cost: percent of the last rung's
    bit-operations, streaming, with its interval. Intervals are nan where nothing was resampled.
    """

    kind: str
    name: str
    measures: np.ndarray
    low: np.ndarray
    high: np.ndarray
    gap: np.ndarray
    gap_low: np.ndarray
    gap_high: np.ndarray
    settled: np.ndarray
    escalation: tuple[float, float, float]
    shares: np.ndarray
    cost: tuple[float, float, float]

    def value(self, name: str) -> float:
        """Gives one of MEASURES by name."""
        return float(self.measures[MEASURES.index(name)])


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """The results at one delta of the first gate. escalation, cost: percent. measures: (6,) of the cascade. random,
    spread: (6,) mean and standard deviation of the random controls."""

    delta: float
    escalation: float
    cost: float
    measures: np.ndarray
    random: np.ndarray
    spread: np.ndarray


class Replay:
    """A cascade replayed on a list. listed: a TrialList. values: (R, n) of the rungs on one scale. table: (R, U, 3),
    see svq.cascade.cost.table_of. names: of the rungs."""

    def __init__(self, listed, values, table, point: Point, names):
        self.listed, self.values, self.table, self.point, self.names = listed, values, table, point, list(names)
        self.costs = per_trial(listed, table)
        self.plain = self.samples(0)

    def samples(self, replicates: int, seed: int = 0) -> SpeakerSamples:
        """Draws resamples of the speakers of the list, for intervals."""
        listed = self.listed
        return SpeakerSamples(listed.target, listed.enroll_speaker, listed.test_speaker, replicates, seed)

    def settle(self, deltas) -> np.ndarray:
        """Finds the rung (n,), from 0, that settles each trial with these deltas (R - 1,)."""
        return settle(self.values, self.point.threshold, deltas)

    def measured(self, rung, samples: SpeakerSamples | None = None) -> np.ndarray:
        """Measures a cascade that settles trials at `rung` (n,); gives (1 + replicates, 6) in the order of MEASURES.

        Without samples it measures the list as it is: (1, 6).
        """
        return measured(samples or self.plain, settled_values(self.values, rung), self.values[-1], self.point)

    def eer(self, deltas) -> float:
        """Computes the EER of the cascade with these deltas (R - 1,), in percent."""
        return float(self.measured(self.settle(deltas))[0, MEASURES.index("eer")])

    def spent(self, through: np.ndarray) -> np.ndarray:
        """Adds up the bit-operations (n,) of each trial's test utterance over the rungs (R, n) bool of `through`."""
        return (self.costs * through).sum(axis=0)

    def counted(self, through: np.ndarray, accounting: str = STREAMING) -> Counted:
        """Counts embeddings and costs, as `count` does. through: (R, n) bool, which rungs each trial goes through."""
        return count(self.listed, through, self.table, accounting)

    def shares(self, through: np.ndarray) -> np.ndarray:
        """Gives the costs (3, 3), ACCOUNTINGS x UNITS, as shares of what the last rung alone costs.

        through: (R, n) bool, the rungs that each trial goes through.
        """
        last = pure(len(self.listed), len(self.values), len(self.values) - 1)
        whole = {name: self.counted(last, name) for name in ACCOUNTINGS}
        return np.array([[self.counted(through, name).share(unit, whole[name]) for unit in UNITS]
                         for name in ACCOUNTINGS])


def evaluate(replay: Replay, deltas, replicates: int = 200, seed: int = 0, controls: int = 20) -> list[Row]:
    """Evaluates a cascade: gives rows for it, for the random control at the same rates, and for every rung alone.

    deltas: (R - 1,). replicates: of the bootstrap over speakers. controls: random controls to average. The row of the
    last rung alone comes last.
    """
    n, rungs = len(replay.listed), len(replay.values)
    samples = replay.samples(replicates, seed)
    rung = replay.settle(deltas)
    systems = [(CASCADE, CASCADE, rung, reached(rung, rungs))]
    systems += [(ALONE, name, np.full(n, r), pure(n, rungs, r)) for r, name in enumerate(replay.names)]
    found = [_resampled(replay, rung, through, samples) for *_, rung, through in systems]
    rows = [_row(replay, system, each, found[-1]) for system, each in zip(systems, found)]
    return [rows[0], _control(replay, rung, rows[-1], controls, seed), *rows[1:]]


def _resampled(replay: Replay, rung, through, samples: SpeakerSamples) -> np.ndarray:
    """Measures on all samples; gives (1 + replicates, 8): MEASURES, escalation and cost (bit-operations, streaming) in
    percent."""
    columns = [rung > 0, np.ones(len(rung)), replay.spent(through), replay.costs[-1]]
    left, whole, spent, full = samples.sums(np.stack(columns, axis=1)).T
    shares = np.stack([100 * left / whole, 100 * spent / full], axis=1)
    return np.concatenate([replay.measured(rung, samples), shares], axis=1)


def _row(replay: Replay, system, found, last) -> Row:
    kind, name, rung, through = system
    low, high = np.array([interval(column) for column in found[1:].T]).T
    gap = (found - last)[:, :len(MEASURES)]
    gap_low, gap_high = np.array([interval(column) for column in gap[1:].T]).T
    settled = 100 * np.bincount(rung, minlength=len(replay.values)) / len(rung)
    m = len(MEASURES)
    left, spent = ((float(found[0, i]), float(low[i]), float(high[i])) for i in (m, m + 1))
    return Row(kind, name, found[0, :m], low[:m], high[:m], gap[0], gap_low, gap_high, settled,
               left if kind == CASCADE else (np.nan,) * 3, replay.shares(through), spent)


def _control(replay: Replay, rung, last: Row, controls: int, seed: int) -> Row:
    rungs, rng = len(replay.values), np.random.default_rng(seed)
    found, shares = [], []
    for _ in range(controls):
        drawn = random_rungs(rung, rungs, rng)
        found.append(replay.measured(drawn)[0])
        shares.append(replay.shares(reached(drawn, rungs)))
    mean, spread, nothing = np.mean(found, axis=0), np.std(found, axis=0), np.full(len(MEASURES), np.nan)
    shares = np.mean(shares, axis=0)
    settled = 100 * np.bincount(rung, minlength=rungs) / len(rung)
    return Row(RANDOM, RANDOM, mean, mean - spread, mean + spread, mean - last.measures, nothing, nothing, settled,
               (100 * float((rung > 0).mean()), np.nan, np.nan), shares,
               (100 * float(shares[0, UNITS.index("bit_operations")]), np.nan, np.nan))


def curve(replay: Replay, deltas, controls: int = 5, seed: int = 0) -> list[CurvePoint]:
    """Evaluates the cascade with the first gate's delta from 0 to infinity and the other gates' deltas unchanged.

    Each point has the mean of `controls` random controls that escalate as many trials.
    """
    rungs, rng, points = len(replay.values), np.random.default_rng(seed), []
    distance = np.abs(replay.values[0] - replay.point.threshold)
    whole = replay.costs[-1].sum()
    for level in _LEVELS:
        delta = np.inf if level == 1 else 0.0 if level == 0 else float(np.quantile(distance, level, method="lower"))
        rung = replay.settle([delta, *deltas[1:]])
        found = [replay.measured(random_rungs(rung, rungs, rng))[0] for _ in range(controls)]
        spent = replay.spent(reached(rung, rungs)).sum() / whole
        points.append(CurvePoint(delta, 100 * float((rung > 0).mean()), 100 * float(spent),
                                 replay.measured(rung)[0], np.mean(found, axis=0), np.std(found, axis=0)))
    return points
