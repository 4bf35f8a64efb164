"""ResNets as WeSpeaker and 3D-Speaker write them: the same names for the same tensors.

wespeaker/models/resnet.py, speakerlab/models/resnet/ResNet.py: conv1, bn1, layer1 to layer4, statistics pooling,
seg_1 and, with two embedding layers, seg_bn_1 (without scale and shift) and seg_2.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.models import ModelConfig
from svq.nets.resnet import NETWORKS, BasicBlock, BottleneckBlock

MARKS = ("conv1.weight", "bn1.running_mean", "layer4.0.conv1.weight", "seg_1.weight")


def family(front_end, variance_floor: float) -> Family:
    """front_end: (num_mels, options) -> FrontEndConfig."""

    def plan(state: State, options) -> Plan:
        block = BottleneckBlock if "layer1.0.conv3.weight" in state else BasicBlock
        blocks = tuple(count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        width = state["conv1.weight"].shape[0]
        embed_dim, statistics = state["seg_1.weight"].shape
        bands = statistics // (2 * 8 * width * block.expansion)
        net = {"width": width, "second_layer": "seg_2.weight" in state, "variance_floor": variance_floor}
        config = front_end(options.num_mels or 8 * bands, options)
        return Plan(ModelConfig(architecture(block, blocks), net, embed_dim, config), rules(blocks))

    return Family("ResNet", MARKS, plan)


def architecture(block, blocks: tuple[int, ...]) -> str:
    """The name of the ResNet of these blocks; ValueError where there is none."""
    for name, make in NETWORKS.items():
        if (make.keywords["block"], make.keywords["blocks"]) == (block, blocks):
            return name
    raise ValueError(f"its stages have {', '.join(map(str, blocks))} blocks, which no ResNet known here has")


def rules(blocks: tuple[int, ...]) -> list[Rule]:
    """Our blocks are numbered through, theirs by stage."""
    found, number = [], 0
    for stage, total in enumerate(blocks, 1):
        for index in range(total):
            found.append(Rule(rf"layer{stage}\.{index}\.((?:conv|bn|shortcut)[.\d].*)", rf"layers.{number}.\1"))
            number += 1
    return [Rule(r"(conv1|bn1)\.(\w+)", r"\1.\2"), *found, Rule(r"seg_1\.(\w+)", r"embedding.\1"),
            Rule(r"seg_bn_1\.(\w+)", r"second.1.\1"), Rule(r"seg_2\.(\w+)", r"second.2.\1")]
