"""The content of a network's packed file: its layers' rows, codes and levels, its batch norms, all other tensors."""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from svq.network import ModelConfig
from svq.pack.format import AFFINE, PLAIN, SYMMETRIC, TYPES, PackedLayer, compress_codes, merged_biases, pack_codes
from svq.quant.api import QuantConfig, float_weight, quantizers, scales_and_shifts, state_names
from svq.quant.integer import IntegerQuantizer
from svq.quant.quantizers import make_quantizer

SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65504.0  # range of float16 at full precision


def pack_layers(net: nn.Module, entropy: bool) -> tuple[list[PackedLayer], dict[str, torch.Tensor]]:
    """Makes the rows of the quantized layers of `net` and their tensors (TYPES); both empty for a float network.

    entropy: whether a layer's codes are Huffman coded where that is smaller.
    """
    rows, pieces, stored = [], [], collections.defaultdict(list)
    for name, layer, quantizer in quantizers(net):
        codes, values, grid = quantizer.codes(float_weight(layer)).cpu().numpy(), *_values(quantizer)
        levels = quantizer.codebook().shape[-1]
        packed, compressed = pack_codes(codes, quantizer.bits), 0
        if entropy:
            coded = compress_codes(codes, levels)
            if coded.size < packed.size:
                packed, compressed = coded, coded.size
        channels = values["scales"].numel() if grid else values["codebooks"].numel() // levels
        rows.append(PackedLayer(name, quantizer.bits, levels, channels, compressed, grid))
        pieces.append(packed)
        for key, tensor in values.items():
            stored[key].append(tensor.cpu().reshape(-1).to(TYPES[key]))
    if not rows:
        return [], {}
    tensors = {key: torch.cat(parts) for key, parts in stored.items()}
    if "codebooks" in tensors and codebook_type(rows) == torch.float16:
        # A layer's largest level decides: what float16 loses of a far smaller channel does not matter.
        if _held_by_float16(stored["codebooks"], np.maximum).all():
            tensors["codebooks"] = tensors["codebooks"].half()
    return rows, tensors | {"codes": torch.from_numpy(np.concatenate(pieces))}


def _values(quantizer) -> tuple[dict[str, torch.Tensor], int]:
    """Returns the values of a quantizer that are stored beside its codes, by the tensor's name, and its grid."""
    if not isinstance(quantizer, IntegerQuantizer):
        return {"codebooks": quantizer.codebook()}, PLAIN
    if quantizer.scheme == "symmetric":
        return {"scales": quantizer.scale().detach()}, SYMMETRIC
    return {"scales": quantizer.scale().detach(), "zeros": quantizer.zero()}, AFFINE


def value_bytes(quantizer) -> int:
    """Computes the bytes that the levels (or scales and zeros) of a quantizer's layer take in the packed file."""
    values, grid = _values(quantizer)
    if grid == PLAIN:
        return values["codebooks"].numel() * (2 if values["codebooks"].dim() == 2 else 4)
    return sum(tensor.numel() * TYPES[key].itemsize for key, tensor in values.items())


def codebook_type(rows: list[PackedLayer]) -> torch.dtype:
    """Chooses the type of `codebooks`: float16 for one a channel, of which there are thousands; else float32, exact."""
    several = any(row.codebooks > 1 and row.grid == PLAIN for row in rows)
    return torch.float16 if several else torch.float32


@functools.lru_cache
def codebook_size(quant: QuantConfig, bits: int) -> tuple[int, bool, int]:
    """Finds what codebooks `quant` makes at `bits` bits: the number of levels, whether one a channel, and the grid."""
    quantizer = make_quantizer(torch.linspace(-1, 1, 2048).view(2, 1024), quant, bits)
    codebook = quantizer.codebook()
    return codebook.shape[-1], codebook.dim() == 2, _values(quantizer)[1]


def batch_norms(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields (name, module) for every batch norm of `net`, in the order of the network."""
    return ((name, module) for name, module in net.named_modules() if isinstance(module, _BatchNorm))


def pack_norms(norms: dict[str, _BatchNorm]) -> dict[str, torch.Tensor]:
    """Makes the tensors of batch norms: `norms` (float16), all scales and shifts one after another.

    A scale or shift (C,) that float16 does not hold is a float32 tensor of its own instead, by its own name.
    """
    if not norms:
        return {}
    scales, shifts = zip(*scales_and_shifts(list(norms.values())))
    # An input may be as large as its scale is small, so every scale must keep its digits; shifts are only added.
    held = zip(_held_by_float16(scales, np.minimum), _held_by_float16(shifts, np.maximum))
    halves, tensors = [], {}
    for name, scale, shift, (scale_held, shift_held) in zip(norms, scales, shifts, held):
        for kind, values, fits in (("scale", scale, scale_held), ("shift", shift, shift_held)):
            if fits:
                halves.append(values)
            else:
                tensors[f"{name}.{kind}"] = values.clone()
    return tensors | ({"norms": torch.cat(halves).half()} if halves else {})


def _held_by_float16(tensors: list[torch.Tensor], which) -> np.ndarray:
    """Checks for each tensor whether float16 holds it: (n,) bool.

    float16 must have room for all values, and the smallest one that is not zero (`which` np.minimum) or the largest
    (np.maximum) must keep all 11 bits.
    """
    sizes = np.array([tensor.numel() for tensor in tensors])
    starts = np.cumsum(sizes) - sizes
    magnitudes = torch.cat([tensor.reshape(-1) for tensor in tensors]).abs().numpy()
    largest = np.maximum.reduceat(magnitudes, starts)
    zero = np.inf if which is np.minimum else 0.0
    chosen = which.reduceat(np.where(magnitudes == 0, zero, magnitudes), starts)
    return (largest <= LARGEST_HALF) & ((chosen >= SMALLEST_HALF) | (largest == 0))


def other_tensors(net: nn.Module, quantized: set[str], config: ModelConfig) -> dict[str, torch.Tensor]:
    """Collects the tensors of `net` that neither a quantizer nor a folded batch norm replaces, by name in its state.

    `biases` holds those of layers that norms were folded into. quantized: names of the quantized layers, whose weights
    are left out.
    """
    merged, weights = merged_biases(config), state_names(net)
    biases = [net.get_parameter(name).detach().cpu() for name in merged]
    tensors = {"biases": torch.cat(biases)} if merged else {}
    elsewhere = {*merged, *(weights[name] for name in quantized)}
    for name, module in net.named_modules():
        if isinstance(module, _BatchNorm) or "parametrizations" in name.split("."):
            continue
        own = [(f"{name}.{key}" if name else key, key)
               for key, _ in itertools.chain(module.named_parameters(recurse=False),
                                             module.named_buffers(recurse=False))]
        own = [(full, key) for full, key in own if full not in elsewhere]
        if own:
            state = module.state_dict()  # knows which buffers are kept
            tensors |= {full: state[key].cpu() for full, key in own if key in state}
    return tensors
