"""Packs a quantized model folder to MODEL/model.svq and writes MODEL/summary.json.

Loads the packed file again and compares it with the quantization-aware network on random features: their embeddings
must agree within a cosine distance of 1e-4, or nothing is left behind. A float model only gets its summary: the size
of model.safetensors. A nested model (method nested) is packed with all its precisions, and each of them is compared;
its summary says how many bytes of the file a load at each precision reads.

With --file the system is no model folder but that file, which was made elsewhere: an exported .onnx or .xml, or a .svq.
It only gets its summary, in the folder MODEL.

With --arch in place of MODEL it packs an untrained network, which shows how large a network of some size, width or
method would be: `--arch ResNet34 --bits 2 --output x.svq`.
"""

from __future__ import annotations

import json
import os

from svq.atomic import write_json
from svq.cli import parser, run_main
from svq.errors import UserError
from svq.files import read_json


def main() -> None:
    options = parse_options()
    if options.arch is not None:
        pack_untrained(options)
    elif options.file is not None:
        summarise_file(options)
    else:
        pack_folder(options)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("model", nargs="?", help="model folder")
    arguments.add_argument("--calibration", help="JSON of svq.bin.calibrate, kept in the packed file")
    arguments.add_argument("--file", help="the file that the system is, in place of a model in the folder MODEL")
    arguments.add_argument("--entropy", action="store_true",
                           help="Huffman code the codes of the weights where that is smaller (summary.json says so)")
    arguments.add_argument("--output", help="write the packed file here, and no summary (None: MODEL/model.svq)")
    untrained = arguments.add_argument_group("an untrained network in place of MODEL")
    untrained.add_argument("--arch", help="its architecture, as svq.bin.zoo shows them")
    untrained.add_argument("--init", choices=["random"], default="random")
    untrained.add_argument("--width", type=int, help="channels, for networks with a `width` (None: the network's own)")
    untrained.add_argument("--embed-dim", type=int, help="size of the embedding (None: the network's own)")
    untrained.add_argument("--feat-dim", type=int, help="mel channels (None: the front end's own)")
    untrained.add_argument("--method", default="kmqat", help="method of quantization; an error for a wrong name lists all")
    untrained.add_argument("--bits", type=int, default=4)
    untrained.add_argument("--per-channel", action="store_true", help="a codebook for each output channel")
    untrained.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    if (options.model is None) == (options.arch is None):
        arguments.error("give a model folder or --arch")
    if options.file is not None and (options.arch is not None or options.output is not None or options.entropy):
        arguments.error("--file is there already: leave out --arch, --output and --entropy")
    if options.arch is not None and options.output is None:
        arguments.error("--arch needs --output")
    check_names(arguments, options)
    return options


def check_names(arguments, options) -> None:
    """Exits with 2 and one line for an architecture or a method that is none; only torch's modules know them all."""
    from svq.nets import ARCHITECTURES
    from svq.quant.methods import METHODS

    for name, known in (("arch", ARCHITECTURES), ("method", METHODS)):
        given = getattr(options, name)
        if given is not None and given not in known:
            arguments.error(f"argument --{name}: invalid choice: '{given}' (choose from {', '.join(known)})")


def pack_untrained(options) -> None:
    """Packs a freshly initialised network to options.output."""
    import torch

    from svq.data.frontend import FrontEndConfig
    from svq.nets import usual_sizes
    from svq.network import ModelConfig
    from svq.quant import QuantConfig, quantize_

    embed_dim = usual_sizes(options.arch)[1] if options.embed_dim is None else options.embed_dim
    try:
        quant = QuantConfig(options.method, options.bits, per_channel=options.per_channel)
        front_end = FrontEndConfig() if options.feat_dim is None else FrontEndConfig(num_mels=options.feat_dim)
        config = ModelConfig(options.arch, untrained_options(options), embed_dim, front_end, quant)
    except ValueError as error:
        raise UserError(str(error)) from None
    torch.manual_seed(options.seed)
    net = quantize_(config.build(), quant).eval()
    pack(options.output, net, config, read_calibration(options.calibration), options.entropy)
    tell(options.output, net)


def untrained_options(options) -> dict:
    """Gives the options of the network of --arch: its width, --width or else the network's own; nothing where it has none.
    Branches are merged, as they are of every network that is quantized.

    UserError for --width with a network without a width.
    """
    from svq.nets import options_of

    known = options_of(options.arch)
    if "merged" in known and options.width is None:
        return {"merged": True}
    if "width" in known:
        return {"width": known["width"] if options.width is None else options.width}
    if options.width is not None:
        raise UserError(f"--width {options.width}: {options.arch} has no width; leave --width out")
    return {}


def summarise_file(options) -> None:
    """Writes the summary of a model that is a file into the folder of its system."""
    from svq.deploy.summary import file_summary

    if options.calibration:
        print(f"{options.file}: --calibration is not used: the file is not packed")
    summary = file_summary(options.file)
    write_json(os.path.join(options.model, "summary.json"), summary)
    print(f"{options.file}: {summary['size_bytes']} bytes, {summary['avg_bits']:g} bits per weight, "
          f"{summary['params']} parameters")


def pack_folder(options) -> None:
    """Packs a model folder to its model.svq, with a summary, or to options.output."""
    from svq.models import load_model
    from svq.pack.file import packed_bytes
    from svq.pack.nested import bytes_read
    from svq.quant.api import average_bits, count_parameters
    from svq.quant.nested import precisions_of

    net, config = load_model(options.model)
    sizes = {}
    if config.quant is None:
        if options.output is not None:
            raise UserError(f"{options.model}: a float model; there is nothing to pack to {options.output}")
        for option in ("calibration", "entropy"):
            if getattr(options, option):
                print(f"{options.model}: --{option} is not used: a float model is not packed")
        path = os.path.join(options.model, "model.safetensors")
    else:
        calibration = read_calibration(options.calibration)
        path = options.output or os.path.join(options.model, "model.svq")
        pack(path, net, config, calibration, options.entropy)
        if options.entropy:
            sizes = {"entropy": True, "size_plain_bytes": packed_bytes(net, config.quant, config, calibration)}
        if precisions_of(net):
            sizes = {"bytes_read": {str(bits): bytes_read(path, bits) for bits in precisions_of(net)}}
    tell(path, net)
    if options.output is None:
        summary = {"params": count_parameters(net), "avg_bits": average_bits(net), "file": os.path.basename(path)}
        write_json(os.path.join(options.model, "summary.json"), summary | {"size_bytes": os.path.getsize(path)} | sizes)


def read_calibration(path: str | None):
    if path is None:
        return None
    from svq.backend.calibration import Calibration

    Calibration.load(path)
    return read_json(path)


def pack(path: str, net, config, calibration, entropy: bool) -> None:
    from svq.pack.file import save_compared

    distance = save_compared(path, net, config, calibration, entropy)
    print(f"largest cosine distance to the network before packing: {distance:.2g}")


def tell(path: str, net) -> None:
    from svq.quant.api import average_bits, count_parameters

    print(f"{path}: {os.path.getsize(path)} bytes, {average_bits(net):g} bits per weight, "
          f"{count_parameters(net)} parameters")


if __name__ == "__main__":
    run_main(main)
