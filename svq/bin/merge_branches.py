"""Merges the branches of a float RepVGG: OUT/model.safetensors and OUT/config.yaml, with one convolution a block.

The merged network gives the embeddings of MODEL. All that uses a model merges it by itself when it reads it; only a
further training in float needs the branches. So the folder is for those who want the merged weights in a file.
"""

from __future__ import annotations

import os

from svq.cli import parser, run_main
from svq.errors import UserError


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", help="model folder of a float network")
    arguments.add_argument("--out", required=True, help="folder for the merged model")
    options = arguments.parse_args()
    from svq.config import write_provenance
    from svq.models import load_model, merge_branches_, save_model
    from svq.nets import num_parameters

    if os.path.exists(options.out) and not os.path.isdir(options.out):
        raise UserError(f"{options.out}: a file; --out takes a folder")
    if os.path.realpath(options.out) == os.path.realpath(options.model):
        raise UserError(f"{options.out}: is the model itself, whose branches would be lost; name another folder")
    if not os.path.isdir(options.model):
        raise UserError(f"{options.model}: not the folder of a float model, with config.yaml and model.safetensors")
    net, config = load_model(options.model, branches=True)
    before = num_parameters(net)
    merged = merge_branches_(net, config)
    if merged is config:
        why = "is quantized" if config.quant is not None else f"{config.arch} has no branches, or they are merged already"
        raise UserError(f"{options.model}: nothing to merge: {why}; use it as it is")
    write_provenance(options.out, {"merged": os.path.abspath(options.model)}, seed=0)
    save_model(options.out, net, merged)
    print(f"{options.out}: {merged.arch}, {num_parameters(net):,} parameters, merged from {before:,}")


if __name__ == "__main__":
    run_main(main)
