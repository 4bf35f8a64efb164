"""A search that is set aside, so that another can begin in its folder."""

from __future__ import annotations

import contextlib
import glob
import math
import os
import shutil
import uuid

import yaml

from svq.atomic import atomic_write
from svq.errors import UserError, some_of
from svq.search.storage import AnotherSearch, is_held, open_study

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
