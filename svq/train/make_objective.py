"""What a run learns from: labels, a teacher beside the student, a teacher's cached levels."""

from __future__ import annotations

from svq.config import to_dict
from svq.data.dataset import TrainSet
from svq.distill.objective import EmbeddingObjective, Teacher
from svq.distill.targets import Targets
from svq.errors import UserError
from svq.models import load_model
from svq.train.config import TrainConfig
from svq.train.folders import take_head
from svq.train.heads import AAMSoftmax
from svq.train.objective import Objective


def make_head(config: TrainConfig, options, train_set: TrainSet) -> AAMSoftmax | None:
    """The classifier, that of --init where there is one; None where nothing can come of it.

    That is where the network learns without labels and every utterance has a speaker of its own, which is
    how Kaldi's data directories say that speakers are not known.
    """
    if config.distill is not None and config.distill.without_labels and train_set.num_speakers == len(train_set):
        return None
    head = AAMSoftmax(config.model.embed_dim, train_set.num_speakers, config.scale)
    if options.init:
        take_head(head, options.init, train_set)
    return head


def make_objective(config: TrainConfig, net, head: AAMSoftmax | None, options, train_set: TrainSet):
    """The teacher that runs beside the student (None: there is none, or its cached levels do) and what to minimize."""
    if options.teacher is None:
        return None, Objective(net, head)
    teacher_net, model = load_model(options.teacher)
    distill, targets = config.distill, config.distill.targets
    if model.front_end != config.model.front_end:
        check_front_ends(config, options.teacher, model)
    teacher = None
    if targets is None or distill.logit_weight > 0:
        teacher_head = None
        if distill.logit_weight > 0:
            teacher_head = AAMSoftmax(model.embed_dim, train_set.num_speakers, config.scale)
            take_head(teacher_head, options.teacher, train_set)
        teacher = Teacher(teacher_net, teacher_head)
    if targets is None:
        return teacher, Objective(net, head, distill, EmbeddingObjective(config.model.embed_dim, model.embed_dim))
    train_set.targets = Targets(options.targets, targets, train_set.keys, options.teacher, teacher_net, model)
    per_frame = train_set.targets.per_frame
    if per_frame and not getattr(net, "has_frame_outputs", False):
        raise UserError(f"{options.config}: {config.model.arch} gives no output for each frame, which levels "
                        f"{', '.join(targets.levels)} are for; take FCStudent of pooling mean, or pool the levels")
    embedding = EmbeddingObjective(config.model.embed_dim, train_set.targets.dim)
    return teacher, Objective(net, head, distill, embedding, per_frame)


def check_front_ends(config: TrainConfig, folder, model) -> None:
    """UserError unless a student may learn from a teacher whose front end is another than its own."""
    front_end = f"{folder}: its front end {to_dict(model.front_end)} is not the student's"
    if config.distill.targets is None or config.distill.logit_weight > 0:
        raise UserError(front_end)
    if not config.distill.targets.other_front_end:
        raise UserError(f"{front_end}; where that is meant, set distill.targets.other_front_end: true")
