"""What a network puts into its packed file: its layers' rows, codes and levels, its batch norms, all the rest."""

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

SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65504.0  # of float16 at full precision


def pack_layers(net: nn.Module, entropy: bool) -> tuple[list[PackedLayer], dict[str, torch.Tensor]]:
    """The rows of the quantized layers and the tensors that are theirs (TYPES); nothing of a float network.

    entropy: a layer's codes Huffman coded where that is smaller.
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
        # Judged by a layer's largest level: what float16 takes from a channel far smaller is lost in the noise.
        if _held_by_float16(stored["codebooks"], np.maximum).all():
            tensors["codebooks"] = tensors["codebooks"].half()
    return rows, tensors | {"codes": torch.from_numpy(np.concatenate(pieces))}


def _values(quantizer) -> tuple[dict[str, torch.Tensor], int]:
    """What is stored of a quantizer beside its codes, by the tensor's name, and its grid (of `PackedLayer`)."""
    if not isinstance(quantizer, IntegerQuantizer):
        return {"codebooks": quantizer.codebook()}, PLAIN
    if quantizer.scheme == "symmetric":
        return {"scales": quantizer.scale().detach()}, SYMMETRIC
    return {"scales": quantizer.scale().detach(), "zeros": quantizer.zero()}, AFFINE


def value_bytes(quantizer) -> int:
    """Bytes that a layer takes in the packed file beside its codes, and beside its row."""
    values, grid = _values(quantizer)
    if grid == PLAIN:
        return values["codebooks"].numel() * (2 if values["codebooks"].dim() == 2 else 4)
    return sum(tensor.numel() * TYPES[key].itemsize for key, tensor in values.items())


def codebook_type(rows: list[PackedLayer]) -> torch.dtype:
    """Of `codebooks`. Thousands of them, one a channel, are worth halving; one a layer is exact instead."""
    several = any(row.codebooks > 1 and row.grid == PLAIN for row in rows)
    return torch.float16 if several else torch.float32


@functools.lru_cache
def codebook_size(quant: QuantConfig, bits: int) -> tuple[int, bool, int]:
    """Levels of the codebooks that `quant` makes at `bits` bits, whether there is one a channel, and their grid."""
    quantizer = make_quantizer(torch.linspace(-1, 1, 2048).view(2, 1024), quant, bits)
    codebook = quantizer.codebook()
    return codebook.shape[-1], codebook.dim() == 2, _values(quantizer)[1]


def batch_norms(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name, module) of every batch norm, in the order of the network."""
    return ((name, module) for name, module in net.named_modules() if isinstance(module, _BatchNorm))


def pack_norms(norms: dict[str, _BatchNorm]) -> dict[str, torch.Tensor]:
    """`norms` (float16) and, by their own names, the scales and shifts (C,) (float32) that float16 does not hold."""
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
    """For each tensor whether float16 has room for all its values, and whether the smallest but zero
    (`which` np.minimum) or the largest (np.maximum) keeps all 11 bits."""
    sizes = np.array([tensor.numel() for tensor in tensors])
    starts = np.cumsum(sizes) - sizes
    magnitudes = torch.cat([tensor.reshape(-1) for tensor in tensors]).abs().numpy()
    largest = np.maximum.reduceat(magnitudes, starts)
    zero = np.inf if which is np.minimum else 0.0
    chosen = which.reduceat(np.where(magnitudes == 0, zero, magnitudes), starts)
    return (largest <= LARGEST_HALF) & ((chosen >= SMALLEST_HALF) | (largest == 0))


def other_tensors(net: nn.Module, quantized: set[str], config: ModelConfig) -> dict[str, torch.Tensor]:
    """What neither a quantizer nor a folded batch norm replaces, by its name in the state of the network; `biases`.

    quantized: names of the quantized layers, whose weights are left out.
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
