"""Prints what a packed model holds: config, front end, calibration, layers, bits, bytes, codebooks, digest.

The column `entropy` says how many bits a weight of the layer would take in an ideal code; the Huffman codes of
svq.bin.pack --entropy come near to it. A nested file is shown at one precision.
"""

from __future__ import annotations

import os

from svq.cli import parser, run_main
from svq.errors import UserError


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", help="packed model, .svq")
    arguments.add_argument("--precision", type=int, help="the precision of a nested file to show (None: its highest)")
    options = arguments.parse_args()
    if not options.model.endswith(".svq"):
        raise UserError(f"{options.model}: not a packed file (.svq), as svq.bin.pack makes; give one")
    import torch

    from svq.pack.format import MERGED
    from svq.pack.nested import bytes_read
    from svq.pack.reading import read_packed, unpack
    from svq.quant.api import FLOAT_BITS, quantizable

    about, tensors = read_packed(options.model, options.precision)
    config, layers = unpack(options.model, about, tensors)
    size = bytes_read(options.model, options.precision)
    print(f"{options.model}: format {about['format']}, {size} bytes, digest {about['digest']}")
    whole = os.path.getsize(options.model)
    if size < whole:
        print(f"nested: one of the precisions of a file of {whole} bytes, shown as it is read by itself")
    print(f"model {config.arch} {config.net} embedding {config.embed_dim}")
    print(f"front end {about['model']['front_end']}")
    print(f"quantization {about['model']['quant']}")
    print(f"calibration {about['calibration']}")
    print(f"{'layer':<28} {'shape':<16} bits {'bytes':>9} entropy  codebook")
    for layer in layers:
        print(describe(layer))
    with torch.device("meta"):
        counts = {name: layer.weight.numel() for name, layer in quantizable(config.build())}
    bits = {name: FLOAT_BITS for name in counts} | {layer.row.name: layer.row.bits for layer in layers}
    for name in (name for name in counts if bits[name] == FLOAT_BITS):
        print(f"{name:<28} in float")
    total = sum(counts.values())
    print(f"{total} weights of {sum(counts[name] * bits[name] for name in counts) / total:g} bits on average, "
          f"entropy {sum(entropy(layer) * counts[layer.row.name] for layer in layers) / total:.3f}")
    held = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    parts = [f"{name} {held.pop(name)}" for name in MERGED if name in held]
    print(f"bytes: {', '.join(parts)}, other tensors {sum(held.values())}, "
          f"header {size - sum(t.numel() * t.element_size() for t in tensors.values())}")


def describe(layer) -> str:
    """Writes the line of the table for a svq.pack.reading.UnpackedLayer."""
    from svq.pack.format import packed_size

    row = layer.row
    shape = "x".join(map(str, layer.codes.shape))
    size = row.compressed or packed_size(layer.codes.numel(), row.bits)
    return (f"{row.name:<28} {shape:<16} {row.bits:>4} {size:>9} {entropy(layer):>7.3f}  {codebook(layer)}"
            + (" Huffman" if row.compressed else ""))


def codebook(layer) -> str:
    """Describes the codebook of a layer.

    Shows the levels of one codebook, without the middle ones; for codebooks per channel their number and the outermost
    levels; for an integer grid its scale and, if affine, its zero point, or the smallest and the largest over channels.
    """
    from svq.pack.format import AFFINE

    row = layer.row
    if layer.levels is None:
        several = f"{row.codebooks} integer grids of" if row.codebooks > 1 else "integer grid of"
        zero = f", zero {span(layer.zero, '.0f')}" if row.grid == AFFINE else ""
        return f"{several} {row.levels} levels, scale {span(layer.scale, '.4g')}{zero}"
    if row.codebooks > 1:
        return f"{row.codebooks} of {row.levels} levels, {layer.codebook.min():+.4f} to {layer.codebook.max():+.4f}"
    levels = [f"{level:+.4f}" for level in layer.codebook]
    return " ".join(levels if len(levels) <= 4 else [*levels[:2], f"({row.levels - 4} more)", *levels[-2:]])


def span(values, digits: str) -> str:
    """Writes a tensor's value, or the smallest and the largest of several."""
    ends = (values.min(), values.max())
    return " to ".join(format(float(end), digits) for end in (ends if values.dim() else ends[:1]))


def entropy(layer) -> float:
    """Computes the entropy of a layer's codes in bits per weight, as if they were drawn independently."""
    import torch

    shares = torch.bincount(layer.codes.flatten()).double() / layer.codes.numel()
    return float(-torch.special.xlogy(shares, shares).sum() / torch.log(torch.tensor(2.0)).double())


if __name__ == "__main__":
    run_main(main)
