"""A student's objectives against a teacher's embeddings and class posteriors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class EmbeddingObjective(nn.Module):
    """1 - cosine between the student's output and the teacher's, averaged over the batch.

    Embedding-level distillation as in Wang et al., "Knowledge distillation for small foot-print deep speaker
    embedding", ICASSP 2019, section 2.2. Where sizes differ, a linear map to the teacher's size is learned; it is no
    part of the model.
    """

    def __init__(self, student_dim: int, teacher_dim: int):
        super().__init__()
        same = student_dim == teacher_dim
        self.projection = nn.Identity() if same else nn.Linear(student_dim, teacher_dim, bias=False)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Computes the loss, a scalar in [0, 2], of (B, D_student) against (B, D_teacher).

        Works also frame by frame, for (B, T, D_student) and (B, T, D_teacher); frames where the teacher has no output,
        only zeros, do not count.
        """
        cosine = F.cosine_similarity(self.projection(student).float(), teacher.float(), dim=-1)
        if teacher.dim() == 2:
            return 1.0 - cosine.mean()
        there = (teacher != 0).any(dim=-1)
        return ((1.0 - cosine) * there).sum() / there.sum().clamp_min(1)


class Teacher(nn.Module):
    """A trained network and, where its class posteriors are wanted, its head: (embeddings, labels) -> logits."""

    def __init__(self, net: nn.Module, head: nn.Module | None = None):
        super().__init__()
        self.net, self.head = net, head

    def forward(self, feats: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Computes embeddings (B, D) and logits without margin (B, C) or None; feats: (B, T, F), labels: (B,)."""
        embeddings = self.net(feats).float()
        with torch.autocast(feats.device.type, enabled=False):  # in float32, as the student's logits
            return embeddings, None if self.head is None else self.head(embeddings, labels)


def soft_label_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Computes T^2 KL(teacher || student) of class posteriors at temperature T, averaged over the batch.

    student, teacher: logits (B, C). Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2: T^2
    keeps the size of the gradient about the same for every temperature.
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
