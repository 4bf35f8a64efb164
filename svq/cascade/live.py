"""A trial list for a cascade, and a cascade that runs live: it computes embeddings when a trial needs them.

It computes each embedding once for an utterance and a rung. Nothing is batched, because trials come one at a time. It
logs each embedding and the time it took; svq.cascade.live_runs counts costs again from the log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from svq.backend.scores import check_same_trials, models_of, read_scores, read_trials, rounded, trial_speakers
from svq.backend.scoring import Cosine
from svq.data.ids import IdIndex
from svq.data.words import read_columns
from svq.cascade.ladder import Ladder, Rung, all_to_scale, load_maps, mean_of_rung, sure, to_scale
from svq.data.datadir import DataDir
from svq.data.extraction import Utterances
from svq.errors import UserError
from svq.evaluation.operations import frames_in
from svq.names import list_name


class TrialList:
    """A labelled trial list with its data directory (None: the folder of the list).

    ids: (U,) the utterances that occur. test: (n,) positions among them. model: (n,) the enrolled model of each trial.
    member, member_model: (m,) utterance and model of every enrolment; a model is one utterance, or several by
    enroll.spk2utt of the data directory. target: (n,) bool. enroll_speaker, test_speaker: (n,) numbers.
    frames: (U,) lengths. UserError for ids that are not in utt2spk, and for a directory that tells no lengths.
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
        """Numbers the needed models from 0; gives each trial's model, and utterance and model of every enrolment."""
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
        """Reads the scores of every rung from its score file and brings them onto the common scale; gives (R, n)."""
        return all_to_scale(maps, self.scores(ladder))

    def scores(self, ladder: Ladder) -> np.ndarray:
        """Reads the scores of every rung as they stand in its score file; gives (R, n).

        UserError for a rung without `scores`, a missing file, and a file of other trials.
        """
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
    """Reads the number of frames (25 ms every 10 ms) of each utterance, (U,), from utt2num_frames, else from utt2dur.

    UserError where the data directory has neither, or no line for an utterance.
    """
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


class Embedded(NamedTuple):
    """An embedding that was computed. read_seconds: from recording or file to features. seconds: of the network."""

    rung: str
    utterance: str
    frames: int
    read_seconds: float
    seconds: float


class Settled(NamedTuple):
    """A trial that was settled. rung: the one that settled it. values: of the rungs up to it, on the common scale."""

    enroll: str
    test: str
    target: bool
    rung: int
    accepted: bool
    values: tuple[float, ...]


class LiveRung:
    """One system of a live cascade. It is loaded when it is first needed; load_seconds: how long that took."""

    def __init__(self, rung: Rung, score_map, data_dir: str, input: str, num_threads: int, device: str = "cpu"):
        self.rung, self.data_dir, self.input, self.num_threads, self.device = rung, data_dir, input, num_threads, device
        self.cosine = Cosine(mean_of_rung(rung, score_map))
        self.load_seconds = 0.0
        self.vectors: dict[int, np.ndarray] = {}
        self.models: dict[int, np.ndarray] = {}
        self._embedder = self._utterances = None

    def embed(self, utterance: str) -> tuple[np.ndarray, Embedded]:
        """Embeds an utterance; gives its vector (D,), centred and of length 1, and a record of the time.

        UserError naming an utterance that cannot be read or embedded.
        """
        if self._embedder is None:
            self._load()
        start = time.perf_counter()
        x = self._utterances[utterance]
        read = time.perf_counter()
        vector = self._embedder(x[None])[0]
        done = time.perf_counter()
        if not np.isfinite(vector).all():
            raise UserError(f"{utterance}: its embedding at rung {self.rung.name} is not finite")
        frames = len(x) if self._embedder.input == "features" else self._embedder.front_end.bank.num_frames(len(x))
        took = Embedded(self.rung.name, utterance, frames, read - start, done - read)
        return self.cosine.process(vector[None], source=self.rung.model)[0], took

    def _load(self) -> None:
        from svq.deploy.runtimes import load_embedder

        start, rung = time.perf_counter(), self.rung
        self._embedder = load_embedder(rung.model, rung.backend, self.num_threads, rung.precision, self.device)
        self._utterances = _ByKey(self.data_dir, self._embedder.config.front_end, self.input,
                                  waveforms=self._embedder.input == "waveform")
        self.load_seconds = time.perf_counter() - start


