"""SpeechBrain (speechbrain/speechbrain): embedding_model.ckpt, a state dict.

Its front end (speechbrain/lobes/features.py and the recipes' InputNormalization): log-mels in decibels, less the
utterance's mean.
"""

from __future__ import annotations

from functools import partial

import torch

from svq.data.frontend import FrontEndConfig
from svq.importing import architectures
from svq.importing.plan import Family, Origin, Plan, Rule, State, count
from svq.network import ModelConfig

X_VECTOR_CONTEXTS = [5, 3, 3, 1, 1]
BLOCKS = (3, 4, 6, 3)


def front_end(num_mels: int, options) -> FrontEndConfig:
    return FrontEndConfig(options.rate, num_mels, fbank="speechbrain")


def x_vector(state: State, options) -> Plan:
    """speechbrain/lobes/models/Xvector.py: convolution, activation and batch norm are numbered through, five times."""
    weights = [state[f"blocks.{3 * layer}.conv.weight"] for layer in range(5)]
    contexts = [weight.shape[2] for weight in weights]
    if contexts != X_VECTOR_CONTEXTS:
        raise ValueError(f"its layers see {contexts} frames, not {X_VECTOR_CONTEXTS}")
    net = {"width": weights[0].shape[0], "wide": weights[4].shape[0]}
    model = ModelConfig("XVectorSpeechBrain", net, state["blocks.16.w.weight"].shape[0],
                        front_end(weights[0].shape[1], options))
    rules = [rule for layer in range(5) for rule in (
        Rule(rf"blocks\.{3 * layer}\.conv\.(\w+)", rf"frame{layer + 1}.conv.\1"),
        Rule(rf"blocks\.{3 * layer + 2}\.norm\.(\w+)", rf"frame{layer + 1}.bn.\1"))]
    return Plan(model, [*rules, Rule(r"blocks\.16\.w\.(\w+)", r"segment1.\1")])


def resnet(state: State, options) -> Plan:
    """speechbrain/lobes/models/ResNet.py. Its convolutions see time before frequency, ours frequency before time."""
    blocks = tuple(count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
    if blocks != BLOCKS:
        raise ValueError(f"its stages have {blocks} blocks, not {BLOCKS}")
    width, bins = state["conv1.weight"].shape[0], state["attention.0.weight"].shape[1]
    turn = partial(torch.transpose, dim0=2, dim1=3)
    rules, number = [Rule(r"conv1\.(\w+)", r"conv1.\1", turn), Rule(r"bn1\.(\w+)", r"bn1.\1")], 0
    for stage, total in enumerate(blocks, 1):
        for index in range(total):
            theirs, ours = rf"layer{stage}\.{index}", f"layers.{number}"
            rules += [Rule(rf"{theirs}\.(conv\d)\.weight", rf"{ours}.\1.weight", turn),
                      Rule(rf"{theirs}\.(bn\d\.\w+)", rf"{ours}.\1"),
                      Rule(rf"{theirs}\.se\.fc\.0\.(\w+)", rf"{ours}.se.squeeze.\1"),
                      Rule(rf"{theirs}\.se\.fc\.2\.(\w+)", rf"{ours}.se.excite.\1"),
                      Rule(rf"{theirs}\.downsample\.(\d\.\w+)", rf"{ours}.shortcut.\1")]
            number += 1
    rules += [Rule(r"attention\.0\.(\w+)", r"pool.hidden.\1"), Rule(r"attention\.2\.(\w+)", r"pool.bn.\1"),
              Rule(r"attention\.3\.(\w+)", r"pool.scores.\1"), Rule(r"norm_stats\.(\w+)", r"bn_pool.\1"),
              Rule(r"fc_embed\.(\w+)", r"embedding.\1"), Rule(r"norm_embed\.(\w+)", r"bn_embedding.\1")]
    return Plan(ModelConfig("ResNet34SpeechBrain", {"width": width}, state["fc_embed.weight"].shape[0],
                            front_end(8 * (bins // (2 * width)), options)), rules)


ORIGIN = Origin("speechbrain", (
    architectures.ecapa_tdnn(front_end),
    Family("Xvector", ("blocks.0.conv.weight", "blocks.16.w.weight"), x_vector),
    Family("ResNet", ("conv1.weight", "layer4.0.conv3.weight", "attention.0.weight", "fc_embed.weight"), resnet),
))
