"""Classification heads for training; they are not part of the model that is deployed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


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
