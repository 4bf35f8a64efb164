"""The blocks of a network: what is quantized, measured and left in float together."""

from __future__ import annotations

from collections import Counter

from torch import nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)  # what has weights to quantize
LISTS = (nn.Sequential, nn.ModuleList)  # say nothing but "one after another": their members are blocks
LEVELS = ("block", "layer")


def blocks_of(net: nn.Module, level: str = "block") -> dict[str, list[str]]:
    """Name of each block -> names of its convolution and linear layers, both in the order of the network.

    level `block`: a layer belongs to the outermost module that it lies in, where that is a plain list of modules to
    the member of the list, and so on. Of an ECAPA-TDNN that makes the first layer (`layer1`), three SE-Res2Blocks
    (`layer2` to `layer4`), the aggregation (`mfa`), `pool` and `embedding`; of a ResNet the stem (`conv1`), every
    residual block (`layers.0`, ...) and `embedding`. level `layer`: every layer by itself.
    Every layer is in just one block. ValueError for another level.
    """
    if level not in LEVELS:
        raise ValueError(f"level is '{level}'; it must be one of {', '.join(LEVELS)}")
    blocks: dict[str, list[str]] = {}
    for name, module in net.named_modules():
        # The class of a quantized layer is made on the spot, and inherits from that of the layer.
        if isinstance(module, LAYERS):
            blocks.setdefault(name if level == "layer" else _block_of(net, name), []).append(name)
    return blocks


def _block_of(net: nn.Module, layer: str) -> str:
    module, path = net, []
    for part in layer.split("."):
        path.append(part)
        module = module.get_submodule(part)
        if type(module) not in LISTS:  # a subclass, such as a dense block, is more than a list
            break
    return ".".join(path)


def titles_of(net: nn.Module, blocks: dict[str, list[str]]) -> dict[str, str]:
    """What each block is: its class, with a number where the network has several: `SERes2Block 2`."""
    kinds = {name: _class_of(net.get_submodule(name)) for name in blocks}
    total, so_far, titles = Counter(kinds.values()), Counter(), {}
    for name, kind in kinds.items():
        so_far[kind] += 1
        titles[name] = f"{kind} {so_far[kind]}" if total[kind] > 1 else kind
    return titles


def _class_of(module: nn.Module) -> str:
    # Of a quantized layer the class of the layer, not the one that torch derives from it.
    return next((kind.__name__ for kind in LAYERS if isinstance(module, kind)), type(module).__name__)
