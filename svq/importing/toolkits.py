"""Toolkits whose checkpoints can be imported: their front ends, their networks, and where the tensors go.

WeSpeaker (wenet-e2e/wespeaker): avg_model.pt, a state dict of the network and the training's classifier. Its front end
(wespeaker/dataset/processor.py, cli/speaker.py): Kaldi's log-mels on the 16-bit scale with a Hamming window, less the
utterance's mean.

pyannote (pyannote/pyannote-audio, models/embedding/wespeaker): pytorch_model.bin, a checkpoint of Lightning with
WeSpeaker's ResNets under `resnet.` and WeSpeaker's front end.

3D-Speaker (modelscope/3D-Speaker): embedding_model.ckpt, a state dict. Its front end (speakerlab/process/processor.py):
Kaldi's log-mels with the povey window, of samples in [-1, 1], less the utterance's mean.

SpeechBrain (speechbrain/speechbrain): embedding_model.ckpt, a state dict. Its front end (speechbrain/lobes/features.py
and the recipes' InputNormalization): log-mels in decibels, less the utterance's mean.

clovaai/voxceleb_trainer: the network under `__S__.`, the loss under `__L__.`, and the front end's constants.
models/ResNetSE34L.py (fast ResNet34, 40 mel channels) and models/ResNetSE34V2.py (64, with pre-emphasis); utils.py.
Its front end: torchaudio's mel spectrogram, log(x + 1e-6), every channel with mean 0 and deviation 1 over the
utterance. No tensor tells whether the logarithm is taken (`--log_input`); the published checkpoints are used with it.

ReDimNet and ReDimNet2, of their authors: redimnet.py.

resemble-ai/Resemblyzer: pretrained.pt, the network under `model_state` beside the training's step and optimizer. Its
front end (resemblyzer/audio.py): librosa's mel powers, of recordings that are amplified to -30 dB of full scale where
they are softer. Its windows, and the mean over them, are the network's (resemblyzer/voice_encoder.py). It also cuts out
long silences (`trim_long_silences`, by webrtcvad); here recordings are taken as they are.
"""

from __future__ import annotations

from functools import partial

import torch

from svq.data.fbank import ClovaFbank
from svq.data.frontend import FrontEndConfig
from svq.importing import architectures, maps, redimnet
from svq.importing.campplus import campplus
from svq.importing.eres2net import eres2net
from svq.importing.plan import Family, Origin, Plan, Rule, State, count
from svq.importing.poolings import Floors
from svq.network import ModelConfig

X_VECTOR_CONTEXTS = [5, 3, 3, 1, 1]  # of the layers of SpeechBrain's x-vector
BLOCKS = (3, 4, 6, 3)  # in the stages of SpeechBrain's and clova's ResNets
RESEMBLYZER_DBFS = -30.0  # softer recordings are amplified to this level
FRONT_END = r"torchfb\..*|instancenorm\..*"  # tensors of clova's front end


def wespeaker_front_end(num_mels: int, options) -> FrontEndConfig:
    """Gives the front end of WeSpeaker's networks: Kaldi's log-mels with a Hamming window. options: `Options`."""
    return FrontEndConfig(options.rate, num_mels, window="hamming")


def wespeaker_ecapa(state: State, options) -> Plan:
    """Plans the import of wespeaker/models/ecapa_tdnn.py, with or without global context in the pooling."""
    channels, num_mels, _ = state["layer1.conv.weight"].shape
    wide = state["conv.weight"].shape[0]
    attention, seen, _ = state["pool.linear1.weight"].shape
    net = {"channels": channels, "wide": wide, "scale": 1 + count(state, r"layer2\.se_res2block\.1\.convs\.(\d+)\."),
           "squeeze": state["layer2.se_res2block.3.linear1.weight"].shape[0], "attention": attention,
           "global_context": seen == 3 * wide}
    arch = "ECAPA512" if channels <= 512 else "ECAPA1024"
    front_end = wespeaker_front_end(num_mels, options)
    return Plan(ModelConfig(arch, net, state["linear.weight"].shape[0], front_end), WESPEAKER_ECAPA)


