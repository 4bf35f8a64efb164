"""Takes one precision out of a nested model and writes it as an ordinary model, which every other tool can read.

From a model folder it makes another folder, --out: model.safetensors, config.yaml and, where the nested model has them,
head.safetensors, speakers.txt and provenance.yaml (a copy). The result is a model of method kmqat with --precision bits
and the batch norms of that precision.
From a packed .svq file it makes another .svq file, --out: byte for byte the one that svq.bin.pack makes from that folder.
The calibration of a nested file belongs to its highest precision, so only that precision keeps it.
"""

from __future__ import annotations

import os
import shutil

from svq.atomic import atomic_path
from svq.cli import parser, run_main
from svq.errors import UserError


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder of a nested model, or its packed .svq file")
    arguments.add_argument("--precision", type=int, required=True, help="bits; one of the precisions of the model")
    arguments.add_argument("--out", required=True, help="folder, or .svq file, to write")
    options = arguments.parse_args()
    packed = options.model.endswith(".svq")
    if packed != options.out.endswith(".svq"):
        raise UserError(f"{options.out}: {options.model} gives a {'packed .svq file' if packed else 'folder'}; "
                        "name one as --out")
    if os.path.realpath(options.out) == os.path.realpath(options.model):
        raise UserError(f"{options.out}: is --model itself; name another place as --out")
    from svq.models import load_model, save_model
    from svq.network import save_tensors
    from svq.pack.format import as_json
    from svq.pack.reading import read_packed
    from svq.train.folders import read_head, save_head

    if packed:
        about, tensors = read_packed(options.model, options.precision)
        save_tensors(options.out, tensors, {"svq": as_json(about)})
    else:
        net, config = load_model(options.model, options.precision)
        save_head(options.out, *read_head(options.model))
        provenance = os.path.join(options.model, "provenance.yaml")
        if os.path.exists(provenance):
            with atomic_path(os.path.join(options.out, "provenance.yaml")) as temporary:
                shutil.copyfile(provenance, temporary)
        save_model(options.out, net, config)
    print(f"{options.out}: {options.model} at {options.precision} bits")


if __name__ == "__main__":
    run_main(main)
