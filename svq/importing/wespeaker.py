"""WeSpeaker (wenet-e2e/wespeaker): avg_model.pt, a state dict of the network and the training's classifier.

Its front end (wespeaker/dataset/processor.py, cli/speaker.py): Kaldi's log-mels on the 16-bit scale with a Hamming
window, less the utterance's mean.
"""

from __future__ import annotations

from svq.data.frontend import FrontEndConfig
from svq.importing import architectures
from svq.importing.plan import Family, Origin, Plan, Rule, State, count
from svq.network import ModelConfig


def front_end(num_mels: int, options) -> FrontEndConfig:
    return FrontEndConfig(options.rate, num_mels, window="hamming")


def ecapa(state: State, options) -> Plan:
    """wespeaker/models/ecapa_tdnn.py; with or without global context in the pooling."""
    channels, num_mels, _ = state["layer1.conv.weight"].shape
    wide = state["conv.weight"].shape[0]
    attention, seen, _ = state["pool.linear1.weight"].shape
    net = {"channels": channels, "wide": wide, "scale": 1 + count(state, r"layer2\.se_res2block\.1\.convs\.(\d+)\."),
           "squeeze": state["layer2.se_res2block.3.linear1.weight"].shape[0], "attention": attention,
           "global_context": seen == 3 * wide}
    arch = "ECAPA512" if channels <= 512 else "ECAPA1024"
    return Plan(ModelConfig(arch, net, state["linear.weight"].shape[0], front_end(num_mels, options)), ECAPA)


ECAPA = [
    Rule(r"layer1\.(conv|bn)\.(\w+)", r"layer1.\1.\2"),
    Rule(r"(layer[234])\.se_res2block\.0\.(conv|bn)\.(\w+)", r"\1.reduce.\2.\3"),
    Rule(r"(layer[234])\.se_res2block\.1\.(conv|bn)s\.(\d+)\.(\w+)", r"\1.res2.parts.\3.\2.\4"),
    Rule(r"(layer[234])\.se_res2block\.2\.(conv|bn)\.(\w+)", r"\1.expand.\2.\3"),
    Rule(r"(layer[234])\.se_res2block\.3\.linear1\.(\w+)", r"\1.se.squeeze.\2"),
    Rule(r"(layer[234])\.se_res2block\.3\.linear2\.(\w+)", r"\1.se.excite.\2"),
    Rule(r"conv\.(\w+)", r"mfa.conv.\1"),
    Rule(r"pool\.(linear[12])\.(\w+)", r"pool.\1.\2"),
    Rule(r"bn\.(\w+)", r"bn.\1"),
    Rule(r"linear\.(\w+)", r"embedding.\1"),
]

ORIGIN = Origin(
    "wespeaker",
    (
        architectures.resnet(front_end, variance_floor=1e-7),
        Family("ECAPA_TDNN", ("layer1.conv.weight", "layer4.se_res2block.0.conv.weight", "pool.linear1.weight"), ecapa),
        architectures.x_vector(front_end, variance_floor=1e-7),
    ),
    left_out={r"projection\..*": "classifier"},
)
