"""Compact ONNX files beside packed files and plain exports: bytes, differences, seconds to load, latency, memory.

    python tests/bench/compact.py [--network ResNet34] [--bits 8 4 3 2 1] [--method kmqat] [--rounds 7] [--threads 1]
    python tests/bench/compact.py --model exp/resnet_kmqat4/model.svq exp/resnet_kmqat2/model.svq

The network has random weights, and its batch norms too are random; its INT8 form is calibrated with noise. All files
take features. Difference: the largest between two embeddings' entries, over the largest entry. Of a float file from
those of model.svq in torch, of an INT8 file from those of the plain INT8 file. Each file is loaded and run in a process
of its own, and the processes take turns: ms of 3 s of speech from features to embedding, median (least); memory that
loading and running added to the resident set at its peak.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# The bench beside this one measures files; spawned processes find it, too.
from latency import CLOCKS, Server, about, measure, noise, serve

WAY = "ONNX Runtime float"  # what runs them; arithmetic is the file's own
FORMS = ("plain float", "compact float", "plain INT8", "compact INT8")


def packed_network(arch, method, bits, path):
    """Writes a packed network with random weights and norms."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from svq.network import ModelConfig
    from svq.pack.file import save_packed
    from svq.quant import QuantConfig, quantize_

    torch.manual_seed(0)
    config = ModelConfig(arch, embed_dim=192 if arch.startswith("ECAPA") else 256, quant=QuantConfig(method, bits))
    net = config.build().eval()
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, -0.3, 1.5)
    save_packed(path, quantize_(net, config.quant), config)


def make_files(packed, folder):
    """Exports a packed file in all forms; {form: path}, {form: difference}, seconds to make a graph compact."""
    import time

    import numpy as np
    import torch

    from svq.deploy.compact import compact
    from svq.deploy.export import export_float, export_int8, float_layers, write
    from svq.deploy.int8 import Int8Config
    from svq.deploy.runtimes import load_embedder
    from svq.pack.file import load_with_codes

    net, config, layers = load_with_codes(packed)
    graph = export_float(net, config)
    graphs = {"plain float": graph}
    graphs["plain INT8"] = export_int8(graph, noise(100, 4), Int8Config(), float_layers(net, quant=config.quant))
    start = time.perf_counter()
    graphs["compact float"] = compact(graphs["plain float"], layers)
    taken = time.perf_counter() - start
    graphs["compact INT8"] = compact(graphs["plain INT8"], layers)
    files, found = {form: str(Path(folder) / f"{form}.onnx") for form in FORMS}, {}
    x = np.random.default_rng(1).standard_normal((2, 300, config.front_end.num_mels)).astype(np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(x)).numpy()
    for form in FORMS:
        write(graphs[form], files[form])
        embeddings = load_embedder(files[form])(x)
        if form == "plain INT8":
            expected = embeddings
        found[form] = np.abs(embeddings - expected).max() / np.abs(expected).max()
    return files, found, taken


def report(label, packed, options):
    with tempfile.TemporaryDirectory() as folder:
        files, differences, taken = make_files(packed, folder)
        servers = {form: Server(serve, files[form], WAY, options.threads, options.clock) for form in FORMS}
        seconds = measure(servers, [1], 298, options.rounds)
        size = os.path.getsize(packed)
        print(f"\n{label}: model.svq {size:,} bytes; made compact in {taken:.1f} s")
        print(f"{'':15}{'bytes':>12}{'of .svq':>9}{'difference':>12}{'load s':>8}{'ms':>16}{'MB':>6}")
        for form, server in servers.items():
            ms = [1000 * each for each in seconds[form, 1]]
            length = os.path.getsize(files[form])
            print(f"{form:15}{length:>12,}{length / size:>9.3f}{differences[form]:>12.1e}{server.loading:>8.2f}"
                  f"{f'{statistics.median(ms):.1f} ({min(ms):.1f})':>16}{server.end():>6.0f}", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--network", default="ResNet34")
    arguments.add_argument("--method", default="kmqat")
    arguments.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3, 2, 1])
    arguments.add_argument("--model", nargs="+", default=[], help="packed files to take instead")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--clock", choices=list(CLOCKS), default="wall",
                           help="processor: of all threads together, which other work on the machine changes less")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    print(f"{about()}; {options.threads} threads")
    for model in options.model:
        report(model, model, options)
    for bits in [] if options.model else options.bits:
        with tempfile.TemporaryDirectory() as folder:
            packed = str(Path(folder) / "model.svq")
            packed_network(options.network, options.method, bits, packed)
            report(f"{options.network}, {options.method}, {bits} bits", packed, options)


if __name__ == "__main__":
    main()
