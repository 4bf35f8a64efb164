"""Imports a published checkpoint of another toolkit as a model folder: OUT/model.safetensors and OUT/config.yaml.

Recognises architecture and sizes from the tensors; the front end is the one that the toolkit trains with. Tensors of
the classifier are left out and named. Any other tensor that does not fit is an error, and nothing is written.
Reads only tensors from FILE (a state dict, .pt or .safetensors, or one in an archive), never code. From an ONNX file
it takes the network that its graph is, and runs both side by side.
"""

from __future__ import annotations

import argparse
import os

from svq.cli import parser, run_main
from svq.config import to_dict, write_provenance
from svq.errors import UserError, some_of
from svq.files import sha256_of


def main() -> None:
    options = parse_options()
    from svq.importing import KNOWN, Options, import_checkpoint
    from svq.models import save_model
    from svq.nets import num_parameters

    if options.origin not in KNOWN:
        raise UserError(f"--from {options.origin}: known are {', '.join(KNOWN)}")
    if os.path.exists(options.out) and not os.path.isdir(options.out):
        raise UserError(f"{options.out}: a file; --out takes a folder")
    given = Options(options.rate, options.num_mels, pooling=options.pooling, front_end=options.front_end)
    found = import_checkpoint(options.file, options.origin, options.arch, given)
    digest = sha256_of(options.file)
    write_provenance(options.out, {"from": options.origin, "file": os.path.basename(options.file), "sha256": digest,
                                   "left_out": sorted(found.left_out), "model": to_dict(found.config)}, seed=0)
    save_model(options.out, found.net, found.config)
    front_end = ", ".join(f"{name} {value}" for name, value in to_dict(found.config.front_end).items())
    print(f"{options.out}: {found.config.arch} {found.config.net}, {num_parameters(found.net):,} parameters, "
          f"embeddings of {found.config.embed_dim} numbers, from {found.taken} tensors")
    print(f"front end: {front_end}")
    for note in found.notes:
        print(note)
    kinds = sorted(set(found.left_out.values()))
    for kind in kinds:
        print(f"left out ({kind}): {some_of(name for name, what in found.left_out.items() if what == kind)}")


def parse_options() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("file", help="the checkpoint")
    arguments.add_argument("--from", dest="origin", required=True, metavar="ORIGIN",
                           help="the toolkit: wespeaker, 3dspeaker, speechbrain, clova, pyannote, redimnet or resemblyzer; or onnx "
                                "for an ONNX file")
    arguments.add_argument("--out", required=True, help="folder for the model")
    arguments.add_argument("--arch", help="the architecture that it must turn out to be, e.g. ResNet34")
    arguments.add_argument("--rate", type=int, default=16000, help="samples per second that it was trained on")
    arguments.add_argument("--num-mels", type=int, default=0,
                           help="mel channels; needed only where the tensors do not tell and an error asks for them; 0: as "
                                "the tensors tell")
    arguments.add_argument("--pooling", choices=["", "tstp", "tap", "tsdp"], default="",
                           help="what it pools frames to: means and deviations (tstp), means (tap) or deviations (tsdp); "
                                "needed only where an error asks for it")
    arguments.add_argument("--front-end", default="", metavar="TOOLKIT",
                           help="for --from onnx: whose features the network takes, where the file does not say: "
                                "wespeaker, 3dspeaker or sherpa-onnx")
    options = arguments.parse_args()
    if options.rate < 1 or options.num_mels < 0:
        arguments.error("--rate must be at least 1 and --num-mels must not be negative")
    return options


if __name__ == "__main__":
    run_main(main)
