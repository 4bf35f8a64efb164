"""Who is compared with whom in a trial list: utterances, models of several utterances, and whose voices these are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svq.backend.embeddings import Groups
from svq.backend.scores import Trials
from svq.backend.tokens import IdIndex, Tokens, read_columns
from svq.errors import UserError

MODELS = "enroll.spk2utt"


def models_of(enroll: Tokens, data_dir) -> tuple[Groups | None, np.ndarray]:
    """The models of data_dir/enroll.spk2utt, and which of them each of `enroll` is: (n,) int64, -1 for an utterance.

    None where there is no such file.
    """
    path = Path(data_dir) / MODELS
    if not path.is_file():
        return None, np.full(len(enroll), -1)
    models = Groups(path)
    return models, models.index.find(enroll).astype(np.int64)


def trial_sides(trials: Trials, data_dir, index: IdIndex, what: str, path) -> tuple[np.ndarray, np.ndarray]:
    """The utterance on either side of each trial, (n,) positions in `index`; of a model its first utterance.

    UserError that lists the ids without `what` in the file `path`.
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
    """Speaker numbers of the enrolment and the test side, each (n,) int64.

    An id is an utterance of data_dir/utt2spk or, on the enrolment side, a model of
    data_dir/enroll.spk2utt, whose speaker is that of its first utterance.
    Raises UserError for a missing utt2spk, and one that lists the ids it lacks.
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
