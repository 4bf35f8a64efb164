"""The schema of distillation, without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TargetsConfig:
    """Vectors that are there before the training, to learn from in place of the teacher's embedding of the crop.

    levels: cached levels of a teacher, put side by side: utterance, narrowBN, wideBN, sp_aggr, lde_aggr, or layers by
    name (svq.distill.levels). Embeddings in files, whoever computed them, are the level utterance. mean_normalize:
    whether the mean over the training set is subtracted from each level, or the embeddings of each file, first.
    length_normalize: whether each is then scaled to length 1, so that all count the same. other_front_end: whether
    frame-level targets may come from a teacher of another front end than the student's. Raises ValueError for no level,
    or one named twice.
    """

    levels: tuple[str, ...] = ("utterance",)
    mean_normalize: bool = False
    length_normalize: bool = True
    other_front_end: bool = False

    def __post_init__(self):
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels is {list(self.levels)}; it must name at least one level, and none twice")


@dataclass(frozen=True)
class DistillConfig:
    """Weights of the losses of a student, and the target of its embedding loss.

    embedding_weight: weight of the embedding loss; label_weight: of the classification loss; logit_weight: of the
    divergence from the teacher's class posteriors, both softened by `temperature` (see `soft_label_loss`).
    targets: cached levels, or embeddings in files; without them the target is the teacher's embedding of the student's crop. Raises ValueError
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
