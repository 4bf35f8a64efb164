"""The blocks of a network: groups of layers that are quantized, measured or left in float together."""

from __future__ import annotations

from collections import Counter

from torch import nn
from torch.nn.utils import parametrize

from svq.names import BLOCK_LEVELS

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)  # modules whose `weight` is quantized
RECURRENT = (nn.RNNBase, nn.RNNCellBase)  # modules with several matrices, each of which is a layer by itself
LISTS = (nn.Sequential, nn.ModuleList)  # plain lists of modules: their members are blocks


def blocks_of(net: nn.Module, level: str = "block") -> dict[str, list[str]]:
    """Maps the name of each block of `net` to the names of its layers, both in the order of the network.

    Layers are convolutions, linear layers and matrices of recurrent modules; each is in just one block. level `block`:
    a layer belongs to the outermost module around it; where that is a plain list of modules, to the member of the list,
    and so on. The blocks of an ECAPA-TDNN are the first layer (`layer1`), three SE-Res2Blocks (`layer2` to `layer4`),
    the aggregation (`mfa`), `pool` and `embedding`; those of a ResNet the stem (`conv1`), every residual block
    (`layers.0`, ...) and `embedding`. level `layer`: every layer is a block by itself. Raises ValueError for another
    level.
    """
    if level not in BLOCK_LEVELS:
        raise ValueError(f"level is '{level}'; it must be one of {', '.join(BLOCK_LEVELS)}")
    blocks: dict[str, list[str]] = {}
    for name, module in net.named_modules():
        for layer in _layers_of(name, module):
            blocks.setdefault(layer if level == "layer" else _block_of(net, name), []).append(layer)
    return blocks


def _layers_of(name: str, module: nn.Module) -> list[str]:
    # isinstance, because torch derives the class of a quantized layer from that of the float one.
    if isinstance(module, LAYERS):
        return [name]
    return [layer for layer, _ in recurrent_weights(name, module)]


def recurrent_weights(name: str, module: nn.Module) -> list[tuple[str, str]]:
    """Lists the matrices of a recurrent module, each by its names in the network and in the module; none of others.

    name: that of `module` in its network. An example is (rnn.weight_ih_l0, weight_ih_l0). Matrices are in the module's
    own order; biases are left out.
    """
    if not isinstance(module, RECURRENT):
        return []
    names = module._flat_weights_names if isinstance(module, nn.RNNBase) else ("weight_ih", "weight_hh")
    return [(f"{name}.{tensor}" if name else tensor, tensor) for tensor in names if tensor.startswith("weight_")]


def module_of(net: nn.Module, layer: str) -> str:
    """Names the module that computes with a layer: the layer itself, or the recurrent module whose matrix it is."""
    parent = layer.rpartition(".")[0]
    matrices = recurrent_weights(parent, net.get_submodule(parent))
    return parent if any(layer == name for name, _ in matrices) else layer


def _block_of(net: nn.Module, name: str) -> str:
    module, path = net, []
    for part in name.split("."):
        path.append(part)
        module = module.get_submodule(part)
        if type(module) not in LISTS:  # a subclass, such as a dense block, is more than a list
            break
    return ".".join(path)


def titles_of(net: nn.Module, blocks: dict[str, list[str]]) -> dict[str, str]:
    """Titles each block by its class, with a number where the network has several: `SERes2Block 2`."""
    kinds = {name: _class_of(net.get_submodule(module_of(net, name))) for name in blocks}
    total, so_far, titles = Counter(kinds.values()), Counter(), {}
    for name, kind in kinds.items():
        so_far[kind] += 1
        titles[name] = f"{kind} {so_far[kind]}" if total[kind] > 1 else kind
    return titles


def _class_of(module: nn.Module) -> str:
    # For a quantized layer, this is the class of the float one, not the class that torch derives from it.
    own = parametrize.type_before_parametrizations(module)
    return next((kind.__name__ for kind in LAYERS if isinstance(module, kind)), own.__name__)
