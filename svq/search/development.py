"""What a search makes small: an error in percent on development data, measured on a network in memory."""

from __future__ import annotations

import copy
import os

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.backend.embeddings import unit_length
from svq.backend.identification import accuracy, identify
from svq.backend.metrics import eer
from svq.backend.norm import pair_scores
from svq.backend.scores import read_trials
from svq.backend.segments import IdentifyConfig, embed_segments, plan_segments
from svq.backend.tokens import IdIndex, Tokens
from svq.data.frontend import FrontEnd
from svq.errors import UserError, some_of
from svq.extraction import Utterances, embed
from svq.models import FrontEndConfig


def for_inference(net: nn.Module) -> nn.Module:
    """A copy of `net` in eval mode; `net` itself may go on training.

    Its quantizers stay: a copy shares the class of a quantized layer, and freeze_ would take the weight out of both.
    """
    return copy.deepcopy(net).eval()


def cosine_eer(trials, ids: list[str], vectors: np.ndarray) -> float:
    """EER in percent of `centred_scores`."""
    score = centred_scores(trials, ids, vectors)
    return 100 * eer(score[trials.target], score[~trials.target])


def centred_scores(trials, ids: list[str], vectors: np.ndarray) -> np.ndarray:
    """(n,) cosine scores of trials, after the mean of `vectors` (N, D) is taken off them: no other data is needed.

    trials: svq.backend.scores.Trials with labels; ids: of the rows. UserError naming ids that have no row.
    """
    if trials.target is None:
        raise UserError(f"{trials.path}: no target|nontarget labels")
    index = IdIndex(Tokens.of(ids))
    enroll, test = index.find(trials.enroll), index.find(trials.test)
    lacking = np.unique(np.concatenate([np.array(list(side.take(rows < 0)), dtype=object)
                                        for side, rows in ((trials.enroll, enroll), (trials.test, test))]))
    if len(lacking):
        raise UserError(f"{trials.path}: its data directory has no utterance {some_of(lacking)}")
    rows = unit_length(vectors - vectors.mean(axis=0))
    return pair_scores(rows, rows, enroll, test)


class Eer:
    """EER in percent of a trial list over the utterances of `data_dir`."""

    def __init__(self, data_dir, front_end: FrontEndConfig, trials: str | None = None):
        self.utterances = Utterances(data_dir, front_end)
        self.trials = read_trials(trials or os.path.join(data_dir, "trials"))
        self.data_dir = data_dir

    def __call__(self, net: nn.Module) -> float:
        """net: in eval mode, features (B, T, F) -> embeddings (B, D); UserError naming what has no embedding."""
        found = dict(embed(net, self._on(net), device=str(device_of(net))))
        failed = sorted(key for key, value in found.items() if isinstance(value, UserError))
        if failed:
            raise UserError(f"{self.data_dir}: {len(failed)} of {len(found)} utterances have no embedding: "
                            f"{some_of(failed)}: {found[failed[0]]}")
        ids = sorted(found)
        return cosine_eer(self.trials, ids, np.stack([found[key] for key in ids]))

    def _on(self, net: nn.Module) -> Utterances:
        device = device_of(net)
        self.utterances.device, self.utterances.front_end = str(device), self.utterances.front_end.to(device)
        return self.utterances


class IdentificationError:
    """100 less the top-1 accuracy, in percent, of telling the speakers of `data_dir` apart."""

    def __init__(self, data_dir, front_end: FrontEndConfig, config: IdentifyConfig):
        self.data_dir, self.rate = data_dir, front_end.rate
        self.front_end = FrontEnd(front_end)
        self.plan = plan_segments(data_dir, config, front_end.rate)

    def __call__(self, net: nn.Module) -> float:
        """As of `Eer`."""
        device = device_of(net)
        front_end = self.front_end.to(device)

        def run(waveforms: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return net(front_end(torch.from_numpy(waveforms).to(device))).float().cpu().numpy()

        segments = self.plan.enroll + [segment for _, segment in self.plan.probes]
        with parametrize.cached():
            vectors = embed_segments(self.data_dir, segments, run, self.rate)
        enrolled = len(self.plan.enroll)
        found = identify(vectors[:enrolled], vectors[enrolled:], self.plan.owner)
        return 100 - 100 * accuracy(found.rank)


def device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device
