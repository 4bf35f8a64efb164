"""Two-dimensional networks of WeSpeaker beside its ResNets, and the rules that say where each of their tensors goes.

wespeaker/models/gemini_dfresnet.py: a stem and the layers between the stages in downsample_layers, the blocks in
stages, pooling and embedding layers as in its ResNets. wespeaker/models/samresnet.py: a ResNet under `front`, attentive
statistics under `pooling`, the embedding layer `bottleneck`. wespeaker/models/repvgg.py: blocks of branches, stage0 to
stage4, as trained (rbr_dense, rbr_1x1 or rbr_dense_dilation, rbr_identity) or merged (rbr_reparam), and `seg`.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.importing.poolings import EMBEDDING_RULES, POOLING_RULES, Floors, pooling_of
from svq.nets import dfresnet, repvgg, simam
from svq.network import ModelConfig


def with_blocks(networks: dict, blocks: tuple[int, ...]) -> list[str]:
    """Lists the networks with these numbers of blocks; ValueError where there is none."""
    found = [name for name, make in networks.items() if make.keywords["blocks"] == blocks]
    if not found:
        raise ValueError(f"its stages have {', '.join(map(str, blocks))} blocks, which no such network known here has")
    return found


def gemini_df_resnet(front_end, floors: Floors) -> Family:
    """Describes the family of Gemini DF-ResNets. front_end: (num_mels, options) -> FrontEndConfig."""

    def plan(state: State, options) -> Plan:
        blocks = tuple(count(state, rf"stages\.{stage}\.(\d+)\.") for stage in range(4))
        arch = with_blocks(dfresnet.GEMINI, blocks)[0]
        width = state["downsample_layers.0.0.weight"].shape[0]
        num_mels, pooling = pooling_of(state, state["seg_1.weight"], 8 * width, options, floors, mels_a_band=16)
        net = {"width": width, "second_layer": "seg_2.weight" in state, **pooling}
        rules, number = [Rule(r"downsample_layers\.0\.0\.(\w+)", r"conv1.\1"),
                         Rule(r"downsample_layers\.0\.1\.(\w+)", r"bn1.\1")], 0
        for stage, total in enumerate(blocks):
            rules += [Rule(rf"downsample_layers\.{stage + 1}\.0\.(\w+)", rf"layers.{number}.conv.\1"),
                      Rule(rf"downsample_layers\.{stage + 1}\.1\.(\w+)", rf"layers.{number}.bn.\1")]
            rules += [Rule(rf"stages\.{stage}\.{index}\.((?:conv|bn)\d\.\w+)", rf"layers.{number + 1 + index}.\1")
                      for index in range(total)]
            number += 1 + total
        return Plan(ModelConfig(arch, net, state["seg_1.weight"].shape[0], front_end(num_mels, options)),
                    [*rules, *EMBEDDING_RULES])

    return Family("Gemini DF-ResNet", ("downsample_layers.0.0.weight", "stages.3.0.conv1.weight", "seg_1.weight"), plan)


def simam_resnet(front_end) -> Family:
    """Describes the family of SimAM-ResNets. front_end: (num_mels, options) -> FrontEndConfig."""

    def plan(state: State, options) -> Plan:
        blocks = tuple(count(state, rf"front\.layer{stage}\.(\d+)\.") for stage in range(1, 5))
        arch = with_blocks(simam.NETWORKS, blocks)[0]
        width, pooled = state["front.conv1.weight"].shape[0], state["pooling.attention.0.weight"].shape[1]
        if pooled % (8 * width):
            raise ValueError(f"its pooling takes {pooled} values, no multiple of the {8 * width} channels before it")
        rules, number = [Rule(r"front\.(conv1|bn1)\.(\w+)", r"\1.\2")], 0
        for stage, total in enumerate(blocks, 1):
            for index in range(total):
                theirs, ours = rf"front\.layer{stage}\.{index}", f"layers.{number}"
                rules += [Rule(rf"{theirs}\.((?:conv|bn)\d\.\w+)", rf"{ours}.\1"),
                          Rule(rf"{theirs}\.downsample\.(\d\.\w+)", rf"{ours}.shortcut.\1")]
                number += 1
        rules += [Rule(r"pooling\.attention\.0\.(\w+)", r"pool.hidden.\1"),
                  Rule(r"pooling\.attention\.2\.(\w+)", r"pool.bn.\1"),
                  Rule(r"pooling\.attention\.3\.(\w+)", r"pool.scores.\1"), Rule(r"bottleneck\.(\w+)", r"embedding.\1")]
        return Plan(ModelConfig(arch, {"width": width}, state["bottleneck.weight"].shape[0],
                                front_end(pooled // width, options)), rules)

    return Family("SimAM-ResNet", ("front.conv1.weight", "front.layer4.0.conv1.weight", "pooling.attention.0.weight",
                                   "bottleneck.weight"), plan)


def rep_vgg(front_end, floors: Floors, merged: bool) -> Family:
    """Describes the family of RepVGGs with branches, or of merged ones. front_end: (num_mels, options) ->
    FrontEndConfig."""
    dense = "rbr_reparam" if merged else "rbr_dense.conv"

    def plan(state: State, options) -> Plan:
        blocks = tuple(count(state, rf"stage{stage}\.(\d+)\.") for stage in range(1, 5))
        widths = tuple(state[f"stage{stage}.0.{dense}.weight"].shape[0] for stage in range(1, 5))
        found = with_blocks(repvgg.NETWORKS, blocks)
        arch = next((name for name in found if repvgg.NETWORKS[name].keywords["widths"] == widths), found[0])
        dilated = state[f"stage0.{dense}.weight"].shape[2] == 5 or "stage0.rbr_dense_dilation.conv.weight" in state
        num_mels, pooling = pooling_of(state, state["seg.weight"], widths[-1], options, floors)
        net = {"widths": widths, "dilated": dilated, "excite": "stage0.se.fc_1.weight" in state, "merged": merged, **pooling}
        rules = [*rep_block("stage0", "conv1")]
        places = [(stage, index) for stage, total in enumerate(blocks, 1) for index in range(total)]
        for number, (stage, index) in enumerate(places):
            rules += rep_block(rf"stage{stage}\.{index}", f"layers.{number}")
        return Plan(ModelConfig(arch, net, state["seg.weight"].shape[0], front_end(num_mels, options)),
                    [*rules, *POOLING_RULES, Rule(r"seg\.(\w+)", r"embedding.\1")])

    return Family("merged RepVGG" if merged else "RepVGG",
                  (f"stage0.{dense}.weight", f"stage4.0.{dense}.weight", "seg.weight"), plan)


def rep_block(theirs: str, ours: str) -> list[Rule]:
    """Gives the rules for a block. theirs: a pattern of its name; ours: its name here."""
    rules = [Rule(rf"{theirs}\.rbr_reparam\.(\w+)", rf"{ours}.conv.\1"),
             Rule(rf"{theirs}\.rbr_identity\.(\w+)", rf"{ours}.identity.\1"),
             Rule(rf"{theirs}\.se\.fc_1\.(\w+)", rf"{ours}.se.squeeze.\1"),
             Rule(rf"{theirs}\.se\.fc_2\.(\w+)", rf"{ours}.se.excite.\1")]
    for branch, name in (("rbr_dense", "dense"), ("rbr_1x1|rbr_dense_dilation", "second")):
        rules += [Rule(rf"{theirs}\.(?:{branch})\.conv\.(\w+)", rf"{ours}.{name}.0.\1"),
                  Rule(rf"{theirs}\.(?:{branch})\.bn\.(\w+)", rf"{ours}.{name}.1.\1")]
    return rules
