"""The trade-off table: a float network beside the systems that were made of it.

Each system has its identification accuracy, EER, bytes, operations and latency. The table keeps apart what was counted,
what is assumed and what was measured.
"""

from __future__ import annotations

import dataclasses
import os
from html import escape
from typing import Sequence

import numpy as np

from svq.backend.bootstrap import EerInterval
from svq.backend.metrics import eer
from svq.backend.scores import read_trials
from svq.data import audio
from svq.data.audio import require_sound
from svq.data.datadir import DataDir
from svq.deploy.runtimes import Embedder, bytes_of, load_embedder
from svq.draw.tables import html_table, markdown_table
from svq.evaluation.development import DevelopmentList
from svq.evaluation.identification import IdentifyConfig, identification
from svq.evaluation.operations import milliseconds, operations
from svq.models import load_model
from svq.network import ModelConfig
from svq.pack.file import packed_bytes
from svq.quant.api import FLOAT_BITS, QuantConfig, average_bits, quantizable


@dataclasses.dataclass(frozen=True)
class Row:
    """A system in the table. bits: per weight. size_bytes: on disk. top1, top5, eer and the 95 % intervals: percent.
    gflops: counted; gflops_equivalent: under an assumption; latency_ms: measured."""

    system: str
    file: str
    backend: str
    bits: float
    size_bytes: int
    top1: float
    top1_low: float
    top1_high: float
    top5: float
    eer: float
    eer_low: float
    eer_high: float
    gflops: float
    gflops_equivalent: float
    latency_ms: float


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The conditions under which the rows were measured. assumption: the one behind gflops_equivalent, in words."""

    data: str
    speakers: int
    probes: int
    probe_seconds: float
    seconds: float
    times: int
    num_threads: int
    hardware: str
    assumption: str


HEADS = ("system", "runs in", "bits", "file (bytes)", "top-1 (%)", "95 %", "top-5 (%)", "EER (%)", "95 %",
         "GFLOPs counted", "GFLOPs theoretical", "ms measured", "against the first")
LEFT = 2  # columns of words


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Gives the table's cells as text. The last column sets the latency against the first row's."""
    return [[row.system, row.backend, f"{row.bits:.3g}", f"{row.size_bytes:,}", f"{row.top1:.2f}",
             f"{row.top1_low:.1f} to {row.top1_high:.1f}", f"{row.top5:.2f}", f"{row.eer:.2f}",
             f"{row.eer_low:.2f} to {row.eer_high:.2f}", f"{row.gflops:.4g}", f"{row.gflops_equivalent:.4g}",
             f"{row.latency_ms:.2f}", f"{rows[0].latency_ms / row.latency_ms:.2f} x"] for row in rows]


def notes(rows: Sequence[Row], about: Conditions) -> list[str]:
    """Gives the notes that explain the table's columns and say which figures are theoretical."""
    found = [
        f"Identification: {about.speakers} speakers of {about.data}, one segment of {about.probe_seconds:g} s or less "
        f"enrolled, {about.probes} probes, plain cosine. Intervals are from resampled speakers. EER: all trials of the "
        "same set, cosine after the set's own mean is taken off, no score normalization.",
        f"GFLOPs counted: the network's convolutions and matrix products for {about.seconds:g} s, by torch's counter, "
        "a multiplication and an addition being two. Quantizing weights changes none of them.",
        f"GFLOPs theoretical: not computed by anything here. The assumption: {about.assumption}. It would take a "
        "machine whose speed grows so with every bit saved.",
        f"ms measured: from a waveform of {about.seconds:g} s to its embedding, front end included, median of "
        f"{about.times} calls in turns, {about.num_threads} thread(s), {about.hardware}. In torch quantized weights are "
        "computed with as 32-bit floats, so a saving is to be seen only in exported INT8 files.",
    ]
    if all(row.backend == "torch" for row in rows):
        found.append("All systems here run in torch: differences in ms are chance.")
    if rows[0].top1 == 100:
        found.append("The first system identifies every probe: these data cannot show that another is better, and a "
                     "loss shows only where it is larger than the interval.")
    return found


def markdown(rows: Sequence[Row], about: Conditions) -> str:
    """Writes the table and its notes as Markdown."""
    return markdown_table(HEADS, cells(rows), LEFT) + "\n\n" + "\n".join(f"- {note}" for note in notes(rows, about)) + "\n"


def html(rows: Sequence[Row], about: Conditions) -> str:
    """Gives the trade-off table and its notes as HTML."""
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes(rows, about))
    return html_table(HEADS, cells(rows), LEFT) + f'<ul class="note">{listed}</ul>'


def examine(systems: Sequence[tuple[str, str]], data_dir, trials_path, config: IdentifyConfig, seconds: float,
            times: int, num_threads: int, replicates: int) -> list[Row]:
    """Measures systems on development data; gives a row of the trade-off table for each.

    systems: (name, path) pairs; a path is a model folder, a .svq, or an exported .onnx or .xml file. data_dir,
    trials_path: the data for identification and EER. seconds: length of the utterance for which operations are counted
    and latency is measured. times: how often each system is called for its latency. UserError naming the file that
    cannot be used.
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
    """Gives the model's config with the bits of the arithmetic that it is counted in.

    Layers of an INT8 file have 8 bits, except those that it computes in float. Other models keep their own bits.
    """
    metadata = embedder.metadata
    if not metadata.precision.startswith("int8"):
        return metadata.config
    kept = {name: FLOAT_BITS for name in metadata.details.get("float_layers", ())}
    return dataclasses.replace(metadata.config, quant=QuantConfig("uniform", 8, layers=kept or None))


def embed_listed(listed: DevelopmentList, embedder: Embedder) -> np.ndarray:
    """Embeds the whole utterances of a list from their waveforms, one at a time; gives (N, D) float32.

    UserError naming an utterance that cannot be read or has no sound.
    """
    wav, rate = DataDir(listed.data_dir).wav, embedder.config.front_end.rate

    def embedding(utterance: str) -> np.ndarray:
        samples = audio.load(wav[utterance], rate)
        require_sound(utterance, samples, rate)
        return embedder.waveforms(samples[None])[0]

    return np.stack([embedding(utterance) for utterance in listed.ids])


def size_and_bits(path: str, embedder: Embedder) -> tuple[int, float]:
    """Gives the bytes on disk and the mean bits per weight of a model.

    A quantized model folder counts by its packed model.svq, or without one by what packing would write; a float folder
    by model.safetensors; any other model by its file or files.
    """
    if os.path.isdir(path):
        net, config = load_model(path)
        packed = os.path.join(path, "model.svq")
        if config.quant is None:
            return os.path.getsize(os.path.join(path, "model.safetensors")), float(FLOAT_BITS)
        size = os.path.getsize(packed) if os.path.exists(packed) else packed_bytes(net, config.quant, config)
        return size, average_bits(net)
    return bytes_of(path), mean_bits(counted_as(embedder))


def mean_bits(config) -> float:
    """Computes the mean bits per weight over all layers from a model's config alone."""
    import torch

    with torch.device("meta"):
        layers = {name: layer.weight.numel() for name, layer in quantizable(config.build())}
    bits = {name: FLOAT_BITS if config.quant is None else config.quant.bits_of(name) for name in layers}
    return sum(bits[name] * count for name, count in layers.items()) / sum(layers.values())
