"""A trial list as a cascade meets it: who is compared with whom, and how long every utterance is."""

from __future__ import annotations

import os

import numpy as np

from svq.backend.scores import check_same_trials, models_of, read_scores, read_trials, trial_speakers
from svq.backend.tokens import IdIndex, read_columns
from svq.cascade.ladder import Ladder, all_to_scale
from svq.data.datadir import DataDir
from svq.errors import UserError
from svq.evaluation.operations import frames_in
from svq.names import list_name


class TrialList:
    """A labelled list with its data directory (None: the folder of the list).

    ids: (U,) utterances that occur. test: (n,) positions among them. model: (n,) the enrolled model of each trial;
    member, member_model: (m,) utterance and model of every enrolment; a model is one utterance, or what
    enroll.spk2utt of the data directory says. target: (n,) bool. enroll_speaker, test_speaker: (n,) numbers.
    frames: (U,). UserError for ids that are not in utt2spk, and for a directory that does not know how long they are.
    """

    def __init__(self, trials, data_dir=None):
        self.path = str(trials)
        self.data_dir = os.path.dirname(self.path) or "." if data_dir is None else str(data_dir)
        self.name = list_name(trials)
        self.trials = read_trials(trials)
        self.target = self.trials.target
        self._number()
        self.enroll_speaker, self.test_speaker = trial_speakers(self.trials, self.data_dir)

    def _number(self) -> None:
        path = os.path.join(self.data_dir, "utt2spk")
        names, _ = read_columns(path, (2,))
        index = IdIndex(names, path)
        test, = index.require("speaker", path, self.trials.test)
        model, members, owner = self._models(index, path)
        used, place = np.unique(np.concatenate([test, members]), return_inverse=True)
        self.ids = [names[int(i)] for i in used]
        self.test, self.member = place[:len(test)], place[len(test):]
        self.model, self.member_model = model, owner
        self.frames = frames_of(self.data_dir, self.ids)

    def _models(self, index: IdIndex, path: str):
        """Model of each trial, numbered from 0 as they are needed; utterance and model of every enrolment."""
        groups, found = models_of(self.trials.enroll, self.data_dir)
        members, owner = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if groups is not None:
            kept = np.isin(groups.group, found)
            members, = index.require("speaker", path, groups.members.take(kept))
            owner = groups.group[kept]
        single, = index.require("speaker", path, self.trials.enroll.take(found < 0))
        alone, place = np.unique(single, return_inverse=True)
        behind = int(owner.max(initial=-1)) + 1
        model = found.copy()
        model[found < 0] = behind + place
        members = np.concatenate([members, alone])
        owner = np.concatenate([owner, behind + np.arange(len(alone))])
        used, model = np.unique(model, return_inverse=True)
        return model, members, np.searchsorted(used, owner)

    def __len__(self) -> int:
        return len(self.trials)

    def values(self, ladder: Ladder, maps: list) -> np.ndarray:
        """(R, n) scores of every rung from its score file, on the ladder's common scale."""
        return all_to_scale(maps, self.scores(ladder))

    def scores(self, ladder: Ladder) -> np.ndarray:
        """(R, n) as they stand in the score files."""
        found = []
        for rung in ladder.rungs:
            if rung.scores is None:
                raise UserError(f"rung {rung.name} has no `scores` folder; give the ladder one, or run the cascade "
                                "itself: svq.bin.cascade run")
            path = os.path.join(rung.scores, self.name, f"{ladder.score}.score")
            if not os.path.isfile(path):
                raise UserError(f"{path} is missing; steps/score.sh makes it")
            read = read_scores(path)
            check_same_trials(read, self.trials)
            found.append(read.score)
        return np.stack(found)


def frames_of(data_dir, ids) -> np.ndarray:
    """(U,) frames of 25 ms every 10 ms of each utterance, from utt2num_frames, else from utt2dur."""
    folder = DataDir(data_dir)
    name = "utt2num_frames" if folder.has("utt2num_frames") else "utt2dur"
    if not folder.has(name):
        raise UserError(f"{data_dir}: neither utt2num_frames nor utt2dur in it; utils/data_dir.sh or "
                        "svq.bin.data_dir makes utt2dur")
    table = folder.table(name)
    try:
        lengths = table.float_array()[table.indices([str(key) for key in ids])]
    except KeyError as error:
        raise UserError(f"{table.path}: no line for {error.args[0]}") from None
    return lengths.astype(np.int64) if name == "utt2num_frames" else np.array([frames_in(s) for s in lengths])