class _ByKey(Utterances):
    """Utterances of a data directory, read by their ids in any order."""

    def __getitem__(self, key: str) -> np.ndarray:
        """Reads the features (T, F) or samples (T,) of an utterance, float32."""
        if not hasattr(self, "_line"):
            self._line = dict(zip(self.keys, self.lines))
        try:
            specifier = self.table.value(self._line[key])
            return (self._read(specifier) if self.feats else self._compute(specifier)).numpy()
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


class LiveCascade:
    """A cascade that decides the trials of a list one by one; iterate over it.

    listed: a TrialList. only: the number of a rung that settles every trial alone, for comparison. embedded: the log of
    embeddings computed so far. UserError for a ladder without deltas, maps or means.
    """

    def __init__(self, ladder: Ladder, listed: TrialList, path="the ladder", input: str = "auto", num_threads: int = 1,
                 only: int | None = None, device: str = "cpu"):
        if ladder.score != "cosine_none":
            raise UserError(f"{path}: a live cascade scores with the plain cosine (cosine_none), not {ladder.score}")
        self.ladder, self.listed, self.only = ladder, listed, only
        self.maps, self.threshold = load_maps(ladder, path), ladder.threshold(path)
        self.deltas = [*ladder.deltas(path), -np.inf]  # the last is sure of everything
        self.rungs = [LiveRung(rung, score_map, listed.data_dir, input, num_threads, device)
                      for rung, score_map in zip(ladder.rungs, self.maps)]
        self.embedded: list[Embedded] = []
        order = np.argsort(listed.member_model, kind="stable")
        bounds = np.searchsorted(listed.member_model[order], np.arange(int(listed.model.max()) + 2))
        self._members = [listed.member[order[a:b]] for a, b in zip(bounds[:-1], bounds[1:])]

    def __iter__(self) -> Iterator[Settled]:
        """Settles the trials in the order of the list."""
        trials = self.listed.trials
        for i, (model, test) in enumerate(zip(self.listed.model.tolist(), self.listed.test.tolist())):
            values, rung = [], 0
            for rung in range(len(self.rungs)) if self.only is None else [self.only]:
                value = self._value(rung, model, test)
                values.append(value)
                if self.only is not None or sure(value, self.threshold, self.deltas[rung]):
                    break
            yield Settled(trials.enroll[i], trials.test[i], bool(trials.target[i]), rung,
                          bool(values[-1] >= self.threshold), tuple(values))

    def _value(self, rung: int, model: int, test: int) -> float:
        score = np.clip(self._model(rung, model).astype(np.float64) @ self._vector(rung, test), -1, 1)
        # Rounded as in a score file, so that a replay from such files decides alike.
        return float(to_scale(self.maps, rung, rounded(score)))

    def _vector(self, rung: int, utterance: int) -> np.ndarray:
        here = self.rungs[rung].vectors
        if utterance not in here:
            here[utterance], took = self.rungs[rung].embed(self.listed.ids[utterance])
            self.embedded.append(took)
        return here[utterance]

    def _model(self, rung: int, model: int) -> np.ndarray:
        here = self.rungs[rung]
        if model not in here.models:
            vectors = np.stack([self._vector(rung, member) for member in self._members[model].tolist()])
            average = vectors.mean(axis=0, dtype=np.float64)[None]
            here.models[model] = vectors[0] if len(vectors) == 1 else here.cosine.models(average, np.ones(1))[0][0]
        return here.models[model]

    @property
    def load_seconds(self) -> dict[str, float]:
        """Seconds to load each rung, of those that were loaded."""
        return {live.rung.name: live.load_seconds for live in self.rungs if live.load_seconds}
