"""Turns trial lists whose sides are paths of recordings, as VoxCeleb's are, into lists of a data directory's utterances.

A side of a trial is an utterance, on the enrolment side also a model of enroll.spk2utt, or else a path. A path is a
word that holds a `/` or ends as audio files do. It means the utterance whose file in wav.scp is that path or ends in
it, folder by folder. Suffixes of audio do not count: a list may say .wav where the files are .m4a. Exactly one
utterance must fit.
"""

from __future__ import annotations

import os
import posixpath
import shlex
from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.backend.scores import Trials, models_of, read_trials, trial_speakers
from svq.data.datadir import DataDir, is_trials
from svq.data.ids import IdIndex
from svq.data.new_dir import AUDIO_SUFFIXES
from svq.data.rxfilename import parse
from svq.data.words import Tokens, read_columns
from svq.errors import UserError, located


def take_trials(list_path, data_dir, name: str = "") -> tuple[int, int]:
    """Writes a list as `trials` (or `trials_<name>`) of a data directory, with its ids and `target|nontarget` labels.

    Gives the numbers of target and non-target trials. UserError, naming file and line, for a side that is no utterance,
    a path that fits none or several, a label that contradicts the speakers, and a trial that is there twice; also where all
    trials have one label.
    """
    out = Path(data_dir) / (f"trials_{name}" if name else "trials")
    if not is_trials(out.name) or len(out.name.split()) != 1 or "/" in name:
        raise UserError(f"`{name}` is no name for a trial list: letters, digits, - and _ only")
    trials = read_trials(list_path)
    utterances = read_columns(Path(data_dir) / "utt2spk", (2,))[0]
    paths = Paths(data_dir, utterances)
    model = models_of(trials.enroll, data_dir)[1] >= 0
    index = IdIndex(utterances, Path(data_dir) / "utt2spk")
    known = model | (index.find(trials.enroll) >= 0), index.find(trials.test) >= 0
    sides, failures = zip(*(_ids(side, is_id, paths) for side, is_id in zip((trials.enroll, trials.test), known)))
    if any(failures):
        row, why = min(filter(None, failures))
        raise UserError(located(list_path, row + 1, why))
    taken = Trials(*sides, trials.target, trials.path)
    _check_labels(taken, data_dir)
    _check_once(taken)
    targets = int(taken.target.sum())
    for kind, number in (("target", targets), ("nontarget", len(taken) - targets)):
        if number == 0:
            raise UserError(f"{list_path}: has no {kind} trial; error rates need both")
    with atomic_write(out) as file:
        words = zip(taken.enroll, taken.test, taken.target.tolist())
        file.writelines(f"{enroll} {test} {'target' if target else 'nontarget'}\n" for enroll, test, target in words)
    return targets, len(taken) - targets


def _ids(side: Tokens, is_id: np.ndarray, paths: Paths) -> tuple[Tokens, tuple[int, str] | None]:
    """Puts utterances in place of the paths of one side (n,): (side, None), or (side, (first row that fails, why))."""
    rows = np.flatnonzero(~is_id)
    words, found = list(side) if len(rows) else [], {}
    for row in rows.tolist():
        if words[row] not in found:
            try:
                found[words[row]] = paths.utterance(words[row])
            except UserError as error:
                return side, (row, str(error))
        words[row] = found[words[row]]
    return (Tokens.of(words) if words else side), None


def _check_labels(trials: Trials, data_dir) -> None:
    enroll, test = trial_speakers(trials, data_dir)
    wrong = np.flatnonzero((enroll == test) != trials.target)
    if len(wrong):
        row = int(wrong[0])
        label, speakers = ("target", "two speakers") if trials.target[row] else ("nontarget", "one speaker")
        text = (f"{label}, and {trials.enroll[row]} and {trials.test[row]} are of {speakers} in "
                f"{os.path.join(data_dir, 'utt2spk')} ({len(wrong)} such of {len(trials)}); mend the label (1 is a target) "
                "or the speakers")
        raise UserError(located(trials.path, row + 1, text))


def _check_once(trials: Trials) -> None:
    """Raises UserError, naming the line, for a trial that is there twice, perhaps by a path and by an id."""
    enroll, test = trials.enroll.array(), trials.test.array()
    order = np.lexsort((test, enroll))
    same = np.flatnonzero((enroll[order[1:]] == enroll[order[:-1]]) & (test[order[1:]] == test[order[:-1]]))
    if len(same):
        row = int(order[same + 1].min())
        raise UserError(located(trials.path, row + 1, f"{trials.enroll[row]} {trials.test[row]}: the same trial is there already "
                                                      f"({len(same)} such of {len(trials)}); take one out"))


class Paths:
    """The utterances of a data directory by the files that wav.scp names for them.

    utterances: the directory's ids, Tokens. wav.scp is read when the first path is looked up.
    """

    def __init__(self, data_dir, utterances: Tokens):
        self.folder, self.utterances = DataDir(data_dir), utterances
        self._files: list[tuple[str, tuple[str, ...]]] | None = None
        self._by_tail: dict[int, dict[tuple[str, ...], list[str]]] = {}

    def utterance(self, word: str) -> str:
        """Finds the utterance that `word` means as a path; UserError if it is no path, or fits none or several."""
        utt2spk = self.folder.path / "utt2spk"
        if "/" not in word and not word.lower().endswith(AUDIO_SUFFIXES):
            raise UserError(f"`{word}` is not in {utt2spk}")
        if self.folder.has_segments or not self.folder.has("wav.scp"):
            raise UserError(f"`{word}` is not in {utt2spk}, and as a path it means no utterance: {self.folder.path} has "
                            + ("segments" if self.folder.has_segments else "no wav.scp"))
        parts = _parts(word)
        found = self._tails(len(parts)).get(parts, [])
        if not found:
            raise UserError(f"`{word}` is neither in {utt2spk} nor the end of a path in {self.folder.path / 'wav.scp'}")
        if len(found) > 1:
            raise UserError(f"`{word}` may be {found[0]} or {found[1]}: the paths of both end in it; name more of its folders")
        return found[0]

    def _tails(self, count: int) -> dict[tuple[str, ...], list[str]]:
        """Maps the last `count` parts of every path to the utterances that have them, two at most."""
        if self._files is None:
            self._files = [(utt, _parts(file)) for utt, value in self.folder.table("wav.scp").items()
                           if (file := _file_of(value))]
        if count not in self._by_tail:
            tails: dict[tuple[str, ...], list[str]] = {}
            for utt, parts in self._files:
                if len(parts) >= count and len(known := tails.setdefault(parts[-count:], [])) < 2:
                    known.append(utt)
            self._by_tail[count] = tails
        return self._by_tail[count]


def _parts(path: str) -> tuple[str, ...]:
    """Splits a path into folders and name, without a suffix of audio.

    An absolute path begins with the part `/`, so that no other path ends in it.
    """
    stem, suffix = posixpath.splitext(posixpath.normpath(path))
    path = stem if suffix.lower() in AUDIO_SUFFIXES else stem + suffix
    parts = tuple(path.strip("/").split("/"))
    return ("/", *parts) if path.startswith("/") else parts


def _file_of(value: str) -> str:
    """Finds the audio file that a value of wav.scp names, also within a command; empty for none, as in an archive."""
    try:
        rx = parse(value)
        if rx.kind != "pipe":
            return rx.path if rx.kind == "file" else ""
        return next((word.removeprefix("file:") for word in shlex.split(rx.path) if word.lower().endswith(AUDIO_SUFFIXES)), "")
    except (UserError, ValueError):
        return ""
