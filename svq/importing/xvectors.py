"""X-vectors as WeSpeaker and 3D-Speaker write them.

wespeaker/models/tdnn.py, speakerlab/models/xvector/TDNN.py: frame_1 to frame_5, batch norms without scale and shift,
statistics pooling, seg_1 and, in WeSpeaker's, seg_bn_1 and seg_2, whose output is the embedding.
"""

from __future__ import annotations

from svq.importing.plan import Family, Plan, Rule, State
from svq.network import ModelConfig

MARKS = ("frame_1.conv_1d.weight", "frame_5.conv_1d.weight", "seg_1.weight")
RULES = [Rule(r"frame_(\d)\.conv_1d\.(\w+)", r"frame\1.conv.\2"), Rule(r"frame_(\d)\.bn\.(\w+)", r"frame\1.bn.\2"),
         Rule(r"seg_(\d)\.(\w+)", r"segment\1.\2"), Rule(r"seg_bn_1\.(\w+)", r"bn.\1")]


def family(front_end, variance_floor: float) -> Family:
    """front_end: (num_mels, options) -> FrontEndConfig."""

    def plan(state: State, options) -> Plan:
        width, num_mels, _ = state["frame_1.conv_1d.weight"].shape
        net = {"width": width, "wide": state["frame_5.conv_1d.weight"].shape[0],
               "segments": 2 if "seg_2.weight" in state else 1, "variance_floor": variance_floor}
        return Plan(ModelConfig("XVector", net, state["seg_1.weight"].shape[0], front_end(num_mels, options)), RULES)

    return Family("x-vector", MARKS, plan)
