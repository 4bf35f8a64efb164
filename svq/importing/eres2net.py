"""ERes2Nets as 3D-Speaker and WeSpeaker write them, and the rules that say where each of their tensors goes.

speakerlab/models/eres2net/ERes2Net.py, ERes2Net_huge.py and ERes2NetV2.py, wespeaker/models/eres2net.py: conv1, bn1,
layer1 to layer4, one downsampling and one fusion for each stage that is fused, pooling, seg_1 and, with two
embedding layers, seg_bn_1 (without scale and shift) and seg_2. WeSpeaker names the first convolution of a block with
fusions, and its batch norm, apart from the others.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.importing.poolings import EMBEDDING_RULES, Floors, pooling_of
from svq.nets.eres2net import FUSED_BLOCKS, STAGES
from svq.network import ModelConfig

MARKS = ("layer1.0.convs.0.weight", "layer4.0.fuse_models.0.local_att.0.weight", "layer3.0.conv1.weight",
         "layer4.0.conv3.weight", "conv1.weight", "seg_1.weight")
APART = "layer4.0.conv2_1.weight"  # the first convolution of a block, where it is named apart
FUSION = {"0": "squeeze", "1": "bn1", "3": "excite", "4": "bn2"}  # by their place in local_att
# Names of the downsampling and the fusion, by version and by the stage that they lead into.
BETWEEN = {1: {2: ("layer1_downsample", "fuse_mode12"), 3: ("layer2_downsample", "fuse_mode123"),
               4: ("layer3_downsample", "fuse_mode1234")},
           2: {4: ("layer3_ds", "fuse34")}}


def eres2net(front_end, floors: Floors, version: int = 1) -> Family:
    """Describes the family ERes2Net, or ERes2NetV2 with `version=2`.

    front_end: (num_mels, options) -> FrontEndConfig. floors: of the toolkit's poolings.
    """
    between = [f"{BETWEEN[version][4][0]}.weight", f"{BETWEEN[version][4][1]}.local_att.0.weight"]

    def plan(state: State, options) -> Plan:
        blocks = tuple(count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        if blocks != STAGES:
            raise ValueError(f"its stages have {blocks} blocks, not {STAGES}")
        width = state["conv1.weight"].shape[0]
        outputs, inside = state["layer4.0.conv3.weight"].shape[:2]
        group = state["layer4.0.fuse_models.0.local_att.3.weight"].shape[0]
        expansion, scale = outputs // (8 * width), inside // group
        embed_dim = state["seg_1.weight"].shape[0]
        num_mels, pooling = pooling_of(state, state["seg_1.weight"], outputs, options, floors)
        # Whatever is rounded down to the same groups in all stages makes the same network; the least is taken.
        net = {"width": width, "base_width": -(-8 * group // width), "scale": scale, "expansion": expansion,
               "second_layer": "seg_2.weight" in state, **pooling}
        model = ModelConfig(name_of(version, width, expansion), net, embed_dim, front_end(num_mels, options))
        return Plan(model, rules(version, scale if APART in state else 0))

    return Family("ERes2Net" if version == 1 else "ERes2NetV2", (*MARKS, *between), plan)


def name_of(version: int, width: int, expansion: int) -> str:
    """Chooses the published network that is nearest in its sizes; its other sizes are options."""
    if version == 2:
        return "ERes2NetV2w24s4ep4" if expansion >= 4 else "ERes2NetV2"
    return "ERes2NetHuge" if expansion >= 4 else "ERes2NetLarge" if width >= 64 else "ERes2NetBase"


def rules(version: int, apart: int) -> list[Rule]:
    """Gives the rules for an ERes2Net of that version.

    apart: number of groups in a block where the first one's convolution is named apart (WeSpeaker), else 0.
    """
    found = [Rule(r"(conv1|bn1)\.(\w+)", r"\1.\2"), *EMBEDDING_RULES,
             Rule(r"(layer\d\.\d)\.((?:conv|bn)[13]|shortcut\.\d)\.(\w+)", r"\1.\2.\3")]
    fused = "".join(map(str, FUSED_BLOCKS))
    for kind in ("conv", "bn") if apart else ():
        found.append(Rule(rf"(layer[{fused}]\.\d)\.{kind}2_1\.(\w+)", rf"\1.{kind}s.0.\2"))
        found += [Rule(rf"(layer[{fused}]\.\d)\.{kind}s\.{index}\.(\w+)", rf"\1.{kind}s.{index + 1}.\2")
                  for index in range(apart - 1)]
    found.append(Rule(r"(layer\d\.\d)\.(convs|bns)\.(\d+)\.(\w+)", r"\1.\2.\3.\4"))
    for place, ours in FUSION.items():
        found.append(Rule(rf"(layer\d\.\d)\.fuse_models\.(\d+)\.local_att\.{place}\.(\w+)",
                          rf"\1.fusions.\2.{ours}.\3"))
        found += [Rule(rf"{fuse}\.local_att\.{place}\.(\w+)", rf"fuse{stage}.{ours}.\1")
                  for stage, (_, fuse) in BETWEEN[version].items()]
    return found + [Rule(rf"{down}\.(\w+)", rf"down{stage}.\1") for stage, (down, _) in BETWEEN[version].items()]
