"""Measures networks on a development list: its utterances and trials, embeddings computed once, error rates."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch

from svq.atomic import remove_leftovers
from svq.backend.bootstrap import speaker_bootstrap
from svq.backend.embeddings import unit_length
from svq.backend.metrics import eer_of
from svq.backend.scores import read_trials
from svq.backend.scoring import pair_scores
from svq.data.ids import IdIndex
from svq.data.words import read_columns
from svq.data.extraction import Utterances, embed
from svq.errors import UserError, some_of
from svq.files import fingerprint
from svq.network import load_tensors, save_tensors
from svq.progress import progress

P_TARGET = 0.01


class DevelopmentList:
    """A trial list of utterances of one data directory, all of it or a subset.

    max_utts: how many utterances are drawn, with `seed`, evenly over the speakers; 0 takes all that occur in the list.
    Only trials between these utterances are kept. ids: the utterances (N,), sorted. enroll, test: (n,) positions among
    them. target: (n,) bool. speaker: (N,) numbers.
    UserError for ids that are not in utt2spk, and where no target or no non-target trial is left.
    """

    def __init__(self, data_dir, trials, max_utts: int = 0, seed: int = 0):
        self.data_dir = str(data_dir)
        listed = read_trials(trials)
        path = Path(data_dir) / "utt2spk"
        utterances, speakers = read_columns(path, (2,))
        enroll, test = IdIndex(utterances, path).require("speaker", path, listed.enroll, listed.test)
        names = np.array([utterances[i] for i in range(len(utterances))])
        number = np.unique([speakers[i] for i in range(len(speakers))], return_inverse=True)[1]
        used = np.unique(np.concatenate([enroll, test]))
        chosen = used[np.argsort(names[used], kind="stable")]
        if max_utts:
            chosen = _spread(chosen, number, max_utts, seed)
        place = np.full(len(names), -1)
        place[chosen] = np.arange(len(chosen))
        kept = (place[enroll] >= 0) & (place[test] >= 0)
        self.ids, self.speaker = [str(name) for name in names[chosen]], number[chosen]
        self.enroll, self.test, self.target = place[enroll][kept], place[test][kept], listed.target[kept]
        for kind, count in (("target", self.target.sum()), ("non-target", (~self.target).sum())):
            if not count:
                raise UserError(f"{trials}: no {kind} trials among {len(chosen)} utterances; take more of them")

    def describe(self) -> str:
        """Says how many utterances, speakers and trials the list has."""
        return (f"{len(self.ids)} utterances of {len(np.unique(self.speaker))} speakers, "
                f"{int(self.target.sum())} target and {int((~self.target).sum())} non-target trials")

    def cosines(self, vectors: np.ndarray, center: bool = True) -> np.ndarray:
        """Computes the cosine scores (n,) of the trials from the utterances' embeddings (N, D).

        center: subtracts the embeddings' own mean first.
        """
        x = unit_length(vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32) if center else vectors)
        return pair_scores(x, x, self.enroll, self.test)

    def only(self, utterances: Utterances) -> Utterances:
        """Makes `utterances`, of the data directory, read only those of the list; gives it back."""
        listed = np.isin(utterances.keys, self.ids)
        utterances.order = utterances.order[listed[utterances.order]]  # only the order says what is read
        return utterances

    def embeddings(self, net, utterances: Utterances, batch_frames: int = 4000, device: str = "cpu",
                   title: str = "extract") -> np.ndarray:
        """Computes the embeddings by `net`, (N, D) float32 in the order of the ids. UserError lists those that fail."""
        found = dict(progress(embed(net, utterances, batch_frames, device), len(self.ids), title))
        failed = sorted(key for key, result in found.items() if isinstance(result, UserError))
        if failed:
            raise UserError(f"{self.data_dir}: {len(failed)} of {len(found)} utterances have no embedding: "
                            f"{some_of(failed)}; the first: {found[failed[0]]}")
        return np.stack([found[key] for key in self.ids])


def _spread(rows: np.ndarray, speaker: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws `count` of `rows`, kept in order: one of each speaker, then another of each, until there are enough."""
    drawn = np.random.default_rng(seed).permutation(len(rows))
    so_far: dict[int, int] = {}
    turn = np.empty(len(rows), dtype=np.int64)
    for i in drawn:
        turn[i] = so_far[speaker[rows[i]]] = so_far.get(speaker[rows[i]], -1) + 1
    return rows[np.sort(drawn[np.argsort(turn[drawn], kind="stable")][:count])]


