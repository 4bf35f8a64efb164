"""ResNets as WeSpeaker and 3D-Speaker write them: the same names for the same tensors.

wespeaker/models/resnet.py, speakerlab/models/resnet/ResNet.py: conv1, bn1, layer1 to layer4, statistics pooling,
seg_1 and, with two embedding layers, seg_bn_1 (without scale and shift) and seg_2.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.nets.resnet import NETWORKS, BasicBlock, BottleneckBlock
from svq.network import ModelConfig

# Mel channels beyond these no speaker verification network is known to have: such a reading is passed over.
MOST_MELS = 128
MARKS = ("conv1.weight", "bn1.running_mean", "layer4.0.conv1.weight", "seg_1.weight")


def family(front_end, variance_floor: float) -> Family:
    """front_end: (num_mels, options) -> FrontEndConfig."""

    def plan(state: State, options) -> Plan:
        block = BottleneckBlock if "layer1.0.conv3.weight" in state else BasicBlock
        blocks = tuple(count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        width = state["conv1.weight"].shape[0]
        embed_dim, statistics = state["seg_1.weight"].shape
        arch = architecture(block, blocks)
        num_mels = mel_channels(statistics, 8 * width * block.expansion, options.num_mels)
        net = {"width": width, "second_layer": "seg_2.weight" in state, "variance_floor": variance_floor}
        return Plan(ModelConfig(arch, net, embed_dim, front_end(num_mels, options)), rules(blocks))

    return Family("ResNet", MARKS, plan)


def mel_channels(statistics: int, channels: int, said: int = 0) -> int:
    """Tell how many mel channels a network with means and deviations in its pooling (TSTP) has.

    statistics: values that its pooling gives. channels: of the last stage, whose frequencies are an eighth of the mel
    channels. said: what the user says, 0: nothing. Their poolings without parameters leave no other trace: means
    (TAP) or deviations (TSDP) alone, which have no network here, give as many values of twice the mel channels.
    Raises ValueError for those, for numbers that do not fit, and where both readings are possible and nothing is said.
    """
    bands, rest = divmod(statistics, channels)
    both, one = 4 * bands, 8 * bands
    if rest or not bands:
        raise ValueError(f"its seg_1 takes {statistics} values, no multiple of the {channels} channels before it")
    if said == one or not said and bands % 2:
        raise ValueError(f"its pooling gives means or deviations alone (TAP or TSDP) of {one} mel channels, where only "
                         "both together (TSTP) are known here")
    if said and (said != both or bands % 2):
        raise ValueError(f"its seg_1 takes {statistics} values, which are not those of --num-mels {said}" +
                         ("" if bands % 2 else f" but of {both}"))
    if not said and one <= MOST_MELS:
        raise ValueError(f"its pooling of {statistics} values may be of means and deviations (TSTP) and {both} mel "
                         f"channels, or of one of the two (TAP or TSDP) and {one}: say which, with --num-mels {both} "
                         f"or --num-mels {one}")
    return both


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
