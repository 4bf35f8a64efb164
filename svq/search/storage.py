"""The SQLite file that workers share, and the locks by which they know of each other.

A lock here is a POSIX record lock (fcntl): the kernel, or the file server, gives it up when its process ends, however
it ends. SQLite itself rests on such locks, so they work wherever the study can be shared at all; there are no
heartbeats to miss and no clocks to compare.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import warnings

from svq.deploy.extras import require
from svq.errors import UserError

STUDY = "svq"
WAIT_SECONDS = 120  # for another worker that is writing


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
