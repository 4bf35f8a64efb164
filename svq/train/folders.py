"""Reading what a run starts from in the folder of a trained model, and writing the folder of its own."""

from __future__ import annotations

import dataclasses
import os

from torch import nn

from svq import nets
from svq.atomic import atomic_write
from svq.bits.table import bits_by_layer, check_bits, read_bits
from svq.config import read_tree, to_dict, write_provenance
from svq.data.dataset import TrainSet
from svq.errors import UserError, some_of
from svq.files import open_file
from svq.models import load_model, save_model
from svq.network import ModelConfig, load_state, load_tensors, save_tensors
from svq.quant.api import QuantConfig, quantizable
from svq.train.config import TrainConfig
from svq.train.objective import AAMSoftmax


def starting_network(config: TrainConfig, options, finetune: bool = False) -> tuple[nn.Module, TrainConfig]:
    """Loads the network of `options.init`, or builds a new one where that is None; returns it and the completed config.

    In the config, `model` becomes the float model of --init, and `quant.layers` the bits of --bits. Where the model of
    --init is quantized already, `quant` says how. Nothing is quantized by `config` yet.
    finetune: whether a network that is quantized already, for example calibrated, is accepted if `config.quant` agrees
    with it. Raises UserError where --init, --bits and the config do not fit each other.
    """
    if config.allocate is not None and options.bits is None:
        raise UserError(f"{options.config}: `allocate` gives every layer its bits; make the table with svq.bin.allocate "
                        "and name it with --bits")
    if options.init is None:
        net = config.model.build()
        if config.quant is not None and hasattr(net, "merge_") and not config.model.net.get("merged"):
            raise UserError(f"{options.config}: {config.model.arch} has branches, and only what they are merged to is "
                            "quantized; train it without `quant` first and name it by --init, or set net.merged: true")
        return net, config
    if not os.path.isdir(options.init):
        raise UserError(f"{options.init}: --init takes the folder of a model, with config.yaml and model.safetensors")
    net, model = load_model(options.init, branches=config.quant is None)
    check_model_keys(read_tree(options.config, options.set).get("model"), model, options)
    quant = config.quant or model.quant
    if options.bits is not None:
        if config.quant.layers is not None:
            raise UserError(f"{options.config}: quant.layers and --bits both give bits to layers; keep one of them")
        layers = layer_bits(options.bits, net)
        try:
            quant = dataclasses.replace(quant, layers=layers)
        except ValueError as error:
            raise UserError(f"{options.bits}: does not go with `quant`: {error}") from None
    if model.quant is not None and config.quant is not None:
        if not finetune:
            raise UserError(f"{options.init}: quantized already; `quant` in {options.config} needs a float model")
        check_quantization(quant, model.quant, net, config, options)
    return net, dataclasses.replace(config, model=dataclasses.replace(model, quant=None), quant=quant)


def check_quantization(wanted: QuantConfig, found: QuantConfig, net: nn.Module, config: TrainConfig, options) -> None:
    """Raises UserError unless the quantized network of --init, by config `found`, is quantized as `wanted` says."""
    same = dataclasses.replace(found, bits=wanted.bits, layers=wanted.layers) == wanted
    other = [name for name, _ in quantizable(net) if found.bits_of(name) != wanted.bits_of(name)]
    if not same or other:
        what = f"its layers have other bits ({some_of(other)})" if same else f"not as `quant` in {options.config} says"
        raise UserError(f"{options.init}: quantized already, {what}; start from the float model, or make the two agree")
    if config.multi_stage:
        raise UserError(f"{options.init}: quantized already, and multi_stage quantizes one part after the other; start "
                        "from the float model")


def layer_bits(path, net: nn.Module) -> dict[str, int]:
    """Reads bits by layer from a bits.tsv made for `net`; the order is that of the network, not of the rows.

    Raises UserError where the table is wrong or not for `net`.
    """
    rows = read_bits(path)
    check_bits(rows, net, path)
    bits = bits_by_layer(rows)
    return {name: bits[name] for name, _ in quantizable(net)}


def check_model_keys(given: dict | None, model: ModelConfig, options) -> None:
    """Raises UserError where the config asks for another model than --init holds; only the keys it gives count.

    given: `model` of the config, as written.
    """
    found = to_dict(model)
    found["net"] = to_dict(nets.options_of(model.arch)) | found["net"]  # lists for tuples, as YAML has them
    for key, value, has in _differences(given or {}, found, "model"):
        raise UserError(f"{options.config}: {key} is {value}, but the model of --init {options.init} has {has}; "
                        "take `model` out of the config, or start from another model")


def _differences(given: dict, found: dict, prefix: str):
    """Yields (dotted key, value given, value found) wherever the two differ."""
    for key, value in given.items():
        has = found.get(key)
        if isinstance(value, dict) and isinstance(has, dict):
            yield from _differences(value, has, f"{prefix}.{key}")
        elif value != has:
            yield f"{prefix}.{key}", value, has


def take_head(head: AAMSoftmax, folder, train_set: TrainSet) -> None:
    """Fills `head` with the classifier in `folder`. Raises UserError unless its speakers are those of `train_set`."""
    if read_speakers(folder) != list(train_set.speakers):
        raise UserError(f"{folder}/speakers.txt: the classifier there was trained on other speakers than "
                        f"{train_set.data_dir} holds; use the data of that training")
    path = os.path.join(folder, "head.safetensors")
    load_state(head, load_tensors(path), path)


def read_speakers(folder) -> list[str]:
    """Reads the list of speakers that the classifier in `folder` tells apart. Raises UserError where there is none."""
    path = os.path.join(folder, "speakers.txt")
    try:
        with open_file(path, "r", encoding="utf-8") as file:
            return file.read().split()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; a folder that svq.bin.train wrote is needed") from None


def read_head(folder: str) -> tuple[dict | None, list[str] | None]:
    """Reads tensors and speakers of the classifier in `folder`; gives None and None where it has none."""
    path = os.path.join(folder, "head.safetensors")
    return (load_tensors(path), read_speakers(folder)) if os.path.exists(path) else (None, None)


def save_head(folder, head: dict | None, speakers: list[str] | None) -> None:
    """Writes the classifier's tensors and speakers to `folder`, as `read_head` reads them; writes nothing for None."""
    if head is not None:
        save_tensors(os.path.join(folder, "head.safetensors"), head)
        with atomic_write(os.path.join(folder, "speakers.txt")) as file:
            file.writelines(f"{speaker}\n" for speaker in speakers)


def save_trained(folder, net: nn.Module, config: TrainConfig, head: dict | None, speakers: list[str] | None) -> None:
    """Writes a trained model's folder; model.safetensors comes last, as the sign that all else is there.

    config: its `model` and `quant` become the model's config. head, speakers: the classifier's tensors and speakers, or
    None.
    """
    save_head(folder, head, speakers)
    write_provenance(folder, config, config.seed)
    save_model(folder, net, dataclasses.replace(config.model, quant=config.quant))
