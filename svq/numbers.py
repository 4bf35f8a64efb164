"""Numbers as text, the same on every road: options of scripts and workers, tables, names of files, configs.

Python alone reads more than anybody means: digits of other scripts, 1_000, blanks around it, nan. bash, Kaldi and YAML
read other numbers there, or none.
"""

from __future__ import annotations

import math
import re

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # as utils/parse_options.sh
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?inf(inity)?", re.IGNORECASE)
_CHARACTERS = b"0123456789+-.eE\0"


def integer(text: str) -> int:
    """The integer that `text` is, of up to 18 digits 0 to 9; ValueError for any other text."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"`{text}` is not an integer")
    return int(text)


def number(text: str, infinite: bool = False) -> float:
    """The finite decimal number that `text` is, in digits 0 to 9; ValueError for any other text, too large ones too.

    infinite: whether `inf` and `-inf` are numbers there.
    """
    if _NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    if infinite and _INFINITE.fullmatch(text):
        return float(text)
    raise ValueError(f"`{text}` is not a number")


def is_number(value) -> bool:
    """Whether what JSON or YAML gave is a finite number, and neither a text nor a bool."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def printed(text: str) -> float:
    """The number that a program has printed: `number`, infinities, and `nan`; ValueError for any other text."""
    return math.nan if text == "nan" else number(text, infinite=True)


def numbers(words):
    """What `number` gives of each of `words` (N,), an `S` array: (N,) float64; ValueError that names the first wrong one
    and holds its position as second argument."""
    import numpy as np

    if not len(words):
        return np.zeros(0)
    if not words.tobytes().strip(_CHARACTERS):
        try:
            found = words.astype(np.float64)
            if np.isfinite(found).all():
                return found
        except ValueError:
            pass
    for row, word in enumerate(words.tolist()):
        try:
            number(word.decode())
        except ValueError as error:
            raise ValueError(str(error), row) from None
    return words.astype(np.float64)
