"""What a run minimizes: classification, and the distance to a teacher where there is one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from svq.distill.objective import DistillConfig, EmbeddingObjective, soft_label_loss
from svq.train.heads import AAMSoftmax


class Objective(nn.Module):
    """Network, head and losses as one module, so that DistributedDataParallel wraps them together."""

    def __init__(self, net: nn.Module, head: AAMSoftmax, distill: DistillConfig | None = None,
                 embedding_objective: EmbeddingObjective | None = None):
        super().__init__()
        self.net, self.head = net, head
        self.config = distill
        self.embedding_objective = embedding_objective

    def forward(self, feats: torch.Tensor, labels: torch.Tensor, margin: float,
                teacher: torch.Tensor | None = None,
                teacher_logits: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, T, F), labels (B,), the teacher's embeddings (B, D') and logits (B, C), or None where the
        config does not ask for them -> loss, right answers (both scalar).

        The right answers are counted with the margin on, as the loss sees them.
        """
        embeddings = self.net(feats).float()
        # Cosines in bfloat16 have two digits; times the scale they would be logits rounded to 1/8.
        with torch.autocast(feats.device.type, enabled=False):
            logits = self.head(embeddings, labels, margin)
            loss = F.cross_entropy(logits, labels)
            if self.embedding_objective is not None:
                loss = (self.config.label_weight * loss
                        + self.config.embedding_weight * self.embedding_objective(embeddings, teacher))
                if self.config.logit_weight > 0:
                    plain = self.head(embeddings, labels)  # no margin: posteriors as at test time
                    loss = loss + self.config.logit_weight * soft_label_loss(
                        plain, teacher_logits, self.config.temperature)
        return loss, (logits.argmax(1) == labels).sum()
