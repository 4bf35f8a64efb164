"""Checks the inputs of a compression before anything is made, and makes data directories of them."""

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
        """The number of utterances."""
        return len(self.speaker)

    @property
    def speakers(self) -> list[str]:
        """The speakers, sorted as bytes, as the labels of a training are."""
        return sorted(set(self.speaker.values()), key=str.encode)

    @property
    def labelled(self) -> bool:
        """Whether the speakers can serve as labels: two or more, with at least two utterances each on average.

        Where speakers are not known, each utterance of a Kaldi data directory has a speaker of its own.
        """
        return len(self.speakers) >= 2 and self.utterances >= 2 * len(self.speakers)


def check_speech(path, most: int | None = None) -> Speech:
    """Checks a data directory; gives its recordings, or `most` of them, spread over the list.

    UserError where its tables are missing, empty or do not agree.
    """
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
    """A checked trial list. utterances: those that need an embedding, sorted, with their recordings. models: whether
    enrolment models of several utterances occur."""

    trials: Trials
    utterances: dict[str, str]
    models: bool


def check_trials(path, data_dir) -> Tested:
    """Checks the trial list `path` against the data directory with its recordings.

    UserError that names ids without a recording, and for a list that mixes models and utterances.
    """
    trials = read_trials(path, labels=False)
    folder = DataDir(data_dir)
    folder.wav  # raises its own message where wav.scp is missing, or recordings are cut into segments
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

    path: the list. data_dir: has its recordings. Where that has no utt2spk, each utterance gets a speaker of its own.
    UserError as `check_trials`, and for utterances that are not in utt2spk.
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
    """Gives reco2file_and_channel of the utterances that are kept, as `create` takes it; empty where it has none."""
    name = "reco2file_and_channel"
    named = {key: value for key, value in folder.table(name).items() if key in kept} if folder.has(name) else {}
    return {name: named} if named else {}


def write_speech(data_dir, out, most: int | None = None, own: bool = True, durations: bool = True) -> int:
    """Makes the data directory `out` of the recordings of another, or `most` of them; returns their number.

    own: whether utterances keep their speakers; else each gets a speaker of its own, as if speakers were not known.
    durations: whether utt2dur is written, and measured where it is missing. UserError as `check_speech`.
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
