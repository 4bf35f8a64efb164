"""Objectives of training: classification by a head, and the distance to a teacher where there is one.

Heads are not part of the model that is deployed. One is trained; another is made without training, for speakers that a
network was not trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from svq.distill.config import DistillConfig
from svq.distill.objective import EmbeddingObjective, soft_label_loss
from svq.errors import UserError, some_of
from svq.quant.nested import precisions_of, set_precision_


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
    """Computes class weights (C, D), float32 of length 1: for each class the mean direction of its embeddings.

    "Imprinting": Qi, Brown and Lowe, "Low-shot learning with imprinted weights", CVPR 2018, section 3.2: embeddings are
    scaled to length 1, averaged by class, and scaled to length 1 again. With the scale of an AAM softmax, the class
    weights decide as a nearest-mean classifier by cosine would.

    embeddings: pairs of an utterance and its embedding (D,), or an error in its place. labels: class of each utterance.
    Raises UserError that names `source` and lists utterances without an embedding.
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


class Objective(nn.Module):
    """Network, head and losses as one module, so that DistributedDataParallel wraps them together.

    Where the losses of `distill` do not depend on the labels, the head learns to tell the speakers apart by the
    embeddings as they are, without an effect on the network. It serves later steps (finetuning, sensitivity). It may be
    None where labels are of no use.

    A nested network learns for all its precisions in every step, from the mean of their losses. This takes a forward
    and a backward pass for each, as much as training each by itself. Drawing one precision for each step would cost
    less, but then each one's batch norms would see only some of the steps, and the shared weights, with the optimizer's
    momentum and second moments, would go to and fro between the precisions.
    per_frame: whether the teacher's part is frame by frame; the network then gives `frame_outputs`.
    """

    def __init__(self, net: nn.Module, head: AAMSoftmax | None, distill: DistillConfig | None = None,
                 embedding_objective: EmbeddingObjective | None = None, per_frame: bool = False):
        super().__init__()
        self.net, self.head = net, head
        self.config = distill
        self.embedding_objective = embedding_objective
        self.per_frame = per_frame

    def forward(self, feats: torch.Tensor, labels: torch.Tensor, margin: float,
                teacher: torch.Tensor | None = None,
                teacher_logits: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes the loss and the number of right answers (both scalar) of a batch.

        feats: (B, T, F). labels: (B,). teacher: the teacher's embeddings (B, D'), or (B, T, D') per frame.
        teacher_logits: (B, C). Both are None where the config does not ask for them. Right answers are counted with the
        margin on, as the loss sees them. Those of a nested network are of the highest precision, at which it is left.
        """
        precisions = precisions_of(self.net)
        if not precisions:
            return self._minimize(feats, labels, margin, teacher, teacher_logits)
        losses = []
        for bits in precisions:
            set_precision_(self.net, bits)
            loss, right = self._minimize(feats, labels, margin, teacher, teacher_logits)
            losses.append(loss)
        return torch.stack(losses).mean(), right

    def _minimize(self, feats: torch.Tensor, labels: torch.Tensor, margin: float, teacher: torch.Tensor | None,
                  teacher_logits: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes loss and right answers of the network at its present precision."""
        outputs = (self.net.frame_outputs(feats) if self.per_frame else self.net(feats)).float()
        # Cosines in bfloat16 have two digits; times the scale they would give logits rounded to 1/8.
        with torch.autocast(feats.device.type, enabled=False):
            if self.per_frame and outputs.shape[1] != teacher.shape[1]:
                raise UserError(f"the student gives {outputs.shape[1]} frames for a crop, the cached levels have "
                                f"{teacher.shape[1]}; frame-level targets need a student with fbank kaldi")
            embeddings = outputs.mean(dim=1) if self.per_frame else outputs
            if self.embedding_objective is None:
                return self._classify(embeddings, labels, margin)
            taught = self.config.embedding_weight * self.embedding_objective(outputs, teacher)
            if self.probes:
                if self.head is None:
                    return taught, labels.new_zeros(())
                probe, right = self._classify(embeddings.detach(), labels, margin)
                return taught + (probe - probe.detach()), right  # this adds the head's gradient, but not its loss
            loss, right = self._classify(embeddings, labels, margin)
            loss = self.config.label_weight * loss + taught
            if self.config.logit_weight > 0:
                plain = self.head(embeddings, labels)  # no margin: posteriors as at test time
                loss = loss + self.config.logit_weight * soft_label_loss(plain, teacher_logits, self.config.temperature)
        return loss, right

    def _classify(self, embeddings: torch.Tensor, labels: torch.Tensor, margin: float):
        logits = self.head(embeddings, labels, margin)
        return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

    @property
    def probes(self) -> bool:
        """Whether the head only looks on: it learns, but has no effect on the network."""
        return self.config is not None and self.config.without_labels

    def clip_gradients(self, limit: float) -> torch.Tensor:
        """Scales the gradient to length `limit` where it is longer; returns its length before.

        A head that only looks on is clipped separately: it must not shorten the gradient of the network.
        """
        if not self.probes or self.head is None:
            return nn.utils.clip_grad_norm_(self.parameters(), limit)
        looking_on = {id(parameter) for parameter in self.head.parameters()}
        nn.utils.clip_grad_norm_(self.head.parameters(), limit)
        return nn.utils.clip_grad_norm_([p for p in self.parameters() if id(p) not in looking_on], limit)
