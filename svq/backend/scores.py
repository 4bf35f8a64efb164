"""Reads and writes trial lists and score files, whole arrays at a time, and finds the speakers of trials.

trials: `enroll test target|nontarget`, or another form of svq/data/trial_list.py.
scores: `enroll test score`, in the order of the trial list.
Each side of a trial is an utterance; the enrolment side may be a model of several, from enroll.spk2utt of the data
directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svq import numbers
from svq.atomic import atomic_path
from svq.backend.embeddings import Groups
from svq.data.ids import IdIndex
from svq.data.trial_list import read_list
from svq.data.words import Tokens, gather, read_columns
from svq.errors import UserError, located

MODELS = "enroll.spk2utt"
DECIMALS = 6
_ROWS = 1 << 15


@dataclass
class Trials:
    """A trial list. enroll, test: Tokens (n,); target: (n,) bool, or None where the list has no labels."""

    enroll: Tokens
    test: Tokens
    target: np.ndarray | None
    path: str = "trials"

    def __len__(self):
        return len(self.enroll)


@dataclass
class Scores:
    """A score file. enroll, test: Tokens (n,); score: (n,) float64."""

    enroll: Tokens
    test: Tokens
    score: np.ndarray
    path: str = "scores"

    def __len__(self):
        return len(self.enroll)


def read_trials(path, labels=True):
    """Reads a trial list in any of its forms (svq/data/trial_list.py).  labels: whether there must be labels.

    UserError, naming file and line, for a malformed line and for a list that two forms fit.
    """
    return Trials(*read_list(path, labels), str(path))


def read_scores(path):
    """Reads a score file.  UserError, naming file and line, for a malformed line or a NaN."""
    enroll, test, text = read_columns(path, (3,))
    return Scores(enroll, test, parse_floats(text, path), str(path))


def split(scores, trials):
    """Splits scores into those of target trials and of non-target trials, each float64.

    UserError where the trials of the score file are not those of the trial list, in its order, or have no labels.
    """
    check_same_trials(scores, trials)
    if trials.target is None:
        raise UserError(f"{trials.path}: no target|nontarget labels")
    return scores.score[trials.target], scores.score[~trials.target]


def check_same_trials(scores, trials):
    """Raises UserError, naming the first line that differs, where a score file's trials are not those of a list."""
    if len(scores) != len(trials):
        raise UserError(f"{scores.path}: {len(scores)} scores for the {len(trials)} trials of {trials.path}")
    wrong = ~(scores.enroll.equal(trials.enroll) & scores.test.equal(trials.test))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise UserError(located(
            scores.path, i + 1, f"{scores.enroll[i]} {scores.test[i]} where {trials.path} has "
                                f"{trials.enroll[i]} {trials.test[i]}: score this list again"))


def write_scores(path, trials, score, decimals=DECIMALS):
    """Writes `enroll test score` for each trial, atomically.

    trials: Trials or Scores (n); score: (n,) finite floats; decimals: digits written after the point.
    UserError names the trial of a score that is not finite.
    """
    score = np.asarray(score, dtype=np.float64)
    if len(score) != len(trials):
        raise ValueError(f"{len(score)} scores for {len(trials)} trials")
    bad = ~np.isfinite(score)
    if bad.any():
        i = int(np.argmax(bad))
        raise UserError(f"the score of trial {trials.enroll[i]} {trials.test[i]} is {score[i]}")
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for first in range(0, len(score), _ROWS):
            rows = slice(first, first + _ROWS)
            stream.write(_lines(trials.enroll.take(rows), trials.test.take(rows), score[rows], decimals))


def rounded(score, decimals=DECIMALS):
    """Rounds scores to the values that one reads after writing them, so that one process and two agree to the byte."""
    scaled = np.rint(np.asarray(score, dtype=np.float64) * 10.0 ** decimals)
    return scaled / 10.0 ** decimals + 0.0      # + 0.0: no negative zero


def _lines(enroll, test, score, decimals):
    """Makes the bytes of a block of lines: columns side by side, the padding then dropped."""
    text, text_length = format_fixed(score, decimals)
    columns, lengths = [], []
    for tokens in (enroll, test):
        columns.append(gather(tokens, tokens.start, int(tokens.length.max(initial=1)) + 1))
        columns[-1][np.arange(len(tokens)), tokens.length] = 32
        lengths.append(tokens.length + 1)
    columns.append(text)
    lengths.append(text_length)
    block = np.concatenate(columns, axis=1)
    if all((length == column.shape[1]).all() for column, length in zip(columns, lengths)):
        return block.tobytes()
    keep = np.concatenate([np.arange(column.shape[1]) < length[:, None]
                           for column, length in zip(columns, lengths)], axis=1)
    return block[keep].tobytes()


