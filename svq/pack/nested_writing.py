"""What a nested network puts into its packed file: each weight's code once, all that differs for each precision."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn

from svq.network import ModelConfig
from svq.pack.format import NESTED_VERSION, about_file, as_json, digest, safetensors_bytes
from svq.pack.nested_codes import split_codes
from svq.pack.nested_reading import MARK, names_at
from svq.pack.writing import batch_norms, other_tensors, pack_layers, pack_norms
from svq.quant.api import QuantConfig, float_weight, quantizable, quantize_
from svq.quant.nested import precisions_of
from svq.quant.nested_members import at_precision_


def pack_nested(net: nn.Module, config: ModelConfig, calibration: dict | None) -> tuple[dict, dict[str, torch.Tensor]]:
    """Metadata and tensors (svq.pack.format, version 4) of nested `net`, which stays as it is.

    calibration: that of the highest precision, or None.
    """
    precisions, tensors = precisions_of(net), {}
    for bits in precisions:  # ascending: what is left after the loop is of the highest
        member = at_precision_(copy.deepcopy(net), bits)
        rows, packed = pack_layers(member, entropy=False)
        norms = dict(batch_norms(member))
        tensors |= {f"{name}{MARK}{bits}": tensor for name, tensor in (packed | pack_norms(norms)).items()
                    if name != "codes"}
    layers = dict(quantizable(member))
    sizes = [float_weight(layers[row.name]).numel() for row in rows]
    parts = split_codes(packed["codes"].numpy(), sizes, precisions)
    tensors |= {f"codes{MARK}{bits}": torch.from_numpy(part) for bits, part in parts.items()}
    tensors |= other_tensors(member, {row.name for row in rows}, config)
    about = about_file(config, rows, norms, calibration) | {"format": NESTED_VERSION}
    digests = {str(bits): digest(about, {name: tensors[name] for name in names_at(tensors, bits)})
               for bits in precisions}
    return about | {"digest": digests}, tensors


def nested_bytes(net: nn.Module, quant: QuantConfig, model: ModelConfig, calibration: dict | None = None) -> int:
    """Bytes of the packed file of `net`, in float or nested already, quantized with `quant` (method nested)."""
    if not precisions_of(net):
        net = quantize_(copy.deepcopy(net), quant)
    about, tensors = pack_nested(net, dataclasses.replace(model, quant=quant), calibration)
    return safetensors_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
                             {"svq": as_json(about)})
