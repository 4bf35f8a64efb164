"""The table of all networks: parameters beside the published ones, computation, and bytes at several widths of bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from svq.data.frontend import FrontEndConfig
from svq.nets import num_parameters
from svq.nets.flops import count_flops
from svq.nets.zoo import ZooEntry
from svq.network import ModelConfig
from svq.pack.file import packed_bytes
from svq.pack.format import safetensors_bytes
from svq.quant import QuantConfig


@dataclass(frozen=True)
class ZooRow:
    """A network measured. float_bytes: of its model.safetensors; packed: of its .svq file at each number of bits."""

    name: str
    entry: ZooEntry
    parameters: int
    flops: int
    float_bytes: int
    packed: tuple[int, ...]


def measure(name: str, entry: ZooEntry, frames: int, bits: Sequence[int]) -> ZooRow:
    """Builds the network of `entry`, untrained, and measures it; nothing is computed, quantized or written."""
    front_end = FrontEndConfig(num_mels=entry.feat_dim)
    config = ModelConfig(entry.arch, dict(entry.options), entry.embed_dim, front_end)
    net = config.build().eval()
    packed = tuple(packed_bytes(net, QuantConfig("kmqat", width, per_channel=False), config) for width in bits)
    float_bytes = safetensors_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in net.state_dict().items()})
    flops = count_flops(net.to("meta"), entry.feat_dim, frames)
    return ZooRow(name, entry, num_parameters(net), flops, float_bytes, packed)


def markdown(rows: Sequence[ZooRow], seconds: float, bits: Sequence[int]) -> str:
    """The table and, below it, why some parameter counts are not the published ones."""
    heads = ["network", "`arch`", "features", "embedding", "parameters", "published (M)", "source", "difference",
             f"GFLOPs for {seconds:g} s", "float (bytes)", *(f"{width}-bit (bytes)" for width in bits)]
    rule = ["---", "---", "---:", "---:", "---:", "---:", "---", "---:", "---:", "---:"] + ["---:"] * len(bits)
    lines = [_cells(row) for row in rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *lines])
    notes = ["FLOPs count a multiplication and an addition as two. Packed files have every convolution and linear "
             "weight, the embedding layer's too, quantized by k-means to that many bits; classifiers are in no size."]
    off = [f"- {row.name}: {_explained(row)}." for row in rows if row.entry.explanation(row.parameters) != ""]
    if off:
        notes.append("More than 0.5 % off the published count:\n\n" + "\n".join(off))
    return "\n\n".join([table, *notes])


def unexplained(rows: Sequence[ZooRow]) -> list[str]:
    """Names of networks whose parameter counts are off with no reason given."""
    return [row.name for row in rows if row.entry.explanation(row.parameters) is None]


def _explained(row: ZooRow) -> str:
    return row.entry.explanation(row.parameters) or "no reason known"


def _cells(row: ZooRow) -> list[str]:
    entry, difference = row.entry, row.entry.difference(row.parameters)
    options = "".join(f", {name} {value}" for name, value in entry.options.items())
    return [row.name, f"{entry.arch}{options}", str(entry.feat_dim), str(entry.embed_dim), f"{row.parameters:,}",
            entry.published or "-", entry.source or "-", "-" if difference is None else f"{100 * difference:+.2f} %",
            f"{row.flops / 1e9:.2f}", f"{row.float_bytes:,}", *(f"{size:,}" for size in row.packed)]
