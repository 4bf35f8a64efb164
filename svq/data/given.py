"""Copies data directories that were made elsewhere: their tables, with absolute paths, without features and trials."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.data import stored
from svq.data.datadir import DataDir
from svq.data.reshape import subset
from svq.data.rxfilename import Rx, parse, require_allowed
from svq.data.validate import MEND, validate
from svq.errors import UserError, located

# Files that belong to features of other networks; a recipe makes its own.
OF_FEATURES = ("feats.scp", "utt2num_frames", "vad.scp", "cmvn.scp", stored.NAME)
MODELS = "enroll.spk2utt"


def require_usable(path) -> None:
    """Raises UserError unless a data directory is sound by its lists (trials apart) and names recordings.

    Its wav.scp must run no commands, unless they are allowed.
    """
    folder = DataDir(path)
    if not folder.has("wav.scp"):
        raise UserError(f"{path}: has no wav.scp; a recipe makes its features itself, from recordings")
    problems = validate(path, "none", limit=1, trials=False)
    if problems.total:
        more = f" ({problems.total - 1} more: utils/validate_data_dir.sh {path})" if problems.total > 1 else ""
        mend = "" if MEND in problems.shown[0] else f"; {MEND}"
        raise UserError(f"{problems.shown[0]}{mend}{more}")
    require_allowed(folder.table("wav.scp"))


def copy(source, dest, root=".") -> int:
    """Copies data directory `source` to `dest`: its tables without those of features, and its enroll.spk2utt.

    root: the folder at which relative paths of wav.scp begin; commands stay as they are. Gives the number of
    utterances. UserError where `source` is not usable (`require_usable`) or a recording is not there.
    """
    require_usable(source)
    folder, dest = DataDir(source), Path(dest)
    values = _whole(folder, os.path.abspath(root))
    subset(source, dest, np.arange(len(folder.utt2spk)))
    for name in OF_FEATURES:
        (dest / name).unlink(missing_ok=True)
    with atomic_write(dest / "wav.scp") as file:
        file.writelines(f"{key} {value}\n" for key, value in values)
    (dest / MODELS).unlink(missing_ok=True)
    if folder.has(MODELS):
        with atomic_write(dest / MODELS, "wb") as file:
            file.write((folder.path / MODELS).read_bytes())
    return len(folder.utt2spk)


def _whole(folder: DataDir, root: str) -> list[tuple[str, str]]:
    """Lists (recording, value) of wav.scp with absolute paths; UserError names the line of the first missing file."""
    wav, values, seen = folder.table("wav.scp"), [], ""
    for line, (key, value) in enumerate(wav.items(), 1):
        try:
            rx = parse(value)
        except UserError as error:
            raise UserError(located(wav.path, line, f"`{key}`: {error}")) from None
        if rx.kind != "pipe":
            rx = Rx(rx.kind, os.path.join(root, rx.path), rx.offset)
            if rx.path != seen and not os.path.exists(rx.path):
                where = "" if os.path.isabs(parse(value).path) else f"; relative paths begin at {root} (--root)"
                raise UserError(located(wav.path, line, f"`{key}`: {rx.path}: no such file{where}"))
            seen, value = rx.path, str(rx)
        values.append((key, value))
    return values
