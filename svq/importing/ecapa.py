"""ECAPA-TDNN in SpeechBrain's form, which 3D-Speaker shares tensor for tensor.

speechbrain/lobes/models/ECAPA_TDNN.py, speakerlab/models/ecapa_tdnn/ECAPA_TDNN.py. Every convolution and every batch
norm lies in a wrapper of its own, hence names such as blocks.0.conv.conv.weight.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.network import ModelConfig

MARKS = ("blocks.0.conv.conv.weight", "mfa.conv.conv.weight", "asp.tdnn.conv.conv.weight", "fc.conv.weight")
LAYER = r"(weight|bias|running_mean|running_var|num_batches_tracked)"


def family(front_end) -> Family:
    """front_end: (num_mels, options) -> FrontEndConfig."""

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
        return Plan(ModelConfig(arch, net, state["fc.conv.weight"].shape[0], front_end(num_mels, options)), RULES)

    return Family("ECAPA_TDNN", MARKS, plan)


def layer(theirs: str, ours: str) -> list[Rule]:
    """A convolution and its batch norm."""
    return [Rule(rf"{theirs}\.conv\.conv\.{LAYER}", rf"{ours}.conv.\{theirs.count('(') + 1}"),
            Rule(rf"{theirs}\.norm\.norm\.{LAYER}", rf"{ours}.bn.\{theirs.count('(') + 1}")]


def blocks() -> list[Rule]:
    found = layer(r"blocks\.0", "layer1")
    for theirs, ours in ((1, "layer2"), (2, "layer3"), (3, "layer4")):
        found += layer(rf"blocks\.{theirs}\.tdnn1", f"{ours}.reduce")
        found += layer(rf"blocks\.{theirs}\.tdnn2", f"{ours}.expand")
        found += layer(rf"blocks\.{theirs}\.res2net_block\.blocks\.(\d+)", rf"{ours}.res2.parts.\1")
        found += [Rule(rf"blocks\.{theirs}\.se_block\.conv1\.conv\.{LAYER}", rf"{ours}.se.squeeze.\1"),
                  Rule(rf"blocks\.{theirs}\.se_block\.conv2\.conv\.{LAYER}", rf"{ours}.se.excite.\1")]
    return found


RULES = [
    *blocks(),
    *layer("mfa", "mfa"),
    Rule(rf"asp\.tdnn\.conv\.conv\.{LAYER}", r"pool.linear1.\1"),
    Rule(rf"asp\.tdnn\.norm\.norm\.{LAYER}", r"pool.bn.\1"),
    Rule(rf"asp\.conv\.conv\.{LAYER}", r"pool.linear2.\1"),
    Rule(rf"asp_bn\.norm\.{LAYER}", r"bn.\1"),
    Rule(rf"fc\.conv\.{LAYER}", r"embedding.\1"),
]
