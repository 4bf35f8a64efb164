"""A study as plain values, for tables and figures."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import numpy as np

from svq.search.next_trial import latest
from svq.search.storage import quiet_optuna

FEWEST = 4  # complete trials that say anything about what matters


class Trial(NamedTuple):
    """index, state (complete, pruned, fail, ...), value or nan, settings, and what was measured after each epoch."""

    index: int
    state: str
    value: float
    params: dict
    intermediate: dict[int, float]


class Importance(NamedTuple):
    """Of a setting. importance: share of Optuna's PED-ANOVA, or nan; correlation: Spearman's, of the setting with the
    value, nan for choices of words."""

    key: str
    importance: float
    correlation: float


def trials_of(study) -> list[Trial]:
    """The trials by index, each as it stands; of one taken up again its last try."""
    return [Trial(index, trial.state.name.lower(), trial.value if trial.state.name == "COMPLETE" else math.nan,
                  dict(trial.params), dict(trial.intermediate_values)) for index, trial in latest(study).items()]


def importances(study) -> tuple[list[Importance], str]:
    """The settings that were drawn, the most important first, and a note on what that is worth."""
    done = [trial for trial in trials_of(study) if trial.state == "complete"]
    keys = list(dict.fromkeys(key for trial in done for key in trial.params))
    note = ("Optuna's PED-ANOVA, which needs no scikit-learn (its fANOVA would): how far the settings of the best "
            "trials are from those of all. Rank correlation: Spearman's, with the value; above 0 a larger setting is "
            "worse. ")
    if len(done) < FEWEST:
        return [], f"Only {len(done)} trials are complete: no importances under {FEWEST}."
    shares = _shares(study)
    found = [Importance(key, shares.get(key, math.nan), _correlation(done, key)) for key in keys]
    found.sort(key=lambda each: (-each.importance if math.isfinite(each.importance) else 1.0, each.key))
    note += f"From {len(done)} complete trials" + ("." if len(done) >= 30 else ", too few to trust in.")
    return found, note if shares else note + " PED-ANOVA found too little difference between them."


def _shares(study) -> dict[str, float]:
    optuna = quiet_optuna()
    try:
        return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):  # all trials alike, or a setting of one value only
        return {}


def _correlation(trials: Sequence[Trial], key: str) -> float:
    from scipy.stats import rankdata

    values = [trial.params.get(key) for trial in trials]
    if not all(isinstance(value, (int, float)) for value in values):
        return math.nan
    ranks = rankdata(values), rankdata([trial.value for trial in trials])
    if any(np.ptp(each) == 0 for each in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])
