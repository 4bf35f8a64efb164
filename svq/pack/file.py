"""`model.svq`: a quantized network in one file, whose size on disk is the model's size.

This module writes and loads it, and tells its size without writing it. svq.pack.format describes its content.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import tempfile

import torch
import torch.nn.functional as F
from torch import nn

from svq.atomic import atomic_path
from svq.errors import UserError
from svq.network import ModelConfig, load_state, save_tensors
from svq.pack.format import MERGED, TYPES, PackedLayer, about_file, as_json, digest, packed_size, safetensors_bytes
from svq.pack.nested import nested_bytes, pack_nested
from svq.pack.reading import (
    UnpackedLayer,
    read_packed,
    unpack,
    unpack_biases,
    unpack_lazily,
    unpack_norms,
    with_bits,
)
from svq.pack.writing import batch_norms, codebook_size, codebook_type, other_tensors, pack_layers, pack_norms
from svq.quant.api import FLOAT_BITS, QuantConfig, float_weight, fold_batch_norm_, quantizable, state_names
from svq.quant.nested import precisions_of, set_precision_

LARGEST_DISTANCE = 1e-4  # largest cosine distance allowed between embeddings before and after packing


def save_packed(path, net: nn.Module, config: ModelConfig, calibration: dict | None = None,
                entropy: bool = False) -> int:
    """Writes quantized `net` to `path` (atomically) and returns the file's size in bytes.

    calibration: the numbers that turn scores into log-likelihood ratios, kept in the metadata.
    entropy: codes are Huffman coded where that is smaller; such a file takes longer to load, and its size depends
        on the weights.
    A nested network is written with all its precisions, whichever is set, and the calibration of the highest.
    Raises UserError when `net` has no quantized layer, and for entropy coding of a nested network.
    """
    if precisions_of(net):
        if entropy:
            raise UserError(f"{path}: codes within codes are not Huffman coded; pack a nested network without "
                            "--entropy")
        about, tensors = pack_nested(net, config, calibration)
        save_tensors(path, tensors, {"svq": as_json(about)})
        return os.path.getsize(path)
    rows, tensors = pack_layers(net, entropy)
    if not rows:
        raise UserError(f"{path}: the network is not quantized; quantize it before packing")
    norms = dict(batch_norms(net))
    tensors |= pack_norms(norms) | other_tensors(net, {row.name for row in rows}, config)
    about = about_file(config, rows, norms, calibration)
    about["digest"] = digest(about, tensors)
    save_tensors(path, tensors, {"svq": as_json(about)})
    return os.path.getsize(path)


def packed_bytes(net: nn.Module, quant: QuantConfig, model: ModelConfig, calibration: dict | None = None) -> int:
    """Computes the bytes of the file that `save_packed` writes, without entropy coding, for `net` quantized by `quant`.

    `net`, in float or quantized so already, is not touched. Its shapes determine the size, except that float16 may not
    hold all numbers: this is checked for batch norms, while codebooks per channel are assumed to fit. Takes
    milliseconds, except for method nested, whose file is made in memory and measured.
    """
    if quant.method == "nested":
        return nested_bytes(net, quant, model, calibration)
    rows, counts = [], collections.Counter()
    alike = dataclasses.replace(quant, layers=None)
    for name, layer in quantizable(net):
        bits = quant.bits_of(name)
        if bits != FLOAT_BITS:
            shape = float_weight(layer).shape
            levels, per_channel, grid = codebook_size(alike, bits)
            rows.append(PackedLayer(name, bits, levels, shape[0] if per_channel else 1, grid=grid))
            counts["codes"] += packed_size(shape.numel(), bits)
            counts.update(rows[-1].stored())
    norms = dict(batch_norms(net))
    tensors = pack_norms(norms) | other_tensors(net, {row.name for row in rows}, model)
    sizes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    types = {**TYPES, "codebooks": codebook_type(rows)}
    sizes |= {name: (types[name], (count,)) for name, count in counts.items()}
    about = about_file(dataclasses.replace(model, quant=quant), rows, norms, calibration)
    return safetensors_bytes(sizes, {"svq": as_json({**about, "digest": 64 * "0"})})


def load_packed(path, precision: int | None = None) -> tuple[nn.Module, ModelConfig]:
    """Loads a packed file; returns the network, in eval mode with float weights from the codebooks, and its config.

    precision: the precision to load of a nested file (None: the highest); the others are not read. Network and config
    are those of that precision alone.
    Where not all layers have the same bits, the config's quantization gives the bits of every layer by name.
    Raises UserError when the file is missing, damaged, altered or of another version, or does not fit its config.
    """
    return _network(path, *read_packed(path, precision))


def load_with_codes(path) -> tuple[nn.Module, ModelConfig, list[UnpackedLayer]]:
    """Loads a packed file; returns its network, its config (as `load_packed`) and its quantized layers as codes.

    A nested file is loaded at its highest precision. Raises UserError as `load_packed` does.
    """
    about, tensors = read_packed(path)
    _, layers = unpack(path, about, tensors)
    return *_network(path, about, tensors), layers


def as_packed(net: nn.Module, config: ModelConfig) -> tuple[nn.Module, ModelConfig, list[UnpackedLayer]]:
    """Writes quantized `net` to a temporary packed file, and returns what `load_with_codes` reads from it.

    Raises UserError where `net` is not quantized.
    """
    with tempfile.TemporaryDirectory(prefix="svq-packed-") as folder:
        path = os.path.join(folder, "model.svq")
        save_packed(path, net, config)
        return load_with_codes(path)


def _network(path, about: dict, tensors: dict[str, torch.Tensor]) -> tuple[nn.Module, ModelConfig]:
    config, net, layers = unpack_lazily(path, about, tensors)
    # Float weights are held just once: those made here become the network's own, layer by layer.
    names = state_names(net)
    state = {names[layer.row.name]: layer.weight() for layer in layers}
    state |= {name: t.clone() for name, t in tensors.items() if name not in MERGED}
    state |= unpack_norms(path, about.get("norms"), tensors) | unpack_biases(path, config, net, tensors)
    config = with_bits(config, net, [PackedLayer(*row) for row in about["layers"]])
    load_state(fold_batch_norm_(net), state, path, assign=True)
    return net.eval(), config


def save_compared(path, net: nn.Module, config: ModelConfig, calibration: dict | None = None,
                  entropy: bool = False) -> float:
    """Writes a packed file as `save_packed` does, under its name only after it was loaded and compared with `net`.

    Returns the largest cosine distance of their embeddings, over all precisions of a nested network. Raises UserError
    where it is above LARGEST_DISTANCE.
    """
    with atomic_path(path) as temporary:
        save_packed(temporary, net, config, calibration, entropy)
        distance = max(largest_distance(net if bits is None else set_precision_(net, bits),
                                        load_packed(temporary, bits)[0], config.front_end.num_mels)
                       for bits in precisions_of(net) or [None])
        if not distance <= LARGEST_DISTANCE:
            raise UserError(f"{path}: packed and unpacked networks differ by a cosine distance of {distance:.2g}")
    return distance


@torch.inference_mode()
def largest_distance(net: nn.Module, other: nn.Module, num_mels: int) -> float:
    """Measures the largest cosine distance between two networks' embeddings of seeded random features."""
    feats = torch.randn(4, 200, num_mels, generator=torch.Generator().manual_seed(0)).cumsum(1) / 4
    feats = feats - feats.mean(1, keepdim=True)
    return float((1 - F.cosine_similarity(net(feats).double(), other(feats).double())).max())