WESPEAKER_ECAPA = [
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

WESPEAKER_FLOORS = Floors(plain=1e-7, attentive=1e-7)
WESPEAKER = Origin(
    "wespeaker",
    (
        architectures.resnet(wespeaker_front_end, WESPEAKER_FLOORS),
        Family("ECAPA_TDNN", ("layer1.conv.weight", "layer4.se_res2block.0.conv.weight", "pool.linear1.weight"),
               wespeaker_ecapa),
        architectures.x_vector(wespeaker_front_end, variance_floor=1e-7),
        campplus(wespeaker_front_end, variance_floor=1e-7),
        redimnet.wespeaker_first(wespeaker_front_end),
        redimnet.WESPEAKER_SECOND,
        eres2net(wespeaker_front_end, WESPEAKER_FLOORS),
        maps.gemini_df_resnet(wespeaker_front_end, WESPEAKER_FLOORS),
        maps.simam_resnet(wespeaker_front_end),
        maps.rep_vgg(wespeaker_front_end, WESPEAKER_FLOORS, merged=False),
        maps.rep_vgg(wespeaker_front_end, WESPEAKER_FLOORS, merged=True),
    ),
    left_out={r"projection\..*": "classifier", **redimnet.SINGLE},
)


def threedspeaker_front_end(num_mels: int, options) -> FrontEndConfig:
    """Gives the front end of 3D-Speaker's networks: Kaldi's log-mels of samples in [-1, 1]. options: `Options`."""
    return FrontEndConfig(options.rate, num_mels, full_scale=1.0)


THREEDSPEAKER_FLOORS = Floors(plain=1e-8, attentive=1e-10)
THREEDSPEAKER = Origin("3dspeaker", (
    architectures.resnet(threedspeaker_front_end, THREEDSPEAKER_FLOORS),
    architectures.ecapa_tdnn(threedspeaker_front_end),
    architectures.x_vector(threedspeaker_front_end, variance_floor=1e-8),
    campplus(threedspeaker_front_end, variance_floor=1e-12),
    eres2net(threedspeaker_front_end, THREEDSPEAKER_FLOORS),
    eres2net(threedspeaker_front_end, THREEDSPEAKER_FLOORS, version=2),
))


def speechbrain_front_end(num_mels: int, options) -> FrontEndConfig:
    return FrontEndConfig(options.rate, num_mels, fbank="speechbrain")


def speechbrain_x_vector(state: State, options) -> Plan:
    """Plans the import of speechbrain/lobes/models/Xvector.py.

    There, convolution, activation and batch norm of five layers are numbered through. ValueError for other contexts.
    """
    weights = [state[f"blocks.{3 * layer}.conv.weight"] for layer in range(5)]
    contexts = [weight.shape[2] for weight in weights]
    if contexts != X_VECTOR_CONTEXTS:
        raise ValueError(f"its layers see {contexts} frames, not {X_VECTOR_CONTEXTS}")
    net = {"width": weights[0].shape[0], "wide": weights[4].shape[0]}
    model = ModelConfig("XVectorSpeechBrain", net, state["blocks.16.w.weight"].shape[0],
                        speechbrain_front_end(weights[0].shape[1], options))
    rules = [rule for layer in range(5) for rule in (
        Rule(rf"blocks\.{3 * layer}\.conv\.(\w+)", rf"frame{layer + 1}.conv.\1"),
        Rule(rf"blocks\.{3 * layer + 2}\.norm\.(\w+)", rf"frame{layer + 1}.bn.\1"))]
    return Plan(model, [*rules, Rule(r"blocks\.16\.w\.(\w+)", r"segment1.\1")])


def speechbrain_resnet(state: State, options) -> Plan:
    """Plans the import of speechbrain/lobes/models/ResNet.py.

    Its convolutions have time before frequency, ours frequency before time. ValueError for other numbers of blocks.
    """
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
                            speechbrain_front_end(8 * (bins // (2 * width)), options)), rules)


PYANNOTE = Origin(
    "pyannote",
    # Its pooling adds nothing to variances; this much keeps the slope of the root finite.
    (architectures.resnet(wespeaker_front_end, Floors(plain=1e-12, attentive=1e-7)),),
    prefixes=("resnet.",),
)

SPEECHBRAIN = Origin("speechbrain", (
    architectures.ecapa_tdnn(speechbrain_front_end),
    Family("Xvector", ("blocks.0.conv.weight", "blocks.16.w.weight"), speechbrain_x_vector),
    Family("ResNet", ("conv1.weight", "layer4.0.conv3.weight", "attention.0.weight", "fc_embed.weight"),
           speechbrain_resnet),
))


def clova_front_end(num_mels: int, options, preemphasis: float) -> FrontEndConfig:
    return FrontEndConfig(options.rate, num_mels, variance_normalize=True, fbank="clova", preemphasis=preemphasis)


def clova_fast(state: State, options) -> Plan:
    """Plans the import of clova's ResNetSE34L.

    Only the tensors of its front end tell the number of mel channels, and tell it from a thin ResNet34, which takes
    spectra. ValueError where they are missing and the user gives no number, or where the mel filters are not ours.
    """
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
    return Plan(ModelConfig("FastResNet34", net, embed_dim, clova_front_end(num_mels, options, 0.0)),
                [*trunk(), *pooling])


def clova_half(state: State, options) -> Plan:
    """Plans the import of clova's ResNetSE34V2. The checkpoint may hold its pre-emphasis, else it is 0.97."""
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
    return Plan(ModelConfig("ResNetSE34V2", net, embed_dim, clova_front_end(num_mels, options, preemphasis)),
                [*trunk(), *pooling])


def trunk() -> list[Rule]:
    """Gives the rules for clova's layers before the pooling and the embedding layer.

    Our blocks are numbered through, theirs by stage.
    """
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
    """Checks the mel filters (bins, num_mels) of a checkpoint; ValueError where they are not those of our front end."""
    if filters is None:
        return
    ours = ClovaFbank(num_mels, rate).mel
    if filters.shape != ours.shape or not torch.allclose(filters, ours, atol=1e-3):
        raise ValueError(f"its mel filters {list(filters.shape)} are not those of {num_mels} channels at {rate} Hz")


CLOVA = Origin(
    "clova",
    (
        Family("ResNetSE34L", ("conv1.weight", "layer4.0.se.fc.0.weight", "sap_linear.weight", "fc.weight"),
               clova_fast),
        Family("ResNetSE34V2", ("conv1.weight", "layer4.0.se.fc.0.weight", "attention.0.weight", "fc.weight"),
               clova_half),
    ),
    prefixes=("__S__.",),
    left_out={r"__L__\..*": "loss", FRONT_END: "front end"},
)


def resemblyzer_lstm(state: State, options) -> Plan:
    """Plans the import of resemblyzer/voice_encoder.py."""
    width, num_mels = state["lstm.weight_hh_l0"].shape[1], state["lstm.weight_ih_l0"].shape[1]
    net = {"width": width, "layers": count(state, r"lstm\.weight_ih_l(\d+)$")}
    front_end = FrontEndConfig(options.rate, num_mels, mean_normalize=False, fbank="resemblyzer",
                               least_dbfs=RESEMBLYZER_DBFS)
    rules = [Rule(r"lstm\.((?:weight|bias)_[ih]h_l\d+)", r"lstm.\1"), Rule(r"linear\.(\w+)", r"embedding.\1")]
    return Plan(ModelConfig("GE2ELSTM", net, state["linear.weight"].shape[0], front_end), rules)


RESEMBLYZER = Origin(
    "resemblyzer",
    (Family("VoiceEncoder", ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "linear.weight"), resemblyzer_lstm),),
    left_out={r"similarity_(weight|bias)": "loss"},
)


ORIGINS: dict[str, Origin] = {origin.name: origin for origin in (WESPEAKER, SPEECHBRAIN, THREEDSPEAKER, CLOVA,
                                                                   PYANNOTE, redimnet.REDIMNET, RESEMBLYZER)}
