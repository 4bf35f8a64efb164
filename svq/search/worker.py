"""A worker of a search: takes one trial after the other until so many are done, by it and all others together.

Beside the study it leaves a table of trials and the best trial's folder, and no loser's weights.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import Callable

import yaml

from svq.atomic import atomic_write
from svq.errors import UserError
from svq.search.config import Parameter, SearchConfig
from svq.search.storage import WAITING_FOR_OTHERS, Claim, FileLock, claim, folder_of, latest, next_old, quiet_optuna
from svq.search.trial import Outcome, drop_checkpoints

WEIGHTS = ("model.safetensors", "head.safetensors", "speakers.txt")
COLUMNS = ("trial", "state", "value", "error", "bytes", "epochs", "tries")


def best_of(study):
    """The complete trial of the lowest value, the first of several; None before there is one."""
    complete = [trial for trial in latest(study).values() if trial.state.name == "COMPLETE"]
    return min(complete, key=lambda trial: (trial.value, trial.user_attrs["index"]), default=None)


def tidy(study, parameters: list[Parameter], folder, train: str, sets: tuple[str, ...] = ()) -> None:
    """Brings `folder` in line with the study: trials.tsv, best (a link to the best trial's folder), best.yaml (its
    settings on top of `train`, to train by again), and no checkpoints or losers' weights in trials/.

    To be called under the search's lock.
    """
    folder = os.fspath(folder)
    trials_dir = os.path.join(folder, "trials")
    best = best_of(study)
    write_table(os.path.join(folder, "trials.tsv"), study, parameters)
    if best is not None:
        write_best(folder, best, train, sets)
    for index, trial in latest(study).items():
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        drop_checkpoints(folder_of(trials_dir, index))
        if best is None or trial.number != best.number:
            for name in WEIGHTS:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(folder_of(trials_dir, index), name))


def write_table(path, study, parameters: list[Parameter]) -> None:
    """A line for each trial; nan for what is not known."""
    keys = [parameter.key for parameter in parameters]
    with atomic_write(path) as file:
        file.write("\t".join([*COLUMNS, *keys]) + "\n")
        for index, trial in latest(study).items():
            about = trial.user_attrs
            row = [index, trial.state.name.lower(), trial.value if trial.state.name == "COMPLETE" else None,
                   about.get("error"), about.get("size_bytes"), about.get("epochs"), about["tries"],
                   *(trial.params.get(key) for key in keys)]
            file.write("\t".join(_field(value) for value in row) + "\n")


def _field(value) -> str:
    return "nan" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)


def write_best(folder: str, best, train: str, sets: tuple[str, ...]) -> None:
    """`best` and `best.yaml`; the link is there whole or not at all."""
    settings: dict = {}
    pairs = [text.partition("=")[::2] for text in sets]
    for key, value in [*pairs, *sorted(best.params.items())]:
        # A word is YAML here as it was in the trial: "[2, 4]" is a list.
        value = yaml.safe_load(value) if isinstance(value, str) else value
        *path, last = key.split(".")
        branch = settings
        for name in path:
            branch = branch.setdefault(name, {})
        branch[last] = value
    with atomic_write(os.path.join(folder, "best.yaml")) as file:
        file.write(f"# Trial {best.user_attrs['index']} of the search in trials.tsv: value {best.value:.6g}.\n")
        yaml.safe_dump({"base": os.path.relpath(train, folder), **settings}, file, sort_keys=False, width=math.inf)  # one line a base
    link, temporary = os.path.join(folder, "best"), os.path.join(folder, ".best.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(os.path.relpath(folder_of(os.path.join(folder, "trials"), best.user_attrs["index"]), folder), temporary)
    os.replace(temporary, link)


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
