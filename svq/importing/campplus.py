"""CAM++ as 3D-Speaker and WeSpeaker write it, and the rules that say where each of its tensors goes.

speakerlab/models/campplus/DTDNN.py, wespeaker/models/campplus.py: `head`, a 2-d network, and `xvector`, which holds the
time-delay layers, the pooling and the embedding layer. Dense layers count from 1 there, from 0 here.
"""

from __future__ import annotations

import re

from svq.importing.plan import Family, Plan, Rule, State, count
from svq.network import ModelConfig

MARKS = ("head.conv1.weight", "xvector.tdnn.linear.weight", "xvector.block1.tdnnd1.cam_layer.linear_local.weight",
         "xvector.dense.linear.weight")
LAYER = (("nonlinear1.batchnorm", "bn1"), ("linear1", "conv1"), ("nonlinear2.batchnorm", "bn2"),
         ("cam_layer.linear_local", "conv2"),
         ("cam_layer.linear1", "mask.squeeze"), ("cam_layer.linear2", "mask.excite"))


def campplus(front_end, variance_floor: float) -> Family:
    """Describes the family CAM++.

    front_end: (num_mels, options) -> FrontEndConfig. variance_floor: added to variances in the pooling.
    """

    def plan(state: State, options) -> Plan:
        layers = tuple(count(state, rf"xvector\.block{block}\.tdnnd(\d+)\.") for block in (1, 2, 3))
        width = state["head.conv1.weight"].shape[0]
        channels, inputs, _ = state["xvector.tdnn.linear.weight"].shape
        bands, rest = divmod(inputs, width)
        if rest:
            raise ValueError(f"its first time-delay layer takes {inputs} channels, no multiple of the {width} of its "
                             "head")
        embed_dim, pooled, _ = state["xvector.dense.linear.weight"].shape
        before = state["xvector.out_nonlinear.batchnorm.weight"].shape[0]
        if pooled == before:
            raise ValueError("its pooling gives means or deviations alone (TAP or TSDP), where only both together "
                             "(TSTP) are known here")
        net = {"width": width, "channels": channels, "layers": layers, "variance_floor": variance_floor,
               "growth": state["xvector.block1.tdnnd1.cam_layer.linear_local.weight"].shape[0],
               "bottleneck": state["xvector.block1.tdnnd1.linear1.weight"].shape[0]}
        return Plan(ModelConfig("CAMPPlus", net, embed_dim, front_end(8 * bands, options)), rules(layers))

    return Family("CAM++", MARKS, plan)


def rules(layers: tuple[int, ...]) -> list[Rule]:
    """Gives the rules for a CAM++ with so many layers in each dense block."""
    found = [
        Rule(r"head\.((?:conv|bn)[12]\.\w+)", r"head.\1"),
        Rule(r"head\.layer1\.(\d)\.(.+)", r"head.layers.\1.\2"),
        *[Rule(rf"head\.layer2\.{index}\.(.+)", rf"head.layers.{index + 2}.\1") for index in (0, 1)],
        Rule(r"xvector\.tdnn\.linear\.(\w+)", r"frame1.conv.\1"),
        Rule(r"xvector\.tdnn\.nonlinear\.batchnorm\.(\w+)", r"frame1.bn.\1"),
        Rule(r"xvector\.(transit\d)\.linear\.(\w+)", r"\1.conv.\2"),
        Rule(r"xvector\.(transit\d)\.nonlinear\.batchnorm\.(\w+)", r"\1.bn.\2"),
        Rule(r"xvector\.out_nonlinear\.batchnorm\.(\w+)", r"bn_pool.\1"),
        Rule(r"xvector\.dense\.linear\.(\w+)", r"embedding.\1"),
        Rule(r"xvector\.dense\.nonlinear\.batchnorm\.(\w+)", r"bn.\1"),
    ]
    for block, total in enumerate(layers, 1):
        for index in range(total):
            found += [Rule(rf"xvector\.block{block}\.tdnnd{index + 1}\.{re.escape(theirs)}\.(\w+)",
                           rf"block{block}.{index}.{ours}.\1") for theirs, ours in LAYER]
    return found
