"""What a search makes small: an error in percent on development data, measured on a network in memory."""

from __future__ import annotations

import copy
import os

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from svq.backend.metrics import eer
from svq.data.extraction import Utterances
from svq.data.frontend import FrontEnd, FrontEndConfig
from svq.evaluation.development import DevelopmentList
from svq.evaluation.identification import IdentifyConfig, accuracy, embed_segments, identify, plan_segments


def for_inference(net: nn.Module) -> nn.Module:
    """A copy of `net` in eval mode; `net` itself may go on training.

    Its quantizers stay: a copy shares the class of a quantized layer, and freeze_ would take the weight out of both.
    """
    return copy.deepcopy(net).eval()


class Eer:
    """EER in percent of a trial list over utterances of `data_dir`, by cosines of embeddings less their own mean."""

    def __init__(self, data_dir, front_end: FrontEndConfig, trials: str | None = None):
        utterances = Utterances(data_dir, front_end)
        self.listed = DevelopmentList(data_dir, trials or os.path.join(data_dir, "trials"))
        self.utterances = self.listed.only(utterances)

    def __call__(self, net: nn.Module) -> float:
        """net: in eval mode, features (B, T, F) -> embeddings (B, D); UserError naming what has no embedding."""
        device = device_of(net)
        self.utterances.device, self.utterances.front_end = str(device), self.utterances.front_end.to(device)
        score = self.listed.cosines(self.listed.embeddings(net, self.utterances, device=str(device)))
        return 100 * eer(score[self.listed.target], score[~self.listed.target])


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
