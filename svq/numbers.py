"""Reads numbers from text by one rule everywhere: options of scripts and workers, tables, names of files, configs.

Python's own int() and float() accept more than anybody means: digits of other scripts, 1_000, blanks around a number,
nan. bash, Kaldi and YAML read other numbers from such text, or none.
"""

from __future__ import annotations

import math
import re

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # as utils/parse_options.sh
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?inf(inity)?", re.IGNORECASE)
_CHARACTERS = b"0123456789+-.eE\0"


def integer(text: str) -> int:
    """Reads `text`, up to 18 digits 0 to 9 after an optional minus, as an integer; ValueError for any other text."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"`{text}` is not an integer")
    return int(text)


def number(text: str, infinite: bool = False) -> float:
    """Reads `text`, a decimal number in digits 0 to 9, as a finite float; ValueError for other text or one too large.

    infinite: whether `inf` and `-inf` are accepted, too.
    """
    if _NUMBER.fullmatch(text) and math.isfinite(value := float(text)):
        return value
    if infinite and _INFINITE.fullmatch(text):
        return float(text)
    raise ValueError(f"`{text}` is not a number")


def is_number(value) -> bool:
    """Says whether `value`, from JSON or YAML, is a finite number, and neither a text nor a bool."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def printed(text: str) -> float:
    """Reads a number as programs print it: as `number` does, or an infinity or `nan`; ValueError for other text."""
    return math.nan if text == "nan" else number(text, infinite=True)


def numbers(words):
    """Reads each of `words`, an `S` array (N,), as `number` does, and gives (N,) float64.

    ValueError names the first wrong word and has its position as second argument.
    """
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
