"""What a cascade's decisions are worth, beside those of its last rung, with intervals over speakers."""

from __future__ import annotations

import dataclasses

import numpy as np

from svq.backend.resampled import SpeakerSamples, eer_measure, min_dcf_measure
from svq.cascade.ladder import Operating

MEASURES = ("eer", "mindcf", "actdcf", "flips", "harmful", "beneficial")


@dataclasses.dataclass(frozen=True)
class Point:
    """Costs that decide: prior of a target, costs of a miss and a false alarm, and the threshold on the values.

    At the threshold of an EER both error rates count the same, so actDCF is p_miss + p_fa there; minDCF keeps p_target.
    """

    p_target: float
    c_miss: float
    c_fa: float
    threshold: float
    eer: bool = False

    @classmethod
    def of(cls, operating: Operating, threshold: float) -> Point:
        return cls(operating.p_target, operating.c_miss, operating.c_fa, threshold, operating.eer)

    def act_weights(self) -> tuple[float, float]:
        """What p_miss and p_fa at the threshold count in the normalised cost."""
        if self.eer:
            return 1.0, 1.0
        miss, alarm = self.c_miss * self.p_target, self.c_fa * (1 - self.p_target)
        return miss / min(miss, alarm), alarm / min(miss, alarm)


def measured(samples: SpeakerSamples, values, reference, point: Point) -> np.ndarray:
    """(1 + replicates, 6) as MEASURES: EER in per cent, two normalised costs, three shares of trials in per cent.

    values: (n,) of a system on the common scale; reference: (n,) those of the last rung. A trial is accepted at or
    above the threshold. flips: decisions other than the reference's; harmful: where that one was right.
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
