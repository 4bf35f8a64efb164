"""Quantizes a trained network as it is, without finetuning: what finetuning starts from.

Takes the config of svq.bin.train (its `quant` part says how) and writes OUT/model.safetensors, config.yaml,
provenance.yaml and, where the model has them, head.safetensors and speakers.txt.
"""

from __future__ import annotations

import os

import torch

from svq.cli import parser, run_main
from svq.config import load_config
from svq.errors import UserError
from svq.models import load_tensors
from svq.quant import quantize_
from svq.quant.api import average_bits
from svq.train.config import TrainConfig
from svq.train.folders import read_speakers, save_trained, starting_network


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--init", required=True, help="model folder of a float network")
    arguments.add_argument("--config", required=True, help="YAML, see svq.train.config.TrainConfig")
    arguments.add_argument("--bits", help="table of bits per layer (bits.tsv)")
    arguments.add_argument("--out", required=True, help="folder for the model")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a config key, e.g. quant.bits=2")
    options = arguments.parse_args()
    config = load_config(options.config, TrainConfig, options.set)
    if config.quant is None:
        raise UserError(f"{options.config}: no `quant` in the config; add it to say how to quantize")
    torch.set_num_threads(config.num_threads)
    net, config = starting_network(config, options)
    quantize_(net, config.quant)
    save_trained(options.out, net, config, *read_head(options.init))
    print(f"{options.out}: {average_bits(net):g} bits per weight, not finetuned")


def read_head(folder: str) -> tuple[dict | None, list[str] | None]:
    """Tensors and speakers of the classifier in `folder`; None and None where it has none."""
    path = os.path.join(folder, "head.safetensors")
    return (load_tensors(path), read_speakers(folder)) if os.path.exists(path) else (None, None)


if __name__ == "__main__":
    run_main(main)
