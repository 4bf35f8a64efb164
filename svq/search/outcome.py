"""What a search leaves beside its study: a table of trials, the best trial's folder, no loser's weights."""

from __future__ import annotations

import contextlib
import math
import os

import yaml

from svq.atomic import atomic_write
from svq.search.config import Parameter
from svq.search.next_trial import folder_of, latest
from svq.search.trial import drop_checkpoints

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
