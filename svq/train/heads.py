"""Classification heads: one for training, and one for speakers that a network was not trained on, without training.

They are not part of the model that is deployed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from svq.errors import UserError, some_of


class AAMSoftmax(nn.Module):
    """Additive angular margin softmax (Deng et al., "ArcFace", CVPR 2019, eq. 3).

    Embeddings (B, D) and labels (B,) -> logits (B, classes) for the cross entropy: scale * cos(theta),
    with cos(theta + margin) for the label's class. Where theta + margin would pass pi the logit goes on
    falling linearly (cos(theta) - margin * sin(margin)), as in the authors' code, so that it stays monotone.
    """

    def __init__(self, embed_dim: int, classes: int, scale: float = 32.0):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, embed_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
        cosine = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight))
        if margin == 0:
            return self.scale * cosine
        target = cosine.gather(1, labels[:, None])
        sine = (1.0 - target.square()).clamp_min(1e-12).sqrt()
        shifted = target * math.cos(margin) - sine * math.sin(margin)
        linear = target - margin * math.sin(margin)
        shifted = torch.where(target > math.cos(math.pi - margin), shifted, linear)
        return self.scale * cosine.scatter(1, labels[:, None], shifted)


def imprinted(embeddings: Iterable[tuple[str, np.ndarray | UserError]], labels: dict[str, int], classes: int,
              source="data") -> torch.Tensor:
    """Class weights (C, D) float32 of length 1: of each class the mean direction of its embeddings.

    "Imprinting": Qi, Brown and Lowe, "Low-shot learning with imprinted weights", CVPR 2018, section 3.2: every
    embedding at length 1, their mean by class, at length 1 again. With the scale of an AAM softmax the class weights
    say what a nearest-mean classifier by cosine would.

    embeddings: (utterance, (D,)), or an error in its place. labels: of every utterance.
    UserError that lists, with `source`, utterances that have no embedding.
    """
    sums, failed = None, []
    for key, vector in embeddings:
        if isinstance(vector, UserError):
            failed.append(f"{key} ({vector})")
            continue
        vector = np.asarray(vector, dtype=np.float64)
        if sums is None:
            sums = np.zeros((classes, len(vector)))
        sums[labels[key]] += vector / max(np.linalg.norm(vector), 1e-12)
    if failed:
        raise UserError(f"{source}: {len(failed)} utterances have no embedding: {some_of(sorted(failed), 3)}")
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return torch.from_numpy(sums / np.maximum(lengths, 1e-12)).float()
