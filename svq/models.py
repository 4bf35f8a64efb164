"""Networks on disk: `config.yaml` + `model.safetensors`, or one packed `model.svq`."""

from __future__ import annotations

import os
from dataclasses import replace

from torch import nn

from svq.config import dump_config, load_config
from svq.errors import UserError
from svq.network import FrontEndConfig as FrontEndConfig  # users take it from here
from svq.network import ModelConfig, load_state, load_tensors, save_tensors
from svq.pack.file import load_packed
from svq.pack.format import digest, model_dict
from svq.pack.nested import at_precision_, member_config
from svq.quant import quantize_
from svq.quant.api import quantizers

# A config may ask for _MANY numbers plus twice as many as the tensors beside it have. This bounds the memory.
_MANY = 10**6


def save_model(folder, net: nn.Module, config: ModelConfig) -> None:
    """Writes `folder/model.safetensors` and `folder/config.yaml`, the weights last."""
    dump_config(config, os.path.join(folder, "config.yaml"))
    save_tensors(os.path.join(folder, "model.safetensors"), net.state_dict())


def load_model(path, precision: int | None = None, branches: bool = False) -> tuple[nn.Module, ModelConfig]:
    """Loads the network at `path`; returns it, in eval mode, and its config.

    `path`: a folder with config.yaml and model.safetensors (float or quantization-aware), or a packed
    `.svq` file. The network maps features (B, T, F) to embeddings (B, D).
    precision: the bits wanted of a nested model; network and config are then those of this precision alone. Without it
        a folder gives the nested network, set to its highest precision, and a packed file gives the highest one alone.
    branches: whether a float network that is trained with branches (RepVGG) keeps them, to be trained on. Without it
        they are merged, so that the network that is measured, quantized and exported is the one that is used.
    Raises UserError for a missing or damaged file, for tensors that do not fit the config, and for a precision that the
    model does not have.
    """
    path = os.fspath(path)
    if path.endswith(".svq"):
        return load_packed(path, precision)
    if not os.path.isdir(path):
        raise UserError(f"{path}: neither a model folder nor a .svq file")
    config = load_config(os.path.join(path, "config.yaml"), ModelConfig)
    state = load_tensors(os.path.join(path, "model.safetensors"))
    try:
        net = config.build(most=_MANY + 2 * sum(tensor.numel() for tensor in state.values()))
    except UserError as error:
        raise UserError(f"{path}/config.yaml: {error}") from None
    if config.quant is not None:
        quantize_(net, config.quant)
    load_state(net, state, path)
    if precision is not None:
        config = replace(config, quant=member_config(config.quant, precision, path))
        at_precision_(net, precision)
    if config.quant is None and not branches:
        config = merge_branches_(net, config)
    return net.eval(), config


def merge_branches_(net: nn.Module, config: ModelConfig) -> ModelConfig:
    """Merges the branches of `net`, in place, where it is a network that has such (RepVGG); gives its new config.

    The merged network computes in eval mode what `net` did, up to rounding. Other networks and their configs stay as
    they are, and so do quantized ones.
    """
    if not hasattr(net, "merge_") or config.net.get("merged") or config.quant is not None:
        return config
    net.merge_()
    return replace(config, net={**config.net, "merged": True})


def network_digest(net: nn.Module, config: ModelConfig) -> str:
    """Computes the SHA-256, in hexadecimal digits, of a network as `load_model` gives it.

    The digest covers front end, architecture and weights. A packed file has the same digest however its codes are
    packed and whatever calibration it carries; an export of the file states the same one
    (svq.deploy.runtimes.Metadata). The model folder that the file was packed from has another, because the file keeps
    batch norms in float16. Stores of voices hold these digests for years: nothing goes in that a new setting of
    training or quantization would change.
    """
    about = {name: value for name, value in model_dict(config).items() if name in ("arch", "net", "front_end")}
    if any(True for _ in quantizers(net)):  # the weights below are then the float ones that the quantizers round
        about["quant"] = {**model_dict(config)["quant"], "layers": config.quant.layers}
    return digest(about, net.state_dict())
