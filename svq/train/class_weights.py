"""A classifier for speakers that a network was not trained on, without training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from svq.errors import UserError, some_of


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
