"""The fully connected student of multi-level x-vector distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.pooling import StatisticsPooling

POOLINGS = ("mean", "stats")


class FullyConnected(nn.Module):
    """One layer on every frame: affine, ReLU, batch norm; (B, C, T) -> (B, width, T).

    A fully connected layer on single frames is a convolution of kernel 1; on `splice` neighbouring frames put
    together, it is a convolution of that kernel. Frames beyond the ends are zeros, which is the utterance's mean after
    mean normalization.
    """

    def __init__(self, inputs: int, width: int, splice: int = 1):
        super().__init__()
        self.affine = nn.Conv1d(inputs, width, splice, padding=splice // 2)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(F.relu(self.affine(x)))


class FCStudent(nn.Module):
    """Fully connected layers on spliced frames, pooled over time into the utterance's vector.

    Liu, Sahidullah, Kinnunen, "Distilling multi-level x-vector knowledge for small-footprint speaker
    verification", 2023 (arXiv 2303.01125), distil into such a student of 8 layers. What we have of the paper does not
    say its widths, its context or where it pools. Ours are chosen for the paper's sizes: 85 to 91 % smaller than the
    x-vector teacher for targets of one level, about 75 % smaller for concatenations. With 80 mel channels and 11
    spliced frames, beside WeSpeaker's x-vector of 4.61 M (512 dimensions):

    =====  =========  =======  ==========  =======
    width  embedding  pooling  parameters  smaller
    =====  =========  =======  ==========  =======
      192        512  mean        492,992   89.3 %
      192       1500  mean        683,676   85.2 %
      192        512  stats       591,296   87.2 %
      304       1024  mean      1,140,720   75.3 %
      296        512  stats     1,096,008   76.2 %
    =====  =========  =======  ==========  =======

    With `mean` the last layer, which is affine only, still works on frames, and the utterance's vector is the
    mean of its outputs. So each output can be trained towards a frame-level target. With `stats` mean and deviation of
    the last but one layer are pooled first (as in the x-vector), and there is no output for each frame.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D).
        width: units of each hidden layer.
        layers: affine layers altogether, at least 2.
        splice: the odd number of frames that are put together as the first layer's input.
        pooling: `mean` or `stats`.
    """

    def __init__(self, feat_dim: int = 80, embed_dim: int = 512, width: int = 192, layers: int = 8, splice: int = 11,
                 pooling: str = "mean"):
        super().__init__()
        if layers < 2:
            raise ValueError(f"layers is {layers}; a student has at least 2")
        if splice % 2 == 0:
            raise ValueError(f"splice is {splice}; it must be odd, the frame itself and as many on either side")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is '{pooling}'; it must be one of {', '.join(POOLINGS)}")
        self.pooling = pooling
        hidden = [FullyConnected(feat_dim, width, splice)]
        hidden += [FullyConnected(width, width) for _ in range(layers - 2)]
        self.hidden = nn.Sequential(*hidden)
        self.statistics = StatisticsPooling() if pooling == "stats" else None
        self.embedding = nn.Linear(2 * width if pooling == "stats" else width, embed_dim)

    @property
    def has_frame_outputs(self) -> bool:
        """Whether there is an output for each frame (`frame_outputs`), which frame-level targets need."""
        return self.pooling == "mean"

    def frame_outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the output for each frame, whose mean is the embedding: log-mels (B, T, F) -> (B, T, D).

        Raises ValueError for pooling `stats`, which has none.
        """
        if not self.has_frame_outputs:
            raise ValueError("a student of pooling 'stats' has no output for each frame")
        return self.embedding(self.hidden(x.transpose(1, 2)).transpose(1, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D), not length-normalised, from log-mels (B, T, F)."""
        hidden = self.hidden(x.transpose(1, 2))
        if self.statistics is None:  # the mean is taken before the affine layer: the same result, at 1/T of the work
            return self.embedding(hidden.mean(dim=2, dtype=torch.promote_types(hidden.dtype, torch.float32)))
        return self.embedding(self.statistics(hidden))


NETWORKS = {"FCStudent": FCStudent}
