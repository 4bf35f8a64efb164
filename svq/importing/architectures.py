"""Networks that several toolkits write alike, and the rules that say where each of their tensors goes.

ECAPA-TDNN in SpeechBrain's form, which 3D-Speaker shares tensor for tensor: speechbrain/lobes/models/ECAPA_TDNN.py,
speakerlab/models/ecapa_tdnn/ECAPA_TDNN.py. Every convolution and every batch norm lies in a wrapper of its own, hence
names such as blocks.0.conv.conv.weight.

ResNets as WeSpeaker and 3D-Speaker write them: wespeaker/models/resnet.py, speakerlab/models/resnet/ResNet.py: conv1,
bn1, layer1 to layer4, pooling, seg_1 and, with two embedding layers, seg_bn_1 (without scale and shift) and seg_2.

X-vectors as WeSpeaker and 3D-Speaker write them: wespeaker/models/tdnn.py, speakerlab/models/xvector/TDNN.py: frame_1
to frame_5, batch norms without scale and shift, statistics pooling, seg_1 and, in WeSpeaker's, seg_bn_1 and seg_2,
whose output is the embedding.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.importing.poolings import EMBEDDING_RULES, Floors, pooling_of
from svq.nets import resnet as resnets
from svq.nets.resnet import BasicBlock, BottleneckBlock
from svq.network import ModelConfig

ECAPA_MARKS = ("blocks.0.conv.conv.weight", "mfa.conv.conv.weight", "asp.tdnn.conv.conv.weight", "fc.conv.weight")
TENSORS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def ecapa_tdnn(front_end) -> Family:
    """Describes the family ECAPA-TDNN in SpeechBrain's form. front_end: (num_mels, options) -> FrontEndConfig."""

    def plan(state: State, options) -> Plan:
        blocks = count(state, r"blocks\.(\d+)\.")
        if blocks != 4:
            raise ValueError(f"it has {blocks} blocks before the aggregation, not 4")
        channels, num_mels, _ = state["blocks.0.conv.conv.weight"].shape
        wide = state["mfa.conv.conv.weight"].shape[0]
        attention, seen, _ = state["asp.tdnn.conv.conv.weight"].shape
        net = {"channels": channels, "wide": wide, "form": "speechbrain",
               "scale": 1 + count(state, r"blocks\.1\.res2net_block\.blocks\.(\d+)\."),
               "squeeze": state["blocks.1.se_block.conv1.conv.weight"].shape[0], "attention": attention,
               "global_context": seen == 3 * wide}
        arch = "ECAPASpeechBrain512" if channels <= 512 else "ECAPASpeechBrain"
        return Plan(ModelConfig(arch, net, state["fc.conv.weight"].shape[0], front_end(num_mels, options)), ECAPA_RULES)

    return Family("ECAPA_TDNN", ECAPA_MARKS, plan)


def ecapa_layer(theirs: str, ours: str) -> list[Rule]:
    """Gives the rules for a convolution and its batch norm. theirs: a pattern of its name; ours: its name here."""
    return [Rule(rf"{theirs}\.conv\.conv\.{TENSORS}", rf"{ours}.conv.\{theirs.count('(') + 1}"),
            Rule(rf"{theirs}\.norm\.norm\.{TENSORS}", rf"{ours}.bn.\{theirs.count('(') + 1}")]


def ecapa_blocks() -> list[Rule]:
    found = ecapa_layer(r"blocks\.0", "layer1")
    for theirs, ours in ((1, "layer2"), (2, "layer3"), (3, "layer4")):
        found += ecapa_layer(rf"blocks\.{theirs}\.tdnn1", f"{ours}.reduce")
        found += ecapa_layer(rf"blocks\.{theirs}\.tdnn2", f"{ours}.expand")
        found += ecapa_layer(rf"blocks\.{theirs}\.res2net_block\.blocks\.(\d+)", rf"{ours}.res2.parts.\1")
        found += [Rule(rf"blocks\.{theirs}\.se_block\.conv1\.conv\.{TENSORS}", rf"{ours}.se.squeeze.\1"),
                  Rule(rf"blocks\.{theirs}\.se_block\.conv2\.conv\.{TENSORS}", rf"{ours}.se.excite.\1")]
    return found


