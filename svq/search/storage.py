"""The SQLite file that the workers of a search share, their locks, and the choice of a worker's next trial.

A lock here is a POSIX record lock (fcntl): the kernel, or the file server, releases it when its process ends, however
it ends. SQLite itself rests on such locks, so they work wherever the study can be shared at all. There are no
heartbeats to miss and no clocks to compare.

A search has a fixed number of trials. No two workers do the same trial at a time, and no trial is lost with its
worker. A trial has an index, 0 to trials - 1, and a folder by that name. When its worker dies, another worker marks
the trial as failed and queues it again under the same index, with the same settings and the values measured so far;
its training goes on from its checkpoint. Workers take all decisions under one lock. A trial at work holds the lock in
its folder, a dead one does not. A worker may be killed between any two of these steps: the next one to take the lock
repairs what it left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import glob
import math
import os
import shutil
import sqlite3
import uuid
import warnings

import yaml

from svq.atomic import atomic_write
from svq.errors import UserError, require, some_of
from svq.search.config import Parameter, SearchConfig

STUDY = "svq"
WAIT_SECONDS = 120  # how long to wait for another worker that is writing
WAITING_FOR_OTHERS = "waiting"


class AnotherSearch(UserError):
    """The study is of a search with other settings or other data."""


def quiet_optuna():
    """Imports Optuna and silences its log and its warnings about experimental features. UserError without Optuna."""
    optuna = require("optuna")
    require("sqlalchemy.orm")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def open_study(path, about: dict | None = None):
    """Opens the study in the SQLite file `path`.

    about: a description of the search, to be stored in the study or compared with the one there. With it a missing file
    is made; without it the study is only read. UserError, one line, where the file is missing, damaged or cannot be
    written; AnotherSearch where the study has another description.
    """
    path = os.fspath(path)
    optuna = quiet_optuna()
    _check_file(path, writing=about is not None)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{os.path.abspath(path)}",
                                             engine_kwargs={"connect_args": {"timeout": WAIT_SECONDS}})
        if about is None:
            return optuna.load_study(study_name=STUDY, storage=storage)
        study = optuna.create_study(study_name=STUDY, storage=storage, direction="minimize", load_if_exists=True)
        known = study.user_attrs.get("about")
        if known is None:
            study.set_user_attr("about", about)
    except KeyError:
        raise UserError(f"{path}: holds no search of ours; name the file that svq.bin.search wrote") from None
    except Exception as error:  # SQLAlchemy's and Optuna's have no base class in common
        raise UserError(_refused(path, error)) from None
    if known is not None and known != about:
        raise AnotherSearch(f"{path}: holds another search (its {_difference(known, about)} differs): go on with that "
                            "one's settings and data, set it aside (--restart true) or name a new --study")
    return study


def _check_file(path: str, writing: bool) -> None:
    """Raises UserError unless `path` is an SQLite file or can become one: SQLAlchemy's own message fills a screen."""
    if not writing and not os.path.isfile(path):
        raise UserError(f"{path}: no such study; svq.bin.search makes it")
    try:
        if writing:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as database:
            if writing:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
            database.execute("SELECT name FROM sqlite_master").fetchall()
    except (OSError, sqlite3.Error) as error:
        raise UserError(_refused(path, error)) from None


