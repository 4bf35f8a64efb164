"""The measurements of the final table: identification, EER, bytes, operations and latency of several systems."""

from __future__ import annotations

import dataclasses
import os
from typing import Sequence

import numpy as np

from svq.backend.metrics import eer
from svq.backend.scores import read_trials
from svq.backend.speakers import EerInterval
from svq.data import audio
from svq.data.audio import require_sound
from svq.data.datadir import DataDir
from svq.deploy.runtimes import Embedder, bytes_of, load_embedder
from svq.errors import UserError
from svq.evaluation.development import DevelopmentList
from svq.evaluation.identification import IdentifyConfig, identification
from svq.evaluation.operations import milliseconds, operations
from svq.models import load_model
from svq.network import ModelConfig
from svq.pack.file import packed_bytes
from svq.quant.api import FLOAT_BITS, QuantConfig, average_bits, quantizable
from svq.search.tradeoff_table import Row


def examine(systems: Sequence[tuple[str, str]], data_dir, trials_path, config: IdentifyConfig, seconds: float,
            times: int, num_threads: int, replicates: int) -> list[Row]:
    """A row for each (name, path): a model folder, a .svq, or an exported .onnx or .xml file.

    data_dir, trials_path: what identification and EER are measured on. seconds: length of the utterance that operations
    and latency are of; times: calls of each. UserError naming the file that cannot be used.
    """
    listed = DevelopmentList(data_dir, trials_path)
    interval = EerInterval(read_trials(trials_path), data_dir, replicates, config.seed)
    embedders = [load_embedder(path, None, num_threads) for _, path in systems]
    rng = np.random.default_rng(0)
    noise = {rate: 0.1 * rng.standard_normal((1, round(seconds * rate))).astype(np.float32)
             for rate in sorted({each.config.front_end.rate for each in embedders})}
    calls = [lambda each=each: each.waveforms(noise[each.config.front_end.rate]) for each in embedders]
    taken = milliseconds(calls, times)
    rows = []
    for (name, path), embedder, latency in zip(systems, embedders, taken):
        print(f"{name}: {path}, {embedder.backend}", flush=True)
        about, _ = identification(data_dir, embedder, config, replicates)
        found = listed.cosines(embed_listed(listed, embedder))
        scores = found[listed.target], found[~listed.target]
        size, bits = size_and_bits(path, embedder)
        cost = operations(counted_as(embedder), seconds)
        rows.append(Row(name, os.path.basename(path.rstrip("/")), embedder.backend, bits, size, about["top1"],
                        about["top1_low"], about["top1_high"], about["top5"], 100 * eer(*scores), *interval(*scores),
                        cost.flops / 1e9, cost.equivalent / 1e9, latency))
    return rows


def counted_as(embedder: Embedder) -> ModelConfig:
    """The config whose bits are those of the arithmetic that is assumed: of an INT8 file 8."""
    metadata = embedder.metadata
    if not metadata.precision.startswith("int8"):
        return metadata.config
    kept = {name: FLOAT_BITS for name in metadata.details.get("float_layers", ())}
    return dataclasses.replace(metadata.config, quant=QuantConfig("uniform", 8, layers=kept or None))


def embed_listed(listed: DevelopmentList, embedder: Embedder) -> np.ndarray:
    """(N, D) embeddings of a list's whole utterances, one at a time, from their waveforms."""
    wav, rate = DataDir(listed.data_dir).wav, embedder.config.front_end.rate

    def embedding(utterance: str) -> np.ndarray:
        samples = audio.load(wav[utterance], rate)
        require_sound(utterance, samples, rate)
        return embedder.waveforms(samples[None])[0]

    return np.stack([embedding(utterance) for utterance in listed.ids])


def size_and_bits(path: str, embedder: Embedder) -> tuple[int, float]:
    """Bytes on disk and bits per weight. Of a folder the packed model where there is one; of a quantized one without,
    what packing it would give."""
    if os.path.isdir(path):
        net, config = load_model(path)
        packed = os.path.join(path, "model.svq")
        if config.quant is None:
            return os.path.getsize(os.path.join(path, "model.safetensors")), float(FLOAT_BITS)
        size = os.path.getsize(packed) if os.path.exists(packed) else packed_bytes(net, config.quant, config)
        return size, average_bits(net)
    return bytes_of(path), mean_bits(counted_as(embedder))


def mean_bits(config) -> float:
    """Bits per weight of all layers by the config alone."""
    import torch

    with torch.device("meta"):
        layers = {name: layer.weight.numel() for name, layer in quantizable(config.build())}
    bits = {name: FLOAT_BITS if config.quant is None else config.quant.bits_of(name) for name in layers}
    return sum(bits[name] * count for name, count in layers.items()) / sum(layers.values())
