"""The student's objective against the teacher's embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class DistillConfig:
    """embedding_weight: weight of the embedding loss; label_weight: of the classification loss."""

    embedding_weight: float = 10.0
    label_weight: float = 1.0

    def __post_init__(self):
        if self.embedding_weight < 0 or self.label_weight < 0:
            raise ValueError("embedding_weight and label_weight must not be negative")


class EmbeddingObjective(nn.Module):
    """1 - cosine between the student's embedding and the teacher's, averaged over the batch.

    Embedding-level distillation as in Wang et al., "Knowledge distillation for small foot-print deep
    speaker embedding", ICASSP 2019, section 2.2. A linear map to the teacher's size is learned, and left
    out of the model, when the sizes differ.
    """

    def __init__(self, student_dim: int, teacher_dim: int):
        super().__init__()
        same = student_dim == teacher_dim
        self.projection = nn.Identity() if same else nn.Linear(student_dim, teacher_dim, bias=False)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """(B, D_student), (B, D_teacher) -> scalar in [0, 2]."""
        return 1.0 - F.cosine_similarity(self.projection(student).float(), teacher.float()).mean()