def _refused(path: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{path}: the study cannot be opened ({reason}); name another --study, or remove a damaged one to start anew"


def _difference(known, about: dict) -> str:
    keys = [key for key in about if not isinstance(known, dict) or known.get(key) != about[key]]
    return ", ".join(keys) or "description"


class FileLock:
    """A lock on a file that one process at a time can hold. `release` and the end of the process give it up."""

    def __init__(self, path):
        self.path, self.file = os.fspath(path), None

    def take(self, wait: bool = True) -> bool:
        """Takes the lock and says whether this process holds it now. With `wait` it waits until it does.

        UserError where the file system has no locks.
        """
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        file = open(self.path, "a")  # noqa: SIM115: open for as long as the lock is held
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise UserError(f"{self.path}: this file system has no locks ({error.strerror}); workers that share a "
                            "study need them: keep the study on another file system") from None
        self.file = file
        return True

    def release(self) -> None:
        """Releases the lock, if it is held."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __enter__(self):
        self.take()
        return self

    def __exit__(self, *_):
        self.release()


def is_held(path) -> bool:
    """Says whether another process holds the FileLock `path`. Do not ask of a lock that this process holds itself."""
    lock = FileLock(path)
    free = lock.take(wait=False)
    lock.release()
    return not free


FALSE, TRUE, ALWAYS = "false", "true", "always"
LEFT = ("trials", "best", "best.yaml", "trials.tsv")  # what a search leaves beside the study
BEGUN_BY = "begun_by"


def begin(folder, path, about: dict, restart: str = FALSE, restart_id: str | None = None):
    """Opens the study of a search, or begins a new one; to be called under the search's lock.

    folder: of the search. path: the study's file. about: a description of the search, see `open_study`. restart: what
    happens to a search that is there already. `false` goes on with it; UserError where it is another search. `true`
    sets another search aside. `always` sets any search aside, but only once for all workers with the same `restart_id`.
    """
    again = False
    try:
        study = open_study(path, about)
        if restart == ALWAYS:
            restart_id = restart_id or uuid.uuid4().hex
            again = study.user_attrs.get(BEGUN_BY) != restart_id and bool(study.get_trials(deepcopy=False))
    except AnotherSearch:
        if restart == FALSE:
            raise
        again = True
    if again:
        print(f"{path}: set aside in {set_aside(folder, path)}", flush=True)
        study = open_study(path, about)
    if restart == ALWAYS:
        study.set_user_attr(BEGUN_BY, restart_id)
    return study


def set_aside(folder, path) -> str:
    """Moves a study and all that its search left in `folder` to folder/old.N; returns that path.

    The study goes last: if the process is killed in between, the next one moves the rest. UserError where a worker is
    still at work on a trial.
    """
    folder = os.fspath(folder)
    locks = sorted(glob.glob(os.path.join(glob.escape(folder), "trials", "*", ".lock")))
    held = [os.path.basename(os.path.dirname(lock)) for lock in locks if is_held(lock)]
    if held:
        raise UserError(f"{path}: workers of the search that is to be set aside are at work on trials {some_of(held)}; "
                        "wait for them or end them")
    old = next_old(folder)
    os.makedirs(old)
    for name in LEFT:
        if os.path.lexists(os.path.join(folder, name)):
            os.rename(os.path.join(folder, name), os.path.join(old, name))
    _rebase(os.path.join(old, "best.yaml"))
    shutil.move(os.fspath(path), os.path.join(old, os.path.basename(path)))
    return old


def next_old(folder) -> str:
    """Gives the path folder/old.N to which the next search would be set aside. N grows by one each time."""
    numbers = [int(name[4:]) for name in os.listdir(folder) if name.startswith("old.") and name[4:].isdecimal()]
    return os.path.join(os.fspath(folder), f"old.{max(numbers, default=0) + 1}")


def _rebase(path: str) -> None:
    """Corrects the relative `base` of a best.yaml that was moved one folder deeper."""
    with contextlib.suppress(FileNotFoundError):
        with open(path) as file:
            comment, *rest = file.readlines()
        settings = yaml.safe_load("".join(rest))
        settings["base"] = os.path.join("..", settings["base"])
        with atomic_write(path) as file:
            file.write(comment)
            yaml.safe_dump(settings, file, sort_keys=False, width=math.inf)


@dataclasses.dataclass
class Claim:
    """A trial that this worker has taken. tries: how often it was taken, this time included. trial: Optuna's object.
    known: epoch -> value, as far as earlier workers measured it."""

    index: int
    tries: int
    trial: object
    known: dict[int, float]
    lock: FileLock


def folder_of(trials_dir, index: int) -> str:
    """Gives the folder of a trial of the search by its number, from 0."""
    return os.path.join(os.fspath(trials_dir), f"{index:04d}")


def lock_of(trials_dir, index: int) -> str:
    return os.path.join(folder_of(trials_dir, index), ".lock")


def distributions(parameters: list[Parameter]) -> dict:
    """Translates each parameter into Optuna's distribution; gives them by key."""
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
    """Makes the Optuna sampler that draws the settings of trial `index`.

    Its seed depends on the search's seed and the index alone, so workers need not agree on anything.
    """
    samplers = quiet_optuna().samplers
    seed = (search.seed * 1_000_003 + index) % 2**32
    if search.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    # constant_liar: trials at work elsewhere count as poor ones, so that workers do not try the same settings.
    return samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials, constant_liar=True)


def pruner(search: SearchConfig, epochs: int):
    """Makes the Optuna pruner that stops poor trials. epochs: the most that a trial can take."""
    pruners = quiet_optuna().pruners
    if search.pruner == "median":  # epochs count from 1
        return pruners.MedianPruner(search.startup_trials, n_warmup_steps=search.warmup_epochs + 1)
    if search.pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=search.warmup_epochs + 1,
                                       max_resource=max(epochs, search.warmup_epochs + 1))
    return pruners.NopPruner()


def latest(study) -> dict[int, object]:
    """Gives the last try of every trial of the study by index, as it stands there; indices ascend."""
    found = {}
    for trial in study.get_trials(deepcopy=False):
        if "index" in trial.user_attrs:  # without one its worker died while taking it
            found[trial.user_attrs["index"]] = trial
    return dict(sorted(found.items()))


def is_done(trial, search: SearchConfig) -> bool:
    """Says whether a trial is over: complete, pruned, or given up after all its retries."""
    return trial.state.name in ("COMPLETE", "PRUNED") or (
        trial.state.name == "FAIL" and trial.user_attrs["tries"] > search.retries)


def claim(study, search: SearchConfig, parameters: list[Parameter], trials_dir) -> Claim | str | None:
    """Takes the next trial that is to be done.

    Returns WAITING_FOR_OTHERS where all are taken but one may come back, None where all are done. To be called under
    the search's lock, by a process that has no trial at work. trials_dir: holds the trials' folders.
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
    """Marks the trials whose workers are gone as failed, and queues them again while they have retries left."""
    optuna = quiet_optuna()
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        index = trial.user_attrs.get("index")
        if index is None or not is_held(lock_of(trials_dir, index)):
            study.tell(trial.number, state=states.FAIL)
    for index, trial in latest(study).items():
        if trial.state != states.FAIL or is_done(trial, search):
            continue
        # Settings that a dead worker had not written yet are drawn again: the seed is the same, so are they.
        study.add_trial(optuna.create_trial(
            state=states.WAITING, params=trial.params, distributions=trial.distributions,
            intermediate_values=trial.intermediate_values,
            user_attrs={"index": index, "tries": trial.user_attrs["tries"] + 1}))
