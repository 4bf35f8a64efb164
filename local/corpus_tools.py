"""What the preparation scripts share beside svq/data/new_dir.py: names, SoX pipes, disjoint parts, trials.

Imported by the scripts beside it (Python puts a script's own folder first on the path).
"""

from __future__ import annotations

import re
import shlex

from svq.data.new_dir import wav_value
from svq.data.trials import available, make_trials
from svq.errors import UserError, some_of


def sox_pipe(path: str, *effects: str) -> str:
    """A wav.scp pipe through SoX: 16-bit WAV, no dither (the same bytes every time)."""
    return f"sox -D {shlex.quote(wav_value(path))} -t wav -b 16 - {' '.join(effects)} |"


def safe_id(text: str, extra: str = "") -> str:
    """`text` with everything outside letters, digits, `_`, `.` and `extra` made `_`."""
    return re.sub(rf"[^A-Za-z0-9_.{re.escape(extra)}]", "_", text)


def check_disjoint(parts: dict[str, list[str]]) -> None:
    """UserError naming the speakers that are in two parts, e.g. {"train": ids, "test": ids}."""
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
    """Writes `trials` of a data directory: all target pairs, `num_nontarget` others or all where there are fewer.

    Returns a line that says how many.
    """
    every = available(path, same_gender)
    targets, nontargets = make_trials(
        path, num_nontarget=min(num_nontarget, every), same_gender=same_gender, seed=seed
    )
    kind = " of the same gender" if same_gender else ""
    return f"{path}/trials: {targets} target and {nontargets} of {every} non-target trials{kind}"
