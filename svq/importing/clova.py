"""clovaai/voxceleb_trainer: the network under `__S__.`, the loss under `__L__.`, and the front end's constants.

models/ResNetSE34L.py (fast ResNet34, 40 mel channels) and models/ResNetSE34V2.py (64, with pre-emphasis); utils.py.
Their front end: torchaudio's mel spectrogram, log(x + 1e-6), every channel with mean 0 and deviation 1 over the
utterance. That the logarithm is taken (`--log_input`) no tensor tells; the published checkpoints are used with it.
"""

from __future__ import annotations

import torch

from svq.data.fbank import ClovaFbank
from svq.data.frontend import FrontEndConfig
from svq.importing.plan import Family, Origin, Plan, Rule, State
from svq.network import ModelConfig

BLOCKS = (3, 4, 6, 3)
FRONT_END = r"torchfb\..*|instancenorm\..*"


def front_end(num_mels: int, options, preemphasis: float) -> FrontEndConfig:
    return FrontEndConfig(options.rate, num_mels, variance_normalize=True, fbank="clova", preemphasis=preemphasis)


def fast(state: State, options) -> Plan:
    """ResNetSE34L. Its front end alone tells the mel channels, and it from a thin ResNet34, which takes spectra."""
    filters = state.get("torchfb.mel_scale.fb")
    if filters is None and not options.num_mels:
        raise ValueError("without its front end (torchfb) it may be of any number of mel channels, or a thin ResNet34 "
                         "of spectra, which cannot be imported: say how many, as published with --num-mels 40")
    num_mels = options.num_mels or filters.shape[1]
    check_filters(filters, num_mels, options.rate)
    width, embed_dim = state["conv1.weight"].shape[0], state["fc.weight"].shape[0]
    deviation = state["fc.weight"].shape[1] == 2 * state["sap_linear.weight"].shape[0]
    net = {"width": width, "pooling": "asp" if deviation else "sap"}
    pooling = [Rule(r"sap_linear\.(\w+)", r"pool.hidden.\1"), Rule("attention", "pool.score.weight", torch.t)]
    return Plan(ModelConfig("FastResNet34", net, embed_dim, front_end(num_mels, options, 0.0)), [*trunk(), *pooling])


def half(state: State, options) -> Plan:
    """ResNetSE34V2. What pre-emphasis it has the checkpoint may hold."""
    kernel = state.get("torchfb.0.flipped_filter")
    preemphasis = 0.97 if kernel is None else round(-float(kernel.flatten()[0]), 6)
    filters = state.get("torchfb.1.mel_scale.fb")
    width, embed_dim = state["conv1.weight"].shape[0], state["fc.weight"].shape[0]
    pooled = state["attention.0.weight"].shape[1]
    num_mels = pooled // width
    check_filters(filters, num_mels, options.rate)
    net = {"width": width, "pooling": "asp" if state["fc.weight"].shape[1] == 2 * pooled else "sap"}
    pooling = [Rule(r"attention\.0\.(\w+)", r"pool.hidden.\1"), Rule(r"attention\.2\.(\w+)", r"pool.bn.\1"),
               Rule(r"attention\.3\.(\w+)", r"pool.scores.\1")]
    return Plan(ModelConfig("ResNetSE34V2", net, embed_dim, front_end(num_mels, options, preemphasis)),
                [*trunk(), *pooling])


def trunk() -> list[Rule]:
    """Everything before the pooling, and the embedding layer. Our blocks are numbered through, theirs by stage."""
    rules, number = [Rule(r"(conv1|bn1)\.(\w+)", r"\1.\2"), Rule(r"fc\.(\w+)", r"embedding.\1")], 0
    for stage, total in enumerate(BLOCKS, 1):
        for index in range(total):
            theirs, ours = rf"layer{stage}\.{index}", f"layers.{number}"
            rules += [Rule(rf"{theirs}\.((?:conv|bn)[12]\.\w+)", rf"{ours}.\1"),
                      Rule(rf"{theirs}\.se\.fc\.0\.(\w+)", rf"{ours}.se.squeeze.\1"),
                      Rule(rf"{theirs}\.se\.fc\.2\.(\w+)", rf"{ours}.se.excite.\1"),
                      Rule(rf"{theirs}\.downsample\.(\d\.\w+)", rf"{ours}.shortcut.\1")]
            number += 1
    return rules


def check_filters(filters: torch.Tensor | None, num_mels: int, rate: int) -> None:
    """ValueError where the mel filters (bins, num_mels) that the checkpoint holds are not those of our front end."""
    if filters is None:
        return
    ours = ClovaFbank(num_mels, rate).mel
    if filters.shape != ours.shape or not torch.allclose(filters, ours, atol=1e-3):
        raise ValueError(f"its mel filters {list(filters.shape)} are not those of {num_mels} channels at {rate} Hz")


ORIGIN = Origin(
    "clova",
    (
        Family("ResNetSE34L", ("conv1.weight", "layer4.0.se.fc.0.weight", "sap_linear.weight", "fc.weight"), fast),
        Family("ResNetSE34V2", ("conv1.weight", "layer4.0.se.fc.0.weight", "attention.0.weight", "fc.weight"), half),
    ),
    prefixes=("module.", "__S__."),
    left_out={r"__L__\..*": "loss", FRONT_END: "front end"},
)
