"""Which trial a worker does next: so many in all, none twice at a time, none lost with its worker.

A trial has an index, 0 to trials - 1, and a folder by that name. When its worker dies it is failed and put up again
under the same index, with the same settings and what was measured so far; its training goes on from its checkpoint. All
decisions are taken under one lock. A trial at work is told from a dead one by the lock in its folder. A worker may be
killed between any two steps of this: the next one to take the lock mends it.
"""

from __future__ import annotations

import dataclasses
import os

from svq.search.config import Parameter, SearchConfig
from svq.search.storage import FileLock, is_held, quiet_optuna

WAITING_FOR_OTHERS = "waiting"


@dataclasses.dataclass
class Claim:
    """A trial that is ours. trial: of Optuna. known: epoch -> value measured before its first worker died."""

    index: int
    tries: int
    trial: object
    known: dict[int, float]
    lock: FileLock


def folder_of(trials_dir, index: int) -> str:
    return os.path.join(os.fspath(trials_dir), f"{index:04d}")


def lock_of(trials_dir, index: int) -> str:
    return os.path.join(folder_of(trials_dir, index), ".lock")


def distributions(parameters: list[Parameter]) -> dict:
    """Optuna's distribution of each parameter."""
    kinds = quiet_optuna().distributions
    found = {}
    for each in parameters:
        where = each.range
        if where.choices is not None:
            found[each.key] = kinds.CategoricalDistribution(where.choices)
        elif each.integer:
            found[each.key] = kinds.IntDistribution(int(where.low), int(where.high), log=where.log)
        else:
            found[each.key] = kinds.FloatDistribution(where.low, where.high, log=where.log)
    return found


def sampler(search: SearchConfig, index: int):
    """What draws the settings of trial `index`: seeded by that, so that workers need not agree on anything."""
    samplers = quiet_optuna().samplers
    seed = (search.seed * 1_000_003 + index) % 2**32
    if search.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    # constant_liar: trials at work elsewhere count as poor, so that workers do not try the same settings.
    return samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials, constant_liar=True)


def pruner(search: SearchConfig, epochs: int):
    """What stops trials; epochs: the most that one can have."""
    pruners = quiet_optuna().pruners
    if search.pruner == "median":  # epochs count from 1
        return pruners.MedianPruner(search.startup_trials, n_warmup_steps=search.warmup_epochs + 1)
    if search.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=search.warmup_epochs + 1,
                                       max_resource=max(epochs, search.warmup_epochs + 1))
    return pruners.NopPruner()


def latest(study) -> dict[int, object]:
    """Index -> its last trial, as it stands in the study; indices ascending."""
    found = {}
    for trial in study.get_trials(deepcopy=False):
        if "index" in trial.user_attrs:  # else its worker died while taking it
            found[trial.user_attrs["index"]] = trial
    return dict(sorted(found.items()))


def is_done(trial, search: SearchConfig) -> bool:
    """Complete, pruned, or given up after all its retries."""
    return trial.state.name in ("COMPLETE", "PRUNED") or (
        trial.state.name == "FAIL" and trial.user_attrs["tries"] > search.retries)


def claim(study, search: SearchConfig, parameters: list[Parameter], trials_dir) -> Claim | str | None:
    """The next trial to do; WAITING_FOR_OTHERS where all are taken but may come back; None where all are done.

    To be called under the search's lock, by a process that has no trial at work.
    """
    _take_up_dead(study, search, trials_dir)
    found = latest(study)
    waiting = [trial for trial in found.values() if trial.state.name == "WAITING"]
    if not waiting and len(found) >= search.trials:
        return None if all(is_done(trial, search) for trial in found.values()) else WAITING_FOR_OTHERS
    study.sampler = sampler(search, len(found))
    trial = study.ask(distributions(parameters))
    index = trial.user_attrs.get("index", len(found))
    lock = FileLock(lock_of(trials_dir, index))
    lock.take()
    if "index" not in trial.user_attrs:
        trial.set_user_attr("tries", 1)
        trial.set_user_attr("index", index)
    (mine,) = [each for each in study.get_trials(deepcopy=False) if each.number == trial.number]
    return Claim(index, trial.user_attrs["tries"], trial, dict(mine.intermediate_values), lock)


def _take_up_dead(study, search: SearchConfig, trials_dir) -> None:
    """Fails the trials whose workers are gone, and puts them up again."""
    optuna = quiet_optuna()
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        index = trial.user_attrs.get("index")
        if index is None or not is_held(lock_of(trials_dir, index)):
            study.tell(trial.number, state=states.FAIL)
    for index, trial in latest(study).items():
        if trial.state != states.FAIL or is_done(trial, search):
            continue
        # Drawn again where its worker died before they were all written: by the same seed, they are the same.
        study.add_trial(optuna.create_trial(
            state=states.WAITING, params=trial.params, distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs={"index": index, "tries": trial.user_attrs["tries"] + 1}))
