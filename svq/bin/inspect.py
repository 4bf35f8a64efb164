"""Prints what a packed model holds: config, layers, bits, bytes, codebooks, digest."""

from __future__ import annotations

import os

from svq.cli import parser, run_main
from svq.quant.packing import read_packed


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", help="packed model, .svq")
    options = arguments.parse_args()
    about, tensors = read_packed(options.model)
    model = about["model"]
    print(f"{options.model}: format {about['format']}, {os.path.getsize(options.model)} bytes, digest {about['digest']}")
    print(f"{model['arch']} {model['net']} embedding {model['embed_dim']} front end {model['front_end']}")
    print(f"calibration {about['calibration']}")
    print(f"{'layer':<28} {'shape':<20} bits {'bytes':>9}  codebook")
    coded = 0
    for name, layer in about["layers"].items():
        book, size = tensors[f"{name}.codebook"], tensors[f"{name}.codes"].numel()
        shape = "x".join(map(str, layer["shape"]))
        print(f"{name:<28} {shape:<20} {layer['bits']:>4} {size:>9}  {book[0]:+.4f} .. {book[-1]:+.4f}")
        coded += size
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    print(f"codes {coded} bytes, other tensors {total - coded}, header {os.path.getsize(options.model) - total}")


if __name__ == "__main__":
    run_main(main)