ECAPA_RULES = [
    *ecapa_blocks(),
    *ecapa_layer("mfa", "mfa"),
    Rule(rf"asp\.tdnn\.conv\.conv\.{TENSORS}", r"pool.linear1.\1"),
    Rule(rf"asp\.tdnn\.norm\.norm\.{TENSORS}", r"pool.bn.\1"),
    Rule(rf"asp\.conv\.conv\.{TENSORS}", r"pool.linear2.\1"),
    Rule(rf"asp_bn\.norm\.{TENSORS}", r"bn.\1"),
    Rule(rf"fc\.conv\.{TENSORS}", r"embedding.\1"),
]


RESNET_MARKS = ("conv1.weight", "bn1.running_mean", "layer4.0.conv1.weight", "layer4.0.conv2.weight", "seg_1.weight")


def resnet(front_end, floors: Floors) -> Family:
    """Describes the family of ResNets in WeSpeaker's form.

    front_end: (num_mels, options) -> FrontEndConfig. floors: of the toolkit's poolings.
    """

    def plan(state: State, options) -> Plan:
        block = BottleneckBlock if "layer1.0.conv3.weight" in state else BasicBlock
        blocks = tuple(count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        width = state["conv1.weight"].shape[0]
        embed_dim = state["seg_1.weight"].shape[0]
        arch = resnet_of(block, blocks)
        num_mels, pooling = pooling_of(state, state["seg_1.weight"], 8 * width * block.expansion, options, floors)
        net = {"width": width, "second_layer": "seg_2.weight" in state, **pooling}
        return Plan(ModelConfig(arch, net, embed_dim, front_end(num_mels, options)), resnet_rules(blocks))

    return Family("ResNet", RESNET_MARKS, plan)


def resnet_of(block, blocks: tuple[int, ...]) -> str:
    """Finds the name of the ResNet with this class and these numbers of blocks; ValueError where there is none."""
    for name, make in resnets.NETWORKS.items():
        if (make.keywords["block"], make.keywords["blocks"]) == (block, blocks):
            return name
    raise ValueError(f"its stages have {', '.join(map(str, blocks))} blocks, which no ResNet known here has")


def resnet_rules(blocks: tuple[int, ...]) -> list[Rule]:
    """Gives the rules for a ResNet with so many blocks a stage. Our blocks are numbered through, theirs by stage."""
    found, number = [], 0
    for stage, total in enumerate(blocks, 1):
        for index in range(total):
            found.append(Rule(rf"layer{stage}\.{index}\.((?:conv|bn|shortcut)[.\d].*)", rf"layers.{number}.\1"))
            number += 1
    return [Rule(r"(conv1|bn1)\.(\w+)", r"\1.\2"), *found, *EMBEDDING_RULES]


X_VECTOR_MARKS = ("frame_1.conv_1d.weight", "frame_5.conv_1d.weight", "seg_1.weight")
X_VECTOR_RULES = [Rule(r"frame_(\d)\.conv_1d\.(\w+)", r"frame\1.conv.\2"), Rule(r"frame_(\d)\.bn\.(\w+)", r"frame\1.bn.\2"),
         Rule(r"seg_(\d)\.(\w+)", r"segment\1.\2"), Rule(r"seg_bn_1\.(\w+)", r"bn.\1")]


def x_vector(front_end, variance_floor: float) -> Family:
    """Describes the family of x-vectors in WeSpeaker's form.

    front_end: (num_mels, options) -> FrontEndConfig. variance_floor: added to variances in the pooling.
    """

    def plan(state: State, options) -> Plan:
        width, num_mels, _ = state["frame_1.conv_1d.weight"].shape
        net = {"width": width, "wide": state["frame_5.conv_1d.weight"].shape[0],
               "segments": 2 if "seg_2.weight" in state else 1, "variance_floor": variance_floor}
        return Plan(ModelConfig("XVector", net, state["seg_1.weight"].shape[0], front_end(num_mels, options)), X_VECTOR_RULES)

    return Family("x-vector", X_VECTOR_MARKS, plan)
