"""The networks in the settings in which they were published, and the table of all of them.

The table shows parameters beside the published count, FLOPs, and bytes at several numbers of bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from svq.data.frontend import FrontEndConfig
from svq.draw.tables import markdown_table
from svq.evaluation.operations import count_flops
from svq.hub.catalogue import Published
from svq.nets import ARCHITECTURES, num_parameters, usual_sizes
from svq.network import ModelConfig
from svq.pack.file import packed_bytes
from svq.pack.format import safetensors_bytes
from svq.quant import QuantConfig

LARGEST_DIFFERENCE = 0.005  # share of the published count; a larger difference needs a reason


@dataclass(frozen=True)
class ZooEntry:
    """One network: the arguments that build it, and the number of parameters that its authors publish.

    arch, options, feat_dim, embed_dim: as `svq.nets.build` takes them.
    published: parameters in millions, in as many digits as the source prints; None where none are published.
    source: who publishes them.
    reason: why the count here differs by more than 0.5 %, where it does.
    """

    arch: str
    options: dict = field(default_factory=dict)
    feat_dim: int = 80
    embed_dim: int = 256
    published: str | None = None
    source: str = ""
    reason: str = ""

    def difference(self, parameters: int) -> float | None:
        """Computes the share of the published count by which `parameters` exceeds it; None where none is published."""
        return None if self.published is None else parameters / (1e6 * float(self.published)) - 1

    def explanation(self, parameters: int) -> str | None:
        """Explains why `parameters` is not the published count; empty where it is, to 0.5 %, None without a reason."""
        difference = self.difference(parameters)
        if difference is None or abs(difference) <= LARGEST_DIFFERENCE:
            return ""
        digits = len(self.published.partition(".")[2])
        if self.reason:
            return self.reason
        return "it rounds to the published figure" if f"{parameters / 1e6:.{digits}f}" == self.published else None


_YU = "Yu and Li 2020, table 2"
_DF = ("the four published counts are not of one layout; those of 179 and 233 layers are met, and so are the 29.12 MB "
       "that the same authors give 110 layers in 2024")
_ERES2NET = "WeSpeaker's own code makes 9,887,808 parameters as well"

_REDIMNET = "Yakovlev et al. 2024"
_REDIMNET2 = "Yakovlev and Okhotnikov 2026"
_WES = ("WeSpeaker, whose layouts these are, counts {} M too; the authors' published files of B2 and B5, of 20.58 and 31.17 "
        "MB, hold as many numbers as these layouts")
_CUT = "the paper cuts its counts off after one digit"

PUBLISHED = {
    "ResNet18": ZooEntry("ResNet18"),
    "ResNet34": ZooEntry("ResNet34", published="6.63", source="WeSpeaker"),
    "ResNet50": ZooEntry("ResNet50", published="11.13", source="WeSpeaker"),
    "ResNet101": ZooEntry("ResNet101", published="15.89", source="WeSpeaker"),
    "ResNet152": ZooEntry("ResNet152", published="19.81", source="WeSpeaker"),
    "ResNet221": ZooEntry("ResNet221", published="23.79", source="WeSpeaker"),
    "ResNet293": ZooEntry("ResNet293", published="28.62", source="WeSpeaker"),
    "Kiwano ResNet-36": ZooEntry("KiwanoResNet36", feat_dim=81),
    "Kiwano ResNet-200": ZooEntry("KiwanoResNet200", feat_dim=81),
    "ResNet34 (SpeechBrain)": ZooEntry("ResNet34SpeechBrain"),
    "DF-ResNet56": ZooEntry("DFResNet56", published="4.49", source="Liu et al. 2022", reason=_DF),
    "DF-ResNet110": ZooEntry("DFResNet110", published="6.98", source="Liu et al. 2022", reason=_DF),
    "DF-ResNet179": ZooEntry("DFResNet179", published="9.84", source="Liu et al. 2022"),
    "DF-ResNet233": ZooEntry("DFResNet233", published="12.3", source="Liu et al. 2022"),
    "Gemini DF-ResNet60": ZooEntry("GeminiDFResNet60"),
    "Gemini DF-ResNet114": ZooEntry("GeminiDFResNet114", published="6.53", source="WeSpeaker"),
    "Gemini DF-ResNet183": ZooEntry("GeminiDFResNet183"),
    "Gemini DF-ResNet237": ZooEntry("GeminiDFResNet237"),
    "SimAM-ResNet34": ZooEntry("SimAMResNet34", published="25.2", source="WeSpeaker"),
    "SimAM-ResNet100": ZooEntry("SimAMResNet100", published="50.2", source="WeSpeaker"),
    "RepVGG-Tiny-A0, as trained": ZooEntry("RepVGGTinyA0"),
    "RepVGG-Tiny-A0": ZooEntry("RepVGGTinyA0", {"merged": True}, published="6.26", source="WeSpeaker"),
    "RepVGG-Tiny-A0 (RSBB)": ZooEntry("RepVGGTinyA0", {"dilated": True, "merged": True}),
    "RepVGG-A0": ZooEntry("RepVGGA0", {"merged": True}),
    "RepVGG-A1": ZooEntry("RepVGGA1", {"merged": True}),
    "RepVGG-A2": ZooEntry("RepVGGA2", {"merged": True}),
    "RepVGG-B0": ZooEntry("RepVGGB0", {"merged": True}),
    "Thin-ResNet34": ZooEntry("ThinResNet34", {}, 257, 512, "1.4", "Chung et al. 2020"),
    "Fast-ResNet34": ZooEntry("FastResNet34", {}, 40, 512, "1.4", "Chung et al. 2020"),
    "ResNetSE34V2": ZooEntry("ResNetSE34V2", {}, 64, 512, "8.0", "Kwon et al. 2021"),
    "x-vector": ZooEntry("XVector", {}, 80, 512, "4.61", "WeSpeaker"),
    "x-vector (3D-Speaker)": ZooEntry("XVector", {"segments": 1, "variance_floor": 1e-8}, 80, 512, "4.34",
                                      "3D-Speaker"),
    "x-vector (SpeechBrain)": ZooEntry("XVectorSpeechBrain", {}, 24, 512),
    "E-TDNN": ZooEntry("ETDNN", {}, 30, 512, "6.1", _YU),
    "D-TDNN": ZooEntry("DTDNN", {}, 30, 512, "2.8", _YU),
    "ECAPA-TDNN 512": ZooEntry("ECAPA512", {}, 80, 192, "6.19", "WeSpeaker"),
    "ECAPA-TDNN 1024": ZooEntry("ECAPA1024", {}, 80, 192, "14.65", "WeSpeaker"),
    "ECAPA-TDNN 512 (SpeechBrain)": ZooEntry("ECAPASpeechBrain512", {}, 80, 192, "6.2",
                                             "Desplanques et al. 2020, table 1"),
    "ECAPA-TDNN 1024 (SpeechBrain)": ZooEntry("ECAPASpeechBrain", {}, 80, 192, "20.8", "3D-Speaker"),
    "CAM++": ZooEntry("CAMPPlus", {}, 80, 512, "7.18", "3D-Speaker, WeSpeaker"),
    "CAM++ (192)": ZooEntry("CAMPPlus", {"variance_floor": 1e-12}, 80, 192),
    "ERes2Net-base": ZooEntry("ERes2NetBase", {}, 80, 192, "6.61", "3D-Speaker"),
    "ERes2Net-base (512)": ZooEntry("ERes2NetBase", {}, 80, 512, "7.88", "WeSpeaker", _ERES2NET),
    "ERes2Net-large": ZooEntry("ERes2NetLarge", {}, 80, 192, "22.46", "3D-Speaker"),
    "ERes2Net-huge": ZooEntry("ERes2NetHuge", {}, 80, 192),
    "ERes2NetV2": ZooEntry("ERes2NetV2", {}, 80, 192, "17.8", "3D-Speaker"),
    "ERes2NetV2 w24s4ep4": ZooEntry("ERes2NetV2w24s4ep4", {}, 80, 192),
    "ECAPA-TDNNLite": ZooEntry("ECAPALite", {}, 80, 192, "0.318", "Lin et al. 2022"),
    "ReDimNet-B0": ZooEntry("ReDimNetB0", {}, 60, 192, "1.0", _REDIMNET),
    "ReDimNet-B1": ZooEntry("ReDimNetB1", {}, 72, 192, "2.2", _REDIMNET, _WES.format("2.1")),
    "ReDimNet-B2": ZooEntry("ReDimNetB2", {}, 72, 192, "4.7", _REDIMNET, _WES.format("4.9")),
    "ReDimNet-B3": ZooEntry("ReDimNetB3", {}, 72, 192, "3.0", _REDIMNET, _WES.format("3.2")),
    "ReDimNet-B4": ZooEntry("ReDimNetB4", {}, 72, 192, "6.3", _REDIMNET, _WES.format("6.4")),
    "ReDimNet-B5": ZooEntry("ReDimNetB5", {}, 72, 192, "9.2", _REDIMNET, _WES.format("7.65")),
    "ReDimNet-B6": ZooEntry("ReDimNetB6", {}, 72, 192, "15.0", _REDIMNET),
    "ReDimNet2-B0": ZooEntry("ReDimNet2B0", {}, 72, 192, "1.1", _REDIMNET2),
    "ReDimNet2-B1": ZooEntry("ReDimNet2B1", {}, 72, 192, "2.1", _REDIMNET2, _CUT),
    "ReDimNet2-B2": ZooEntry("ReDimNet2B2", {}, 72, 192, "3.6", _REDIMNET2, _CUT),
    "ReDimNet2-B3": ZooEntry("ReDimNet2B3", {}, 72, 192, "4.1", _REDIMNET2, _CUT),
    "ReDimNet2-B4": ZooEntry("ReDimNet2B4", {}, 72, 192, "6.6", _REDIMNET2, _CUT),
    "ReDimNet2-B5": ZooEntry("ReDimNet2B5", {}, 72, 192, "8.9", _REDIMNET2, _CUT),
    "ReDimNet2-B6": ZooEntry("ReDimNet2B6", {}, 72, 192, "12.3", _REDIMNET2, _CUT),
    "GE2E LSTM": ZooEntry("GE2ELSTM", {}, 40, 256, "1.423618", "Resemblyzer's file"),
}


def entries() -> dict[str, ZooEntry]:
    """Gives every network by its name in the table: those of PUBLISHED, and all others, at their defaults."""
    found = dict(PUBLISHED)
    shown = {entry.arch for entry in found.values()}
    for arch in ARCHITECTURES:
        if arch not in shown:
            found[arch] = ZooEntry(arch, {}, *usual_sizes(arch))
    return found


@dataclass(frozen=True)
class ZooRow:
    """The measurements of a network.

    float_bytes: of its model.safetensors. packed: bytes of its .svq file at each width.
    """

    name: str
    entry: ZooEntry
    parameters: int
    flops: int
    float_bytes: int
    packed: tuple[int, ...]


def measure(name: str, entry: ZooEntry, frames: int, bits: Sequence[int]) -> ZooRow:
    """Builds the network of `entry`, untrained, and measures it; computes, quantizes and writes nothing.

    frames: of the utterance that FLOPs are counted for; 0: FLOPs are not counted, and are 0. bits: the widths at which
    packed files are sized.
    """
    front_end = FrontEndConfig(num_mels=entry.feat_dim)
    config = ModelConfig(entry.arch, dict(entry.options), entry.embed_dim, front_end)
    net = without_weights(config)
    packed = tuple(packed_bytes(net, QuantConfig("kmqat", width, per_channel=False), config) for width in bits)
    float_bytes = safetensors_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in net.state_dict().items()})
    flops = count_flops(net.to("meta"), entry.feat_dim, frames) if frames else 0
    return ZooRow(name, entry, num_parameters(net), flops, float_bytes, packed)


def without_weights(config: ModelConfig) -> nn.Module:
    """Builds a network whose numbers are all 0, which is quicker than drawing them, where only shapes count."""
    with torch.device("meta"):
        net = config.build().eval()
    net.to_empty(device="cpu")
    with torch.no_grad():
        for numbers in (*net.parameters(), *net.buffers()):
            numbers.zero_()
    return net


def markdown(rows: Sequence[ZooRow], seconds: float, bits: Sequence[int]) -> str:
    """Writes the table in Markdown and, below it, why some parameter counts are not the published ones.

    seconds: the utterance that FLOPs were counted for. bits: the widths of the packed files in `rows`.
    """
    heads = ["network", "`arch`", "features", "embedding", "parameters", "published (M)", "source", "difference",
             f"GFLOPs for {seconds:g} s", "float (bytes)", *(f"{width}-bit (bytes)" for width in bits)]
    table = markdown_table(heads, [_cells(row) for row in rows], left=(0, 1, heads.index("source")))
    notes = ["FLOPs count a multiplication and an addition as two. Packed files have every convolution and linear "
             "weight, the embedding layer's too, quantized by k-means to that many bits; classifiers are in no size."]
    off = [f"- {row.name}: {_explained(row)}." for row in rows if row.entry.explanation(row.parameters) != ""]
    if off:
        notes.append("More than 0.5 % off the published count:\n\n" + "\n".join(off))
    return "\n\n".join([table, *notes])


def published_markdown(checkpoints: Sequence[Published], bits: Sequence[int]) -> str:
    """Writes the table of published checkpoints in Markdown, with the bytes that their networks come to at `bits`."""
    sizes = {}
    for name, entry in entries().items():
        if any(each.arch == entry.arch for each in checkpoints):
            sizes.setdefault(entry.arch, measure(name, entry, 0, bits))
    heads = ["name", "network", "licence", "published EER (%)", "test", "parameters", *(f"{width}-bit (bytes)" for width in bits)]
    lines = []
    for each in checkpoints:
        row = sizes[each.arch]
        lines.append([f"`{each.name}`", row.name, each.licence, "-" if each.eer is None else f"{each.eer:.2f}",
                      "-" if each.eer is None else each.test, f"{row.parameters:,}", *(f"{size:,}" for size in row.packed)])
    return markdown_table(heads, lines, left=(0, 1, 2, heads.index("test")))


def unexplained(rows: Sequence[ZooRow]) -> list[str]:
    """Lists the networks whose parameter counts are off with no reason given."""
    return [row.name for row in rows if row.entry.explanation(row.parameters) is None]


def _explained(row: ZooRow) -> str:
    return row.entry.explanation(row.parameters) or "no reason known"


def _cells(row: ZooRow) -> list[str]:
    entry, difference = row.entry, row.entry.difference(row.parameters)
    options = "".join(f", {name} {value}" for name, value in entry.options.items())
    return [row.name, f"{entry.arch}{options}", str(entry.feat_dim), str(entry.embed_dim), f"{row.parameters:,}",
            entry.published or "-", entry.source or "-", "-" if difference is None else f"{100 * difference:+.2f} %",
            f"{row.flops / 1e9:.2f}", f"{row.float_bytes:,}", *(f"{size:,}" for size in row.packed)]
