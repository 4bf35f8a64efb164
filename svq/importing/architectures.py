"""Networks that several toolkits write alike, and the rules that say where each of their tensors goes.

ECAPA-TDNN in SpeechBrain's form, which 3D-Speaker shares tensor for tensor: speechbrain/lobes/models/ECAPA_TDNN.py,
speakerlab/models/ecapa_tdnn/ECAPA_TDNN.py. Every convolution and every batch norm lies in a wrapper of its own, hence
names such as blocks.0.conv.conv.weight.

ResNets as WeSpeaker and 3D-Speaker write them: wespeaker/models/resnet.py, speakerlab/models/resnet/ResNet.py: conv1,
bn1, layer1 to layer4, statistics pooling, seg_1 and, with two embedding layers, seg_bn_1 (without scale and shift) and
seg_2.

X-vectors as WeSpeaker and 3D-Speaker write them: wespeaker/models/tdnn.py, speakerlab/models/xvector/TDNN.py: frame_1
to frame_5, batch norms without scale and shift, statistics pooling, seg_1 and, in WeSpeaker's, seg_bn_1 and seg_2,
whose output is the embedding.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.nets.resnet import RESNETS, BasicBlock, BottleneckBlock
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


# No speaker verification network is known to have more mel channels: a reading with more is ruled out.
MOST_MELS = 128
RESNET_MARKS = ("conv1.weight", "bn1.running_mean", "layer4.0.conv1.weight", "layer4.0.conv2.weight", "seg_1.weight")


def resnet(front_end, variance_floor: float) -> Family:
    """Describes the family of ResNets in WeSpeaker's form.

    front_end: (num_mels, options) -> FrontEndConfig. variance_floor: added to variances in the pooling.
    """

    def plan(state: State, options) -> Plan:
        block = BottleneckBlock if "layer1.0.conv3.weight" in state else BasicBlock
        blocks = tuple(count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        width = state["conv1.weight"].shape[0]
        embed_dim, statistics = state["seg_1.weight"].shape
        arch = resnet_of(block, blocks)
        num_mels = mel_channels(statistics, 8 * width * block.expansion, options.num_mels)
        net = {"width": width, "second_layer": "seg_2.weight" in state, "variance_floor": variance_floor}
        return Plan(ModelConfig(arch, net, embed_dim, front_end(num_mels, options)), resnet_rules(blocks))

    return Family("ResNet", RESNET_MARKS, plan)


def mel_channels(statistics: int, channels: int, said: int = 0) -> int:
    """Finds how many mel channels a ResNet with means and deviations in its pooling (TSTP) has.

    statistics: number of values that its pooling gives. channels: of the last stage, which has an eighth as many
    frequencies as there are mel channels. said: the user's number of mel channels, 0: none. A pooling has no
    parameters and leaves no other trace: with twice the mel channels, means (TAP) or deviations (TSDP) alone give as
    many values, and no network here has such a pooling. ValueError for these, for numbers that do not fit, and where
    both readings are possible and the user has not said which.
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


def resnet_of(block, blocks: tuple[int, ...]) -> str:
    """Finds the name of the ResNet with this class and these numbers of blocks; ValueError where there is none."""
    for name, make in RESNETS.items():
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
    return [Rule(r"(conv1|bn1)\.(\w+)", r"\1.\2"), *found, Rule(r"seg_1\.(\w+)", r"embedding.\1"),
            Rule(r"seg_bn_1\.(\w+)", r"second.1.\1"), Rule(r"seg_2\.(\w+)", r"second.2.\1")]


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