class EmbeddingStore:
    """Embeddings of a list's utterances by variants of one network, each computed once and kept in a folder.

    A file's name is a digest of the network, the settings and the places that utterances are read from. So a run that
    was killed goes on, and one with other settings does not mix with it. Changes of recordings, features or code are
    not noticed here. The steps then remove the folder (`fresh` of utils/step.sh); whoever works by hand must do so.
    Only one process at a time may write there. base: a digest of the model's files, which tells networks apart.
    front_end: a FrontEndConfig. UserError lists utterances without an embedding.
    """

    def __init__(self, folder, listed: DevelopmentList, front_end, base: str, input: str = "auto",
                 max_seconds: float = 0.0, batch_frames: int = 4000, device: str = "cpu"):
        self.folder, self.listed, self.batch_frames, self.device = folder, listed, batch_frames, device
        self.utterances = listed.only(Utterances(listed.data_dir, front_end, input, max_seconds=max_seconds,
                                                 device=device))
        places = [self.utterances.table.value(self.utterances.lines[i]) for i in np.sort(self.utterances.order)]
        self.base = fingerprint(base, listed.ids, places, self.utterances.feats, max_seconds, batch_frames, device)

    def path(self, variant) -> str:
        """Gives the file of a variant's embeddings. variant: the parts that are quantized and how; a value for JSON."""
        return os.path.join(self.folder, f"{fingerprint(self.base, variant)}.safetensors")

    def get(self, variant, make, title: str = "extract") -> np.ndarray:
        """Gives a variant's embeddings, (N, D) float32 in the order of the list's ids, and keeps them.

        make: () -> the network; it is called where they are not there yet. UserError where the file holds others.
        """
        path = self.path(variant)
        if not os.path.exists(path):
            remove_leftovers(path)
            save_tensors(path, {"embeddings": torch.from_numpy(self._compute(make(), title))})
        found = load_tensors(path).get("embeddings")
        if found is None or found.shape[0] != len(self.listed.ids):
            raise UserError(f"{path}: not the embeddings of this list; remove the file")
        return found.numpy()

    def _compute(self, net, title: str) -> np.ndarray:
        return self.listed.embeddings(net, self.utterances, self.batch_frames, self.device, title)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The error rates of a network: eer in per cent, mindcf at p_target 0.01.

    eers, mindcfs: (replicates,) the same on resampled speakers.
    """

    eer: float
    mindcf: float
    eers: np.ndarray
    mindcfs: np.ndarray


def measure(listed: DevelopmentList, vectors: np.ndarray, center: bool, replicates: int, seed: int = 0) -> Measured:
    """Measures the error rates of cosine scores between embeddings (N, D) of the list's utterances.

    center: whether their mean is subtracted first. The same seed resamples the same speakers for every network, so
    that differences can be taken sample by sample.
    """
    score = listed.cosines(vectors, center)
    sides = listed.speaker[listed.enroll], listed.speaker[listed.test]
    eers, costs = (speaker_bootstrap(score, listed.target, *sides, measure, replicates=max(replicates, 1), seed=seed)
                   for measure in (eer_of, _cost_of))
    return Measured(100 * eers.value, costs.value, 100 * eers.samples[:replicates], costs.samples[:replicates])


def _cost_of(p_miss: np.ndarray, p_fa: np.ndarray) -> float:
    """Computes the least normalised detection cost of operating points, at P_TARGET (svq.backend.metrics.min_dcf)."""
    return float((P_TARGET * p_miss + (1 - P_TARGET) * p_fa).min() / P_TARGET)


def drifts(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Computes 1 - cosine between the rows of two matrices (N, D), as half the squared distance of rows of length 1.

    Gives (N,) float64. Equal rows give 0, and small values keep their digits.
    """
    one, other = unit_length(before.astype(np.float64)), unit_length(after.astype(np.float64))
    return np.square(one - other).sum(axis=1) / 2
