"""What a compression is given: checked before anything is made, and the data directories that are made of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from svq.backend.scores import MODELS, Trials, models_of, read_trials
from svq.data.ids import IdIndex
from svq.data.words import read_pairs
from svq.data.audio import write_utt2dur
from svq.data.datadir import DataDir, create
from svq.data.reshape import choose
from svq.errors import UserError, some_of

@dataclasses.dataclass(frozen=True)
class Speech:
    """Recordings to measure, calibrate and finetune on, with the speaker of each."""

    speaker: dict[str, str]

    @property
    def utterances(self) -> int:
        return len(self.speaker)

    @property
    def speakers(self) -> list[str]:
        """Sorted as bytes, as the labels of a training are."""
        return sorted(set(self.speaker.values()), key=str.encode)

    @property
    def labelled(self) -> bool:
        """Whether its speakers can be told from one another: two or more, with two utterances each on average.

        Where speakers are not known, each utterance of a Kaldi data directory has one of its own.
        """
        return len(self.speakers) >= 2 and self.utterances >= 2 * len(self.speakers)


def check_speech(path, most: int | None = None) -> Speech:
    """What is in the data directory, or `most` of it, spread over the list; UserError where its tables are missing or
    do not agree."""
    folder = DataDir(path)
    _, found = folder.wav.positions(folder.utt2spk.key_array)
    if not found.all():
        lacking = [key.decode() for key in folder.utt2spk.key_array[~found][:6]]
        raise UserError(f"{folder.wav.path}: no line for {some_of(lacking)}, which is in utt2spk; mend: "
                        f"utils/fix_data_dir.sh {path}")
    total = len(folder.utt2spk)
    if not total:
        raise UserError(f"{folder.utt2spk.path}: empty")
    rows = choose(folder, total if most is None else min(most, total))
    keys, speakers = (array[rows].tolist() for array in (folder.utt2spk.key_array, folder.utt2spk.value_array()))
    return Speech({key.decode(): speaker.decode() for key, speaker in zip(keys, speakers)})


@dataclasses.dataclass(frozen=True)
class Tested:
    """What a trial list is about. utterances: those that need an embedding, sorted, with their recordings.
    models: whether there are enrolment models of several utterances."""

    trials: Trials
    utterances: dict[str, str]
    models: bool


def check_trials(path, data_dir) -> Tested:
    """The trials in `path` whose recordings are in `data_dir`; UserError that lists ids without a recording."""
    trials = read_trials(path, labels=False)
    folder = DataDir(data_dir)
    folder.wav  # a message of its own where it is missing, or recordings are cut into segments
    ids, recordings = read_pairs(folder.path / "wav.scp")
    index = IdIndex(ids, folder.path / "wav.scp")
    groups, place = models_of(trials.enroll, folder.path)
    single = place < 0
    enrolled = [] if single.all() else [groups.members]
    if single.any() and not single.all():
        raise UserError(f"{path}: {trials.enroll.take(~single)[0]} is a model of {folder.path / MODELS}, and "
                        f"{trials.enroll.take(single)[0]} is not; a list is of models or of utterances")
    rows = index.require("recording", folder.path / "wav.scp", trials.enroll.take(single), trials.test, *enrolled)
    needed = np.unique(np.concatenate(rows))
    return Tested(trials, dict(sorted((ids[i], recordings[i]) for i in needed)), not single.all())


def write_tested(path, data_dir, out) -> int:
    """Makes the data directory `out` of just the utterances that a trial list needs; returns their number.

    Where `data_dir` has no utt2spk, each utterance gets a speaker of its own.
    """
    utterances = check_trials(path, data_dir).utterances
    folder = DataDir(data_dir)
    speaker = dict(folder.utt2spk.items()) if folder.has("utt2spk") else {}
    lacking = [utterance for utterance in utterances if utterance not in speaker] if speaker else []
    if lacking:
        raise UserError(f"{folder.utt2spk.path}: no line for {some_of(lacking)}, which {path} names")
    create(out, wav=utterances, utt2spk={utterance: speaker.get(utterance, utterance) for utterance in utterances},
           **_channels(folder, utterances))
    return len(utterances)


def _channels(folder: DataDir, kept) -> dict[str, dict]:
    """reco2file_and_channel of the utterances that are kept, as `create` takes it; nothing where it names none."""
    name = "reco2file_and_channel"
    named = {key: value for key, value in folder.table(name).items() if key in kept} if folder.has(name) else {}
    return {name: named} if named else {}


def write_speech(data_dir, out, most: int | None = None, own: bool = True, durations: bool = True) -> int:
    """Makes the data directory `out` of the recordings of another, or `most` of them (`check_speech`).

    own: their own speakers; else each utterance gets one of its own, as where speakers are not known. durations: with
    utt2dur, measured where it is missing. Returns the number of utterances.
    """
    folder, speaker = DataDir(data_dir), check_speech(data_dir, most).speaker
    wav = {key: value for key, value in folder.table("wav.scp").items() if key in speaker}
    tables = _channels(folder, speaker)
    if durations and folder.has("utt2dur"):
        tables["utt2dur"] = {key: value for key, value in folder.utt2dur.items() if key in speaker}
    create(out, wav=wav, utt2spk=speaker if own else {key: key for key in speaker}, **tables)
    if durations and "utt2dur" not in tables:
        write_utt2dur(out, Path(out) / "utt2dur")
    return len(speaker)
