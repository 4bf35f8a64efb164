"""Reads trial lists, and tells in which of these forms a list is written:

    enroll test target|nontarget    Kaldi's
    enroll test 1|0                 1: a target
    1|0 enroll test                 VoxCeleb's
    enroll test                     without labels, where none are needed

A list has one form. A list that two forms fit (its ids are themselves 0, 1 or target) is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from svq.data.words import Tokens, read_columns
from svq.errors import UserError, located


@dataclass(frozen=True)
class Form:
    """A form of trial lists. text: its line, as messages show it. label: the column of the label, from 0.

    words: the labels of targets and of non-targets.
    """

    text: str
    label: int
    words: tuple[bytes, bytes]


FORMS = (Form("enroll test target|nontarget", 2, (b"target", b"nontarget")), Form("enroll test 1|0", 2, (b"1", b"0")),
         Form("1|0 enroll test", 0, (b"1", b"0")))
NOT_TRIALS = f"is not `{FORMS[0].text}`"
_MEND = "write the list as `enroll test target|nontarget`, with ids that are none of 0, 1, target and nontarget"


def read_list(path, labels: bool = True) -> tuple[Tokens, Tokens, np.ndarray | None]:
    """Reads a trial list: enroll and test, Tokens (n,), and target, (n,) bool, or None where the list has no labels.

    labels: whether there must be labels. UserError, naming file and line, for a line that is not of the list's form,
    and for a list that two forms fit.
    """
    columns = read_columns(path, (3,) if labels else (2, 3))
    if len(columns) == 2:
        return (*columns, None)
    form, fits = form_of(columns)
    if form is None:
        raise UserError(located(path, 1, fits))
    if not fits.all():
        line = int(np.argmin(fits))
        raise UserError(located(path, line + 1, not_of(form, columns[form.label][line], line)))
    enroll, test = sides(columns, form)
    return enroll, test, is_word(columns[form.label], form.words[0])


def sides(columns, form: Form):
    """Gives the two columns of a list that are not its label: enroll and test."""
    return [column for place, column in enumerate(columns) if place != form.label]


def form_of(columns) -> tuple[Form | None, np.ndarray | str]:
    """Finds the form of a list of three columns (Tokens): (form, (n,) bool: the lines that it fits).

    Among the forms that fit the first line, the one that fits the most lines from there on is taken. If none fits, or
    two fit equally far: (None, the reason).
    """
    found = []
    for form in FORMS:
        fits = np.logical_or(*(is_word(columns[form.label], word) for word in form.words))
        if fits[0]:
            found.append((len(fits) if fits.all() else int(np.argmin(fits)), form, fits))
    if not found:
        return None, not_of(FORMS[0], columns[2][0], 0)
    longest = max(length for length, _, _ in found)
    found = [(form, fits) for length, form, fits in found if length == longest]
    if len(found) > 1:
        return None, (f"may be `{found[0][0].text}` or `{found[1][0].text}`, as may all {longest} lines from here on; {_MEND}")
    return found[0]


def not_of(form: Form, word: str, line: int) -> str:
    """Says why `line`, from 0, is not of a form. word: the word that stands where its label should."""
    if line == 0:
        return f"'{word}' where target or nontarget is expected (or 1 or 0, which may also stand first)"
    expected = " or ".join(found.decode() for found in form.words)
    return f"'{word}' where {expected} is expected, as in the lines before (`{form.text}`)"


def is_word(tokens: Tokens, word: bytes) -> np.ndarray:
    """Says of each of the words whether it is `word`: (n,) bool."""
    same = tokens.length == len(word)
    if same.any():
        same[same] = (tokens.take(same).matrix(len(word)) == np.frombuffer(word, np.uint8)).all(axis=1)
    return same
