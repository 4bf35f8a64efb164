"""A small recurrent network, and the same network with quantized weights put in by hand."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from svq import nets
from svq.quant import quantized_layers

FEATS, EMBED = 10, 6
KINDS = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")


class Recurrent(nn.Module):
    """Features (B, T, F) -> embeddings (B, D): a recurrent module, the mean over frames, a linear layer."""

    def __init__(self, feat_dim: int = FEATS, embed_dim: int = EMBED, kind: str = "LSTM", hidden: int = 8,
                 layers: int = 1, bidirectional: bool = False, projection: int = 0, batch_first: bool = True,
                 bias: bool = True):
        super().__init__()
        if kind.endswith("Cell"):
            self.rnn = getattr(nn, kind)(feat_dim, hidden, bias)
        else:
            more = {"proj_size": projection} if projection else {}
            self.rnn = getattr(nn, kind)(feat_dim, hidden, layers, bias=bias, batch_first=batch_first,
                                         bidirectional=bidirectional, **more)
        self.embedding = nn.Linear((projection or hidden) * (1 + bidirectional), embed_dim)

    def forward(self, x):
        return self.embedding(self.sequence(x).mean(1))

    def sequence(self, x):
        if isinstance(self.rnn, nn.RNNBase):
            if self.rnn.batch_first:
                return self.rnn(x)[0]
            return self.rnn(x.transpose(0, 1))[0].transpose(0, 1)
        state, found = None, []
        for frame in x.unbind(1):
            state = self.rnn(frame, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)


def register(monkeypatch) -> str:
    """Makes `Recurrent` known to configs; returns the architecture's name."""
    monkeypatch.setitem(nets.ARCHITECTURES, "Recurrent", Recurrent)
    return "Recurrent"


def recurrent(seed: int = 0, **options) -> Recurrent:
    torch.manual_seed(seed)
    return Recurrent(**options).eval()


def feats(batch: int = 3, frames: int = 12, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, FEATS, generator=torch.Generator().manual_seed(seed))


def by_hand(net: nn.Module, plain: nn.Module) -> nn.Module:
    """A copy of `plain`, the float network that `net` was quantized from, with the level nearest to each weight."""
    made, layers = copy.deepcopy(plain), quantized_layers(net)
    parameters = dict(made.named_parameters())
    for layer in layers:
        levels = layer.levels if layer.levels.ndim == 1 else layer.levels[:, None]
        nearest = np.abs(layer.weight[..., None] - levels).argmin(-1)
        values = np.take_along_axis(np.broadcast_to(levels, (*layer.weight.shape, levels.shape[-1])),
                                    nearest[..., None], -1)[..., 0]
        weight = parameters.get(layer.name, parameters.get(f"{layer.name}.weight"))
        weight.data = torch.from_numpy(values.copy()).to(weight)
    return made
