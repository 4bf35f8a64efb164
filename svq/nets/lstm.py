"""Recurrent networks: an LSTM over short windows, whose embeddings are averaged."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from svq.nets.tdnn import at_least


class GE2ELSTM(nn.Module):
    """LSTM layers over windows of 1.6 s: Wan et al., "Generalized end-to-end loss for speaker verification", 2018, 3.1.

    The last state of a window goes through a linear layer and a ReLU and is scaled to length 1; the embedding is the mean
    over the windows, scaled to length 1. This is the network of Resemblyzer (resemblyzer/voice_encoder.py), without the
    two numbers of its loss: 1,423,616 parameters. Only whole windows count, and features of less than one window are
    lengthened by their first and last frame. The front end `resemblyzer` ends with the last window.

    Args:
        feat_dim: mel channels F of the input (B, T, F).
        embed_dim: size D of the embedding (B, D), which has length 1.
        width: units of each LSTM layer.
        layers: LSTM layers.
        window: frames of a window.
        hop: frames from the start of a window to that of the next.
    """

    def __init__(self, feat_dim: int = 40, embed_dim: int = 256, width: int = 256, layers: int = 3, window: int = 160,
                 hop: int = 77):
        super().__init__()
        self.least_frames, self.hop = window, hop
        self.lstm = nn.LSTM(feat_dim, width, layers, batch_first=True)
        self.embedding = nn.Linear(width, embed_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes embeddings (B, D) of length 1 from features (B, T, F)."""
        window = self.least_frames
        x = at_least(x.transpose(1, 2), window).transpose(1, 2)
        starts = torch.arange(0, x.shape[1] - window + 1, self.hop, device=x.device)
        frames = (starts[:, None] + torch.arange(window, device=x.device)).flatten()
        _, (states, _) = self.lstm(x.index_select(1, frames).reshape(-1, window, x.shape[2]))
        vectors = F.normalize(F.relu(self.embedding(states[-1])), dim=1)
        return F.normalize(vectors.reshape(x.shape[0], -1, vectors.shape[1]).mean(dim=1), dim=1)


NETWORKS = {"GE2ELSTM": GE2ELSTM}
