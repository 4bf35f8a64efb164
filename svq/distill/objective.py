"""A student's objectives against a teacher's embeddings and class posteriors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class TargetsConfig:
    """Cached levels of the teacher to learn from, in place of the teacher's embedding of the student's crop.

    levels: one or several, put side by side: utterance, narrowBN, wideBN, sp_aggr, lde_aggr, or layers by name
    (svq.distill.levels). mean_normalize: whether the mean over the training set is subtracted from each of them first.
    other_front_end: whether the student's front end may differ from the teacher's. Raises ValueError for no level, or
    one named twice.
    """

    levels: tuple[str, ...] = ("utterance",)
    mean_normalize: bool = False
    other_front_end: bool = False

    def __post_init__(self):
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels is {list(self.levels)}; it must name at least one level, and none twice")


@dataclass(frozen=True)
class DistillConfig:
    """Weights of the losses of a student, and the target of its embedding loss.

    embedding_weight: weight of the embedding loss; label_weight: of the classification loss; logit_weight: of the
    divergence from the teacher's class posteriors, both softened by `temperature` (see `soft_label_loss`).
    targets: cached levels; without them the target is the teacher's embedding of the student's crop. Raises ValueError
    for values out of range.
    """

    embedding_weight: float = 10.0
    label_weight: float = 1.0
    logit_weight: float = 0.0
    temperature: float = 4.0
    targets: TargetsConfig | None = None

    def __post_init__(self):
        for name in ("embedding_weight", "label_weight", "logit_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be positive")

    @property
    def without_labels(self) -> bool:
        """Whether the network learns nothing that depends on who speaks."""
        return self.label_weight == 0 and self.logit_weight == 0


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
