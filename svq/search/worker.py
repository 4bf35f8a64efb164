"""A worker of a search: takes one trial after the other until so many are done, by it and all others together."""

from __future__ import annotations

import os
import time
from typing import Callable

from svq.errors import UserError
from svq.search.config import Parameter, SearchConfig
from svq.search.next_trial import WAITING_FOR_OTHERS, Claim, claim
from svq.search.outcome import tidy
from svq.search.restart import next_old
from svq.search.storage import FileLock, quiet_optuna
from svq.search.trial import Outcome

POLL_SECONDS = 2.0


def work(study, search: SearchConfig, parameters: list[Parameter], folder, run: Callable[[Claim], Outcome],
         settle: Callable[[], None], poll: float = POLL_SECONDS) -> int:
    """Does trials until all are done; returns how many this worker did.

    folder: of the search; trials are in folder/trials. run: does one trial. settle: brings the folder in line with the
    study, called under the search's lock. A worker that finds none left waits for those at work elsewhere, for it may
    have to take up one of a worker that dies. UserError where the search has been set aside meanwhile.
    """
    trials_dir = os.path.join(os.fspath(folder), "trials")
    lock, done = FileLock(os.path.join(os.fspath(folder), ".lock")), 0
    old = next_old(folder)
    while True:
        with lock:
            if next_old(folder) != old:
                raise UserError(f"{old}: the search was set aside here, and another began")
            mine = claim(study, search, parameters, trials_dir)
        if mine is None:
            with lock:
                settle()
            return done
        if mine == WAITING_FOR_OTHERS:
            time.sleep(poll)
            continue
        try:
            outcome = run(mine)
            with lock:
                tell(study, mine, outcome)
                settle()
        finally:
            mine.lock.release()
        done += 1
        said = outcome.why or f"value {outcome.value:.4f}, {outcome.size_bytes} bytes"
        print(f"trial {mine.index}: {said}", flush=True)


def tell(study, mine: Claim, outcome: Outcome) -> None:
    """Ends the trial in the study: complete, or pruned where it has no value."""
    states = quiet_optuna().trial.TrialState
    for key in ("error", "size_bytes", "epochs", "why"):
        if getattr(outcome, key) not in (None, ""):
            mine.trial.set_user_attr(key, getattr(outcome, key))
    if outcome.value is None:
        study.tell(mine.trial, state=states.PRUNED)
    else:
        study.tell(mine.trial, outcome.value)


def settler(study, parameters: list[Parameter], folder, train: str, sets: tuple[str, ...]) -> Callable[[], None]:
    """`settle` of `work`."""
    return lambda: tidy(study, parameters, folder, train, sets)
