"""The config of a network (architecture, options, front end, quantization), and its tensors in safetensors files.

torch is imported only where a network or tensors are made: a config alone does not need it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from svq.atomic import atomic_path
from svq.data.front_end_config import FrontEndConfig
from svq.errors import UserError
from svq.files import require_file
from svq.quant.config import QuantConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

_SAID_ELSEWHERE = ("arch", "feat_dim", "embed_dim", "most")


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed to build a network and to feed it. `net` holds the options of `arch`.

    folded: the batch norms that were folded into the layer before them: name of the norm -> name of the layer.
    Raises ValueError for an embedding size out of range, and for options that no network has.
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
        for name in self.net:
            if not isinstance(name, str) or name in _SAID_ELSEWHERE:
                raise ValueError(f"net: {name!r} is no option of a network")

    def build(self, most: int | None = None) -> nn.Module:
        """Builds the float network, initialised from torch's global random state.

        Raises UserError for a network of unusual sizes that has more numbers than `most` (None: svq.nets.MOST_NUMBERS).
        """
        from svq import nets
        from svq.quant.batchnorm_fold import drop_folded_

        net = nets.build(self.arch, self.front_end.num_mels, self.embed_dim, most or nets.MOST_NUMBERS, **self.net)
        return drop_folded_(net, self.folded) if self.folded else net


def save_tensors(path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes tensors, by name, to the safetensors file `path`, atomically; `metadata` goes into its header."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_tensors(path) -> dict[str, torch.Tensor]:
    """Reads all tensors of a safetensors file, by name. Raises UserError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(require_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a complete safetensors file ({error}); make or copy it again") from None


def load_state(net: nn.Module, state: dict[str, torch.Tensor], where, assign: bool = False) -> None:
    """Loads the tensors of `state`, by name, into `net`, which must have exactly these names and shapes.

    where: the file or folder, for messages. assign: `net`, which may be on the meta device, takes the tensors
    themselves instead of copies. Raises UserError that names what does not fit.
    """
    expected = net.state_dict()
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    if missing or extra:
        raise UserError(f"{where}: weights do not fit the config: missing {missing[:3]}, unexpected {extra[:3]}")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, the config asks for {list(expected[name].shape)}"
            raise UserError(f"{where}: {name} has shape {shapes}")
    net.load_state_dict(state, assign=assign)