def format_fixed(score, decimals):
    """Formats finite floats (n,) as fixed-point text, each closed by a newline.

    Gives the text, (n, width) uint8, left-aligned, and its lengths (n,).
    """
    scaled = np.rint(np.abs(score) * 10.0 ** decimals)
    if scaled.size and scaled.max() >= 2.0 ** 53:
        return _format_slowly(score, decimals)
    number = scaled.astype(np.int64)
    negative = (score < 0) & (number > 0)
    digits = np.ones(len(score), dtype=np.int64)        # before the point
    whole = number // 10 ** decimals
    for power in range(1, len(str(int(whole.max(initial=0))))):
        digits += whole >= 10 ** power
    widest = int(digits.max(initial=1))
    # Right-aligned first: ones digit, point and decimals stand at fixed columns.
    width = 1 + widest + (1 + decimals if decimals else 0) + 1
    text = np.full((len(score), width), 48, dtype=np.uint8)
    text[:, -1] = 10
    column = width - 2
    for place in range(decimals + widest):
        if decimals and place == decimals:
            text[:, column] = 46
            column -= 1
        quotient = number // 10
        text[:, column] += (number - 10 * quotient).astype(np.uint8)
        number = quotient
        column -= 1
    text_length = digits + negative + width - 1 - widest
    first = width - text_length
    rows = np.flatnonzero(negative)
    text[rows, first[rows]] = 45
    if np.any(first):
        index = np.minimum(first[:, None] + np.arange(width), width - 1)
        text = np.take_along_axis(text, index, axis=1)
    return text, text_length


def _format_slowly(score, decimals):
    words = ["%.*f" % (decimals, value) for value in score]
    words = [word.lstrip("-") if float(word) == 0 else word for word in words]
    tokens = Tokens.of([word + "\n" for word in words])
    return tokens.matrix(), tokens.length


def parse_floats(tokens, path="scores"):
    """Parses words as numbers, (n,) float64, equal to Python's float() of each.

    UserError, naming line and file `path`, for a word that is not a number.
    """
    out = np.empty(len(tokens), dtype=np.float64)
    for first in range(0, len(tokens), _ROWS):
        part = tokens.take(slice(first, first + _ROWS))
        out[first:first + _ROWS] = _parse_block(part, path, first)
    return out


def _parse_block(tokens, path, first_line):
    """Parses plain decimals of up to 15 digits exactly, by integers, and anything else by float()."""
    width = min(int(tokens.length.max(initial=1)), 24)
    plain = tokens.length <= width
    text = gather(tokens, tokens.start, width)
    negative = text[:, 0] == 45
    number = np.zeros(len(tokens), dtype=np.int64)
    digits = np.zeros(len(tokens), dtype=np.int64)
    point = np.zeros(len(tokens), dtype=np.int64)
    after = np.zeros(len(tokens), dtype=np.int64)
    for column in range(width):
        inside = tokens.length > column
        digit = text[:, column].astype(np.int64) - 48
        is_digit = inside & (digit >= 0) & (digit <= 9)
        is_point = inside & (digit == -2)
        is_sign = negative if column == 0 else False
        plain &= is_digit | is_point | is_sign | ~inside
        # Past 15 digits float() parses the word: stop before int64 could wrap.
        is_digit &= digits < 16
        number = np.where(is_digit, number * 10 + digit, number)
        digits += is_digit
        after += is_digit & (point > 0)
        point += is_point
    plain &= (digits > 0) & (digits <= 15) & (point <= 1)
    value = number / np.power(10.0, after)
    value[negative] *= -1
    for i in np.flatnonzero(~plain):
        value[i] = _slow_float(tokens[i], path, first_line + int(i) + 1)
    return value


def _slow_float(word, path, line):
    try:
        return numbers.number(word, infinite=True)
    except ValueError:
        raise UserError(located(path, line, f"'{word}' is not a score")) from None


def models_of(enroll: Tokens, data_dir) -> tuple[Groups | None, np.ndarray]:
    """Reads the models of data_dir/enroll.spk2utt, and finds the model of each of `enroll`: (n,) int64, -1 for none.

    Gives (Groups, places); in place of Groups None where there is no such file.
    """
    path = Path(data_dir) / MODELS
    if not path.is_file():
        return None, np.full(len(enroll), -1)
    models = Groups(path)
    return models, models.index.find(enroll).astype(np.int64)


def trial_sides(trials: Trials, data_dir, index: IdIndex, what: str, path) -> tuple[np.ndarray, np.ndarray]:
    """Finds the utterance on either side of each trial, a model's being its first: (n,) positions in `index`, twice.

    UserError lists the ids that have no `what` in the file `path`.
    """
    models, place = models_of(trials.enroll, data_dir)
    enroll = np.empty(len(trials), dtype=np.int64)
    if models is not None:
        (first,) = index.require(what, path, models.members.take(np.flatnonzero(np.diff(models.group, prepend=-1))))
        enroll[place >= 0] = first[place[place >= 0]]
    single, test = index.require(what, path, trials.enroll.take(place < 0), trials.test)
    enroll[place < 0] = single
    return enroll, test


def trial_speakers(trials: Trials, data_dir) -> tuple[np.ndarray, np.ndarray]:
    """Finds the speakers of trials: numbers of the enrolment and of the test side, each (n,) int64.

    An id is an utterance of data_dir/utt2spk or, on the enrolment side, a model of
    data_dir/enroll.spk2utt, whose speaker is that of its first utterance.
    UserError where utt2spk is missing, or lacks ids, which it lists.
    """
    path = Path(data_dir) / "utt2spk"
    if not path.is_file():
        raise UserError(f"{path} is missing; stage 1 makes it (--bootstrap 0 does without)")
    utterances, speakers = read_columns(path, (2,))
    number = np.unique(_as_bytes(speakers), return_inverse=True)[1]
    enroll, test = trial_sides(trials, data_dir, IdIndex(utterances, path), "speaker", path)
    return number[enroll], number[test]


def _as_bytes(tokens: Tokens) -> np.ndarray:
    matrix = np.ascontiguousarray(tokens.matrix())
    return matrix.view(f"S{matrix.shape[1]}").reshape(-1)
