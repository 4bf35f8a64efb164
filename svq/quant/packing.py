"""`model.svq`: a quantized network in one file, whose size on disk is the model's size.

A safetensors file. For each quantized layer `<layer>.codes` (uint8, `bitpack.pack_codes`) and
`<layer>.codebook` (float32, 2^bits values); for each batch norm `<norm>.scale` and `<norm>.shift`; every
other tensor as it is. Metadata `svq`: JSON with the format version, the model config, bits and shape of
each layer, the calibration, and a SHA-256 digest of all of it.
"""

from __future__ import annotations

import hashlib
import json
import os

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from svq.config import from_dict, to_dict
from svq.errors import UserError
from svq.models import ModelConfig, load_state, save_tensors
from svq.quant.api import float_weight, quantizers
from svq.quant.bitpack import pack_codes, packed_size, unpack_codes
from svq.quant.folding import FoldedBatchNorm, fold_batch_norm_, folded

FORMAT_VERSION = 1


def save_packed(path, net: nn.Module, config: ModelConfig, calibration: dict | None = None) -> int:
    """Writes quantized `net` to `path` (atomically) and returns the file's size in bytes.

    calibration: what turns scores into log-likelihood ratios, kept in the metadata.
    Raises UserError when `net` has no quantized layer.
    """
    tensors, layers = pack_tensors(net)
    if not layers:
        raise UserError(f"{path}: the network is not quantized; quantize it before packing")
    about = {"format": FORMAT_VERSION, "model": to_dict(config), "layers": layers, "calibration": calibration}
    about["digest"] = digest(about, tensors)
    save_tensors(path, tensors, {"svq": json.dumps(about, sort_keys=True, separators=(",", ":"))})
    return os.path.getsize(path)


def pack_tensors(net: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, dict]]:
    """The tensors of the packed file, and of each quantized layer its bits and shape."""
    tensors, layers, done = {}, {}, set()
    for name, module, quantizer in quantizers(net):
        weight = float_weight(module)
        codes = quantizer.codes(weight).cpu().numpy()
        tensors[f"{name}.codes"] = torch.from_numpy(pack_codes(codes, quantizer.bits))
        tensors[f"{name}.codebook"] = quantizer.codebook().cpu()
        layers[name] = {"bits": quantizer.bits, "shape": list(weight.shape)}
        done.add(f"{name}.parametrizations")
    for name, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            affine = folded(module)
            tensors[f"{name}.scale"], tensors[f"{name}.shift"] = affine.scale, affine.shift
            done.add(name)
    for name, tensor in net.state_dict().items():
        parents = name.split(".")
        if not any(".".join(parents[:i]) in done for i in range(1, len(parents) + 1)):
            tensors[name] = tensor.cpu()
    return tensors, layers


def digest(about: dict, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over the metadata (its own entry aside) and every tensor's name, type, shape and bytes."""
    total = hashlib.sha256(json.dumps({k: v for k, v in about.items() if k != "digest"}, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def read_packed(path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Metadata and tensors of a packed file. UserError when it is missing, damaged, altered or too new."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("svq", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole packed model ({error}); pack or copy it again") from None
    if not isinstance(about, dict) or "format" not in about:
        raise UserError(f"{path}: a safetensors file, but not a packed model; make one with svq.bin.pack")
    if about["format"] != FORMAT_VERSION:
        raise UserError(f"{path}: format version {about['format']}, this svq reads {FORMAT_VERSION}; update svq")
    if about.get("digest") != digest(about, tensors):
        raise UserError(f"{path}: its content does not match its digest: damaged or altered; pack or copy it again")
    return about, tensors


def load_packed(path) -> tuple[nn.Module, ModelConfig]:
    """The network of a packed file, in eval mode with float weights from the codebooks, and its config."""
    about, tensors = read_packed(path)
    config = from_dict(about["model"], ModelConfig, path)
    net = fold_batch_norm_(config.build())
    state = {name: t for name, t in tensors.items() if not name.endswith((".codes", ".codebook"))}
    for name, layer in about["layers"].items():
        state[f"{name}.weight"] = _unpack_layer(path, name, layer, tensors)
    load_state(net, state, path)
    return net.eval(), config


def _unpack_layer(path, name: str, layer: dict, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """codebook[codes] as a float32 tensor of the layer's shape."""
    count = 1
    for size in layer["shape"]:
        count *= size
    codes, codebook = tensors.get(f"{name}.codes"), tensors.get(f"{name}.codebook")
    if codes is None or codebook is None or codebook.numel() != 2 ** layer["bits"]:
        raise UserError(f"{path}: layer {name} lacks codes or codebook; pack it again")
    if codes.numel() != packed_size(count, layer["bits"]):
        raise UserError(f"{path}: layer {name} has {codes.numel()} bytes of codes for {count} weights; pack it again")
    indices = torch.from_numpy(unpack_codes(codes.numpy(), layer["bits"], count))
    return codebook[indices.int()].view(layer["shape"])


def count_parameters(net: nn.Module) -> int:
    """Learned numbers of the float network: quantizer scales do not count, folded norms count as two each."""
    own = {id(p) for _, _, quantizer in quantizers(net) for p in quantizer.parameters()}
    learned = sum(p.numel() for p in net.parameters() if id(p) not in own)
    return learned + sum(2 * m.scale.numel() for m in net.modules() if isinstance(m, FoldedBatchNorm))
