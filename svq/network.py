"""A network by its config: architecture, options, front end, and how its weights are quantized."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from svq import nets
from svq.data.frontend import FrontEndConfig
from svq.quant import QuantConfig
from svq.quant.batchnorm_fold import drop_folded_


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a network and feed it. `net` holds the options of `arch`.

    folded: batch norms that were folded into the layer before them: name of the norm -> name of the layer.
    """

    arch: str = "ResNet34"
    net: dict = field(default_factory=dict)
    embed_dim: int = 256
    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    quant: QuantConfig | None = None
    folded: dict | None = None

    def __post_init__(self):
        if not 1 <= self.embed_dim <= 1 << 20:
            raise ValueError(f"embed_dim is {self.embed_dim}; it must be between 1 and {1 << 20}")

    def build(self) -> nn.Module:
        """The float network, initialised from torch's global random state."""
        net = nets.build(self.arch, self.front_end.num_mels, self.embed_dim, **self.net)
        return drop_folded_(net, self.folded) if self.folded else net
