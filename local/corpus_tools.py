"""Helpers that the preparation scripts share, besides svq/data/new_dir.py: names, SoX pipes, disjoint parts, trials.

The scripts beside this file import it (Python puts the folder of a script first on the path).
"""

from __future__ import annotations

import re
import shlex

from svq.data.new_dir import wav_value
from svq.data.trials import available, make_trials
from svq.errors import UserError, some_of


def sox_pipe(path: str, *effects: str) -> str:
    """Writes a wav.scp pipe through SoX: 16-bit WAV, no dither (the same bytes every time)."""
    return f"sox -D {shlex.quote(wav_value(path))} -t wav -b 16 - {' '.join(effects)} |"


def safe_id(text: str, extra: str = "") -> str:
    """Replaces everything in `text` but letters, digits, `_`, `.` and `extra` by `_`."""
    return re.sub(rf"[^A-Za-z0-9_.{re.escape(extra)}]", "_", text)


def check_disjoint(parts: dict[str, list[str]]) -> None:
    """Checks that no speaker is in two parts, e.g. {"train": ids, "test": ids}; UserError names those that are."""
    seen: dict[str, str] = {}
    shared = []
    for name, speakers in parts.items():
        for speaker in sorted(set(speakers)):
            if speaker in seen:
                shared.append(f"{speaker} ({seen[speaker]} and {name})")
            seen[speaker] = name
    if shared:
        raise UserError(f"speakers in two parts of the data: {some_of(shared, 10)}")


def draw_trials(path, num_nontarget: int, same_gender: bool, seed: int) -> str:
    """Writes `trials` of a data directory: all target pairs, and `num_nontarget` others, or all where there are fewer.

    Returns a line that says how many trials there are.
    """
    every = available(path, same_gender)
    targets, nontargets = make_trials(
        path, num_nontarget=min(num_nontarget, every), same_gender=same_gender, seed=seed
    )
    kind = " of the same gender" if same_gender else ""
    return f"{path}/trials: {targets} target and {nontargets} of {every} non-target trials{kind}"
