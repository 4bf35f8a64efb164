"""A few stretches of speech that say what goes through a network."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from svq.data.extraction import Utterances
from svq.errors import UserError

_CHOICE = 5  # keeps this random stream apart from those of crops, batch orders and probes


def calibration_features(data_dir, front_end, utterances: int = 64, crop_seconds: float = 3.0, seed: int = 1,
                         input: str = "auto") -> torch.Tensor:
    """(B, T, F) float32: of B = `utterances` of a data directory (all where it has fewer) one stretch each.

    Which ones and where they begin depends on `seed` alone. The features are those of extraction, normalised over the
    whole utterance; one that is shorter than `crop_seconds` is repeated. UserError naming an utterance that cannot be
    read.
    """
    source = Utterances(data_dir, front_end, input)
    rng = np.random.default_rng([_CHOICE, seed])
    source.order = rng.permutation(len(source))[:utterances]
    frames = max(1, source.front_end.bank.num_frames(round(crop_seconds * front_end.rate)))
    crops = []
    for key, feats in source:
        if isinstance(feats, UserError):
            raise UserError(f"{data_dir}: {key}: {feats}")
        if len(feats) < frames:
            feats = feats.repeat(-(-frames // len(feats)), 1)
        start = int(rng.integers(len(feats) - frames + 1))
        crops.append(feats[start : start + frames])
    if not crops:
        raise UserError(f"{data_dir}: no utterances; give a data directory that has some")
    return torch.stack(crops)


def digest_of(feats: torch.Tensor) -> str:
    """Of the values of features, wherever they were read."""
    return hashlib.blake2b(feats.numpy().tobytes(), digest_size=16).hexdigest()
