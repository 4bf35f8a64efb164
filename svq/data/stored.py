"""Reads and writes feats.yaml: the settings that the features in a data directory's feats.scp were made with.

svq.bin.make_fbank writes it; features of other toolkits have no such file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from svq.atomic import atomic_write
from svq.config import read_tree
from svq.data.datadir import DataDir
from svq.data.mels import HOP_MS
from svq.errors import UserError

NAME = "feats.yaml"
# The settings of svq.data.frontend.FrontEndConfig; feats.scp itself does not tell them.
SETTINGS = ("rate", "num_mels", "mean_normalize", "variance_normalize", "fbank", "window", "full_scale", "preemphasis",
            "high_hz", "snip_edges", "hop_ms", "waveform_normalize", "least_dbfs")
LATER = {"high_hz": 0.0, "snip_edges": True, "hop_ms": HOP_MS, "waveform_normalize": False,
         "least_dbfs": None}  # values for files older than these settings
FRAMES_PER_SECOND = 100
TOLERANCE = 0.1


def write_made(path, config) -> None:
    """Writes the settings that features were made with, a `svq.data.frontend.FrontEndConfig`, to file `path`."""
    with atomic_write(path) as file:
        file.write("# What made feats.scp beside this file; a model of another front end does not take it.\n")
        yaml.safe_dump({name: getattr(config, name) for name in SETTINGS}, file, sort_keys=False)


def read_made(data_dir) -> dict | None:
    """Reads a data directory's feats.yaml: a value for each of SETTINGS; None where there is no such file.

    UserError names the file where its settings are others.
    """
    path = os.path.join(data_dir, NAME)
    if not os.path.exists(path):
        return None
    made = {**LATER, **read_tree(path)}
    if made.keys() != set(SETTINGS):
        raise UserError(f"{path}: is not as steps/make_fbank.sh writes it, with {', '.join(SETTINGS)}; "
                        "make the features again")
    return made


def carry_made(sources: Sequence[DataDir], dest: Path) -> bool:
    """Copies feats.yaml to data directory `dest`, which takes its features from all `sources`; says whether it did.

    Where one of them has no feats.yaml, `dest` gets none, and an old one is removed. UserError where they differ: no
    one file would be true of all features.
    """
    made = [read_made(folder.path) for folder in sources]
    for folder, other in zip(sources, made):
        if None not in made and other != made[0]:
            differ = [name for name in SETTINGS if other[name] != made[0][name]]
            raise UserError(f"{folder.path / NAME}: {said(other, differ)}, but {sources[0].path / NAME}: "
                            f"{said(made[0], differ)}; make both alike with steps/make_fbank.sh, or remove feats.scp "
                            "from one")
    if None in made:
        (dest / NAME).unlink(missing_ok=True)
        return False
    with atomic_write(dest / NAME, "wb") as file:
        file.write((sources[0].path / NAME).read_bytes())
    return True


def said(settings: dict, names: Sequence[str]) -> str:
    """Lists the settings `names` with their values, as messages show them: `rate 8000, num_mels 40`."""
    return ", ".join(f"{name} {settings[name]:g}" if isinstance(settings[name], float) else f"{name} {settings[name]}"
                     for name in names)


def check_frames(data_dir) -> None:
    """Raises UserError where the frames of utt2num_frames are not about one every 10 ms of utt2dur.

    The totals are compared, within TOLERANCE. Nothing is checked where either table is missing.
    """
    folder = DataDir(data_dir)
    if not (folder.has("utt2num_frames") and folder.has("utt2dur")):
        return
    table = folder.table("utt2num_frames")
    position, found = folder.utt2dur.positions(table.key_array)
    seconds, frames = folder.utt2dur.float_array()[position[found]], table.float_array()[found].sum()
    # The fewest: whole frames only, of up to 32 ms. The most: a frame for every hop.
    fewest, most = (FRAMES_PER_SECOND * seconds - 4).clip(0).sum(), (FRAMES_PER_SECOND * seconds + 1).sum()
    if not (1 - TOLERANCE) * fewest <= frames <= (1 + TOLERANCE) * most:
        raise UserError(f"{table.path}: {frames / seconds.sum():.0f} frames for every second of utt2dur, where models "
                        f"take {FRAMES_PER_SECOND}: make features every 10 ms; where frames were left out on purpose, "
                        "remove utt2num_frames")
