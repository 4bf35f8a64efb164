"""The SQLite file that workers share, the locks by which they know of each other, and which trial a worker does next.

A lock here is a POSIX record lock (fcntl): the kernel, or the file server, gives it up when its process ends, however
it ends. SQLite itself rests on such locks, so they work wherever the study can be shared at all; there are no
heartbeats to miss and no clocks to compare.

Of trials there are so many in all, none is done twice at a time, none is lost with its worker. A trial has an index,
0 to trials - 1, and a folder by that name. When its worker dies it is failed and put up again under the same index,
with the same settings and what was measured so far; its training goes on from its checkpoint. All decisions are taken
under one lock. A trial at work is told from a dead one by the lock in its folder. A worker may be killed between any
two steps of this: the next one to take the lock mends it.
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
WAIT_SECONDS = 120  # for another worker that is writing
WAITING_FOR_OTHERS = "waiting"


class AnotherSearch(UserError):
    """The study is of a search with other settings or other data."""


def quiet_optuna():
    """The module, without its own log and its warnings about experimental parts."""
    optuna = require("optuna")
    require("sqlalchemy.orm")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def open_study(path, about: dict | None = None):
    """The study in the file `path`. about: what the search is; with it the file is made where there is none, without it
    the study is read as it is.

    UserError, one line, where the file is missing, damaged or cannot be written; AnotherSearch where it holds another.
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
    """UserError unless `path` is an SQLite file, or can become one; what SQLAlchemy says of it fills a screen."""
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
    """A lock on a file, one process at a time; given up by `release` and by the end of the process."""

    def __init__(self, path):
        self.path, self.file = os.fspath(path), None

    def take(self, wait: bool = True) -> bool:
        """Whether the lock is ours now; with `wait` it always is, in the end. UserError where there are no locks."""
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        file = open(self.path, "a")  # noqa: SIM115: open for as long as the lock is held
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise UserError(f"{self.path}: this file system has no locks ({error.strerror}), which workers that share "
                            "a study need; keep the study on another") from None
        self.file = file
        return True

    def release(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def __enter__(self):
        self.take()
        return self

    def __exit__(self, *_):
        self.release()


def is_held(path) -> bool:
    """Whether another process holds the FileLock `path`. Not for one that this process holds itself."""
    lock = FileLock(path)
    free = lock.take(wait=False)
    lock.release()
    return not free


FALSE, TRUE, ALWAYS = "false", "true", "always"
LEFT = ("trials", "best", "best.yaml", "trials.tsv")  # beside the study
BEGUN_BY = "begun_by"


def begin(folder, path, about: dict, restart: str = FALSE, restart_id: str | None = None):
    """The study in the file `path` of the search `about` in `folder`; to be called under the search's lock.

    restart: what to do with a search that is there: `false` goes on with it, and UserError where it is another one;
    `true` sets another one aside; `always` sets any aside, but once only for workers of the same `restart_id`.
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
    """Moves a study and all that its search left in `folder` to folder/old.N, which is returned.

    The study goes last: where this is killed in between, the next one sets aside the rest. UserError where a worker
    has a trial at work.
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
    """Where a search would be set aside: another name after each that was."""
    numbers = [int(name[4:]) for name in os.listdir(folder) if name.startswith("old.") and name[4:].isdecimal()]
    return os.path.join(os.fspath(folder), f"old.{max(numbers, default=0) + 1}")


def _rebase(path: str) -> None:
    """Mends the `base` of a best.yaml that went one folder deeper."""
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
