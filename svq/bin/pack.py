"""Packs a quantized model folder to MODEL/model.svq and writes MODEL/summary.json.

The packed file is loaded again and compared with the quantization-aware network on random features: their
embeddings must agree within a cosine distance of 1e-4, or nothing is left behind. A float model
only gets its summary: the size of model.safetensors.
"""

from __future__ import annotations

import json
import os

import torch
import torch.nn.functional as F

from svq.atomic import atomic_path, write_json
from svq.cli import parser, run_main
from svq.errors import UserError
from svq.models import load_model
from svq.quant.api import average_bits
from svq.quant.packing import count_parameters, load_packed, save_packed

LARGEST_DISTANCE = 1e-4


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", help="model folder")
    arguments.add_argument("--calibration", help="JSON of svq.bin.calibrate, kept in the packed file")
    options = arguments.parse_args()
    net, config = load_model(options.model)
    summary = {"params": count_parameters(net), "avg_bits": average_bits(net)}
    if config.quant is None:
        name = "model.safetensors"
    else:
        name = "model.svq"
        pack(os.path.join(options.model, name), net, config, read_calibration(options.calibration))
    size = os.path.getsize(os.path.join(options.model, name))
    write_json(os.path.join(options.model, "summary.json"), {**summary, "size_bytes": size, "file": name})
    print(f"{options.model}/{name}: {size} bytes, {summary['avg_bits']:g} bits per weight, {summary['params']} parameters")


def read_calibration(path: str | None):
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a calibration file ({error}); stage 9 makes it") from None


def pack(path: str, net, config, calibration) -> None:
    """Writes the packed file under its name only once it has been loaded again and compared."""
    with atomic_path(path) as temporary:
        save_packed(temporary, net, config, calibration)
        distance = largest_distance(net, load_packed(temporary)[0], config.front_end.num_mels)
        if not distance <= LARGEST_DISTANCE:
            raise UserError(f"{path}: packed and unpacked networks differ by a cosine distance of {distance:.2g}")
    print(f"largest cosine distance to the network before packing: {distance:.2g}")


@torch.inference_mode()
def largest_distance(net, other, num_mels: int) -> float:
    """The largest cosine distance between two networks' embeddings of seeded random features."""
    feats = torch.randn(4, 200, num_mels, generator=torch.Generator().manual_seed(0)).cumsum(1) / 4
    feats = feats - feats.mean(1, keepdim=True)
    return float((1 - F.cosine_similarity(net(feats).double(), other(feats).double())).max())


if __name__ == "__main__":
    run_main(main)
