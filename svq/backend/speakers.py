"""Whose trials these are: what a bootstrap over speakers has to know of a trial list."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from svq.backend.metrics import eer, eer_of
from svq.backend.scores import Trials
from svq.backend.tokens import IdIndex, Tokens, read_columns, read_words
from svq.errors import UserError

_TRIES = 100

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
    index = IdIndex(utterances, path)
    number = np.unique(_as_bytes(speakers), return_inverse=True)[1]
    owners, found = _models(Path(data_dir) / "enroll.spk2utt", trials.enroll, index, path, number)
    single, test = index.require("speaker", path, trials.enroll.take(~found), trials.test)
    enroll = np.empty(len(trials), dtype=np.int64)
    enroll[found], enroll[~found] = owners, number[single]
    return enroll, number[test]


def _as_bytes(tokens: Tokens) -> np.ndarray:
    matrix = np.ascontiguousarray(tokens.matrix())
    return matrix.view(f"S{matrix.shape[1]}").reshape(-1)


def _models(path: Path, enroll: Tokens, index: IdIndex, utt2spk: Path, number: np.ndarray):
    """Speaker numbers of the enrolled models, and which trials have one (bool)."""
    if not path.is_file():
        return np.zeros(0, np.int64), np.zeros(len(enroll), bool)
    words, line = read_words(path)
    first = np.flatnonzero(np.diff(line, prepend=-1))
    alone = np.flatnonzero(np.diff(np.append(first, len(line))) < 2)
    if len(alone):
        raise UserError(f"{path}:{int(line[first[alone[0]]]) + 1}: a model without an utterance")
    place = IdIndex(words.take(first), path).find(enroll)
    (utterance,) = index.require("speaker", utt2spk, words.take(first + 1))
    return number[utterance[place[place >= 0]]], place >= 0


class EerInterval:
    """95 % interval of the EER, in percent, from resampled speakers of one trial list.

    The numbers are those of `svq.backend.bootstrap.speaker_bootstrap` to the last bit, some ten
    times sooner: the EER of a replicate lies near that of all trials, so only trials scored in a
    window round it are weighted one by one; the others are counted once per pair of speakers.
    A replicate whose EER falls outside the window is weighed as a whole.

    Each replicate draws as many speakers as there are, with replacement; a target trial weighs as
    often as its speaker was drawn, a non-target trial the product of its two speakers' draws.
    The same seed draws the same speakers for every system, so intervals can be compared.
    """

    def __init__(self, trials: Trials, data_dir, replicates: int, seed: int = 0):
        sides = np.concatenate(trial_speakers(trials, data_dir))
        names, number = np.unique(sides, return_inverse=True)
        enroll, test = number[: len(trials)], number[len(trials) :]
        self.count, self.replicates, self.seed = len(names), replicates, seed
        self.owner = enroll[trials.target]
        pairs = enroll[~trials.target] * self.count + test[~trials.target]
        pairs, self.pair = np.unique(pairs, return_inverse=True)
        self.sides = pairs // self.count, pairs % self.count

    def __call__(self, target, nontarget) -> tuple[float, float]:
        """(low, high) for the scores of this list's target and non-target trials."""
        low, high = interval(self.samples(target, nontarget))
        return 100 * low, 100 * high

    def samples(self, target, nontarget) -> np.ndarray:
        """(replicates,) EERs, from 0 to 1, of the same resampled speakers for every system."""
        part = _Counts(self, target, nontarget, *_window(target, nontarget))
        # Sorting all trials costs more than all replicates within the window: only if need be.
        whole = cache(lambda: _Counts(self, target, nontarget, -np.inf, np.inf))
        rng = np.random.default_rng(self.seed)
        return np.array([self._sample(rng, part, whole) for _ in range(self.replicates)])

    def _sample(self, rng, part: _Counts, whole) -> float:
        for _ in range(_TRIES):
            drawn = np.bincount(rng.integers(0, self.count, self.count), minlength=self.count)
            pairs = drawn[self.sides[0]] * drawn[self.sides[1]]
            if drawn[self.owner].any() and pairs.any():
                value = part.eer(drawn, pairs)
                return whole().eer(drawn, pairs) if value is None else value
        raise UserError(f"{self.count} speakers are too few to resample for an interval of the EER "
                        "(--bootstrap 0 does without)")


def interval(samples) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap samples."""
    tail = (1 - 0.95) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def _window(target, nontarget) -> tuple[float, float]:
    """Scores between which false acceptances and rejections are both under twice the EER and a bit."""
    rate = min(1.0, 2 * eer(target, nontarget) + 0.005)
    return float(np.quantile(nontarget, 1 - rate)), float(np.quantile(target, rate))


class _Counts:
    """Trials by speaker: those below a window, all, and one by one those in the window."""

    def __init__(self, owner: EerInterval, target, nontarget, low: float, high: float):
        targets = (target >= low) & (target <= high)
        nontargets = (nontarget >= low) & (nontarget <= high)
        scores = np.concatenate([target[targets], nontarget[nontargets]])
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        self.first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        self.is_target = order < np.count_nonzero(targets)
        # Where a trial finds its weight: draws of its speaker, or behind these those of its pair.
        places = np.concatenate([owner.owner[targets], owner.count + owner.pair[nontargets]])
        self.place = places[order]
        size = len(owner.sides[0])
        self.all_t = np.bincount(owner.owner, minlength=owner.count)
        self.all_n = np.bincount(owner.pair, minlength=size)
        self.below_t = np.bincount(owner.owner[target < low], minlength=owner.count)
        self.below_n = np.bincount(owner.pair[nontarget < low], minlength=size)

    def eer(self, drawn, pairs) -> float | None:
        """EER under these weights of speakers and of pairs; None if it is not in the window."""
        if not len(self.place):
            return None
        weight = np.concatenate([drawn, pairs])[self.place]
        both = np.add.reduceat(weight, self.first)
        targets = np.add.reduceat(np.where(self.is_target, weight, 0), self.first)
        all_t, all_n = self.all_t @ drawn, self.all_n @ pairs
        below_t = self.below_t @ drawn + np.concatenate([[0], np.cumsum(targets)])
        below_n = self.below_n @ pairs + np.concatenate([[0], np.cumsum(both - targets)])
        p_miss, p_fa = below_t / all_t, (all_n - below_n) / all_n
        if p_miss[0] >= p_fa[0] or p_miss[-1] < p_fa[-1]:
            return None
        return eer_of(p_miss, p_fa)
