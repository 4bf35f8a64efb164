"""Latency of networks in torch, ONNX Runtime and OpenVINO, in float and INT8: ms an utterance, RTF, memory, load time.

    python tests/bench/latency.py [--networks ResNet34 ECAPA512] [--threads 1 2] [--batches 1 8] [--seconds 3]
    python tests/bench/latency.py --model exp/resnet_kmqat2 --range-data data/train    # one's own, trained, networks
    python tests/bench/without_vnni.py python tests/bench/latency.py                   # as on an older processor

Each network and way of running it has a process of its own, and the processes take turns, so that whatever else the
machine does falls on all of them alike. The milliseconds are of the network alone, from features to embedding; the row
`fbank` is what the front end adds to any of them. Per utterance of --seconds: a batch of 8 counts an eighth. Memory:
what loading and running added to the resident set of the process at its peak. Networks without --model have random
weights, on which time does not depend; calibrated on noise, their INT8 embeddings mean nothing.

INT8 files have safe weights, of 7 bits (svq.deploy.int8). For comparison, 8bit: weights of 8 bits; uint8: the same with
a zero point of 128; precise: with ONNX Runtime's session.x64quantprecision. Without VNNI `8bit` alone is wrong.
"""

import argparse
import contextlib
import copy
import dataclasses
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
NETWORKS = {"ResNet34": 256, "ECAPA512": 192, "ECAPA1024": 192, "DFResNet110": 256}
# name -> file that runs, its backend
WAYS = {
    "torch eager": ("float", "torch"),    # the network as it was trained: contiguous, called as a module
    "torch float32": ("float", "torch"),  # as svq runs it: channels last
    "torch bfloat16": ("float", "torch"),
    "ONNX Runtime float": ("float.onnx", "onnxruntime"),
    "ONNX Runtime INT8": ("int8_safe.onnx", "onnxruntime"),
    "ONNX Runtime INT8 precise": ("int8_safe.onnx", "onnxruntime"),
    "ONNX Runtime INT8 8bit": ("int8_8bit.onnx", "onnxruntime"),
    "ONNX Runtime INT8 8bit precise": ("int8_8bit.onnx", "onnxruntime"),
    "ONNX Runtime INT8 uint8": ("int8_uint8.onnx", "onnxruntime"),
    "OpenVINO float": ("float.xml", "openvino"),
    "OpenVINO INT8": ("int8_safe.xml", "openvino"),
    "OpenVINO INT8 8bit": ("int8_8bit.xml", "openvino"),
}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def peak_mb():
    from svq.hardware import peak_bytes

    return peak_bytes() / 2**20


def serve(pipe, path, way, threads, clock):
    """One process: loads a network, then times a batch whenever it is asked to, until it is told None."""
    import numpy as np
    import torch

    from svq.deploy.runtimes import load_embedder

    torch.set_num_threads(threads)
    before, start = peak_mb(), time.perf_counter()
    if way == "torch eager":
        run = eager(path)
    elif way.startswith("ONNX Runtime"):
        run = session(path, threads, precise=way.endswith("precise"))
    else:
        run = load_embedder(path, WAYS[way][1], threads).features
    loading = time.perf_counter() - start
    context = contextlib.nullcontext
    if way == "torch bfloat16":
        context = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    feats = {}
    pipe.send(loading)
    for batch, frames in iter(pipe.recv, None):
        if (batch, frames) not in feats:
            feats[batch, frames] = np.random.default_rng(0).standard_normal((batch, frames, 80), dtype=np.float32)
        with context():
            run(feats[batch, frames])  # after the turns of the others nothing of it is in the caches
            start = CLOCKS[clock]()
            run(feats[batch, frames])
        pipe.send(CLOCKS[clock]() - start)
    pipe.send(peak_mb() - before)


def eager(path):
    """The network of a folder as torch runs it without any preparation, quantized weights as plain floats."""
    import torch

    from svq.models import load_model
    from svq.quant.api import freeze_

    net = freeze_(load_model(path)[0])

    def run(feats):
        with torch.inference_mode():
            return net(torch.from_numpy(feats)).numpy()

    return run


def session(path, threads, precise):
    """ONNX Runtime with the settings of svq.deploy.runtimes, but told to be precise only where asked."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.use_deterministic_compute = threads, 1, True
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", str(int(precise)))
    made = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feats: made.run(None, {"input": feats})[0]


def unsigned(model):
    """An INT8 graph with its weights as uint8, 128 being zero."""
    import numpy as np
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]:
        weight = numpy_helper.to_array(tensors[node.input[0]])
        if weight.dtype != np.int8:
            continue
        zero = numpy_helper.to_array(tensors[node.input[2]])
        moved = (weight.astype(int) + 128).astype(np.uint8)
        tensors[node.input[0]].CopyFrom(numpy_helper.from_array(moved, node.input[0]))
        name = f"{node.input[0]}_middle"
        model.graph.initializer.append(numpy_helper.from_array(np.full(zero.shape, 128, np.uint8), name))
        node.input[2] = name
    return model


def serve_fbank(pipe, threads, clock):
    """The same for the front end; frames count as hops of 10 ms."""
    import torch

    from svq.data.frontend import FrontEnd, FrontEndConfig

    torch.set_num_threads(threads)
    before, start = peak_mb(), time.perf_counter()
    front_end = FrontEnd(FrontEndConfig())
    pipe.send(time.perf_counter() - start)
    for batch, frames in iter(pipe.recv, None):
        waveforms = 0.1 * torch.randn(batch, 160 * frames + 240)
        front_end(waveforms)
        start = CLOCKS[clock]()
        front_end(waveforms)
        pipe.send(CLOCKS[clock]() - start)
    pipe.send(peak_mb() - before)


class Server:
    """A child process that runs one of the above."""

    def __init__(self, target, *args):
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=target, args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()
        self.loading = self.pipe.recv()  # EOFError: it ended, and has said why

    def time(self, batch, frames):
        self.pipe.send((batch, frames))
        return self.pipe.recv()

    def end(self):
        self.pipe.send(None)
        memory = self.pipe.recv()
        self.process.join()
        return memory


def measure(servers, batches, frames, rounds):
    """{(name, batch): seconds of each round}, the servers taking turns."""
    seconds = {(name, batch): [] for name in servers for batch in batches}
    for _ in range(rounds):
        for batch in batches:
            for name, server in servers.items():
                seconds[name, batch].append(server.time(batch, frames))
    return seconds


def make_files(source, folder, ways, data, frames, count=16):
    """Exports what `ways` run of the model folder `source`; {file's name: path}.

    INT8 is calibrated with `count` inputs: of the data directory's feats.scp, or noise of `frames` frames.
    """
    from svq.deploy.export import export_float, export_int8, float_layers, write
    from svq.deploy.int8 import Int8Config, calibration_inputs
    from svq.models import load_model
    from svq.quant.api import freeze_

    names = {WAYS[way][0] for way in ways}
    files = {name: str(source) if name == "float" else str(Path(folder) / name) for name in names}
    if names == {"float"}:
        return files
    net, config = load_model(source)
    graph = export_float(freeze_(net), config)
    feats = noise(frames, count)
    if data is not None:
        feats = calibration_inputs(data, graph.metadata, count, seconds=0.0, seed=0, input="feats")
    graphs = {"float": graph}
    for weights in ("safe", "8bit"):
        if any(weights in name or weights == "8bit" and "uint8" in name for name in names):
            graphs[f"int8_{weights}"] = export_int8(graph, feats, Int8Config(int8_weights=weights),
                                                    float_layers(net, quant=config.quant))
    for name in names - {"float"}:
        kind = name.split(".")[0]
        if kind == "int8_uint8":
            write(dataclasses.replace(graphs["int8_8bit"], model=unsigned(copy.deepcopy(graphs["int8_8bit"].model))),
                  files[name])
        else:
            write(graphs[kind], files[name])
    return files


def random_network(arch, folder):
    """A model folder with random weights."""
    import torch

    from svq.models import save_model
    from svq.network import ModelConfig

    torch.manual_seed(0)
    config = ModelConfig(arch=arch, embed_dim=NETWORKS.get(arch, 192))
    save_model(folder, config.build(), config)
    return folder


def noise(frames, count):
    """`count` inputs (1, T, F)."""
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, frames, 80), dtype=np.float32) for _ in range(count)]


def about():
    """Processor, its instructions for INT8 and versions, in a line."""
    from importlib.metadata import version

    name, flags = platform.processor(), ""
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
        if line.startswith("flags"):
            flags = line
    units = [unit for unit in ("avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16") if f" {unit}" in flags]
    if os.environ.get("BENCH_WITHOUT"):  # see without_vnni.py
        units = [f"{os.environ['BENCH_WITHOUT']} hidden"]
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "onnxruntime", "openvino"))
    return f"{name} ({' '.join(units) or 'no INT8 dot products'}); {versions}, Python {platform.python_version()}"


def table(label, files, threads, options):
    """Measures a network in all ways at a number of threads; prints and returns its rows."""
    frames = round(100 * options.seconds) - 2
    servers = {way: Server(serve, files[WAYS[way][0]], way, threads, options.clock) for way in options.ways}
    servers["fbank"] = Server(serve_fbank, threads, options.clock)
    seconds = measure(servers, options.batches, frames, options.rounds)
    unit = "ms" if options.clock == "wall" else "ms of processor time"
    print(f"\n{label}, {threads} thread{'s'[:threads > 1]}, {options.seconds:g} s: {unit} per utterance, median (least); "
          f"RTF at batch {options.batches[0]}")
    heads = "".join(f"{f'batch {batch}':>20}" for batch in options.batches)
    print(f"{'':32}{heads}{'RTF':>10}{'memory MB':>11}{'load s':>8}")
    rows = []
    for name, server in servers.items():
        loading, memory = server.loading, server.end()
        ms = {batch: [1000 * each / batch for each in seconds[name, batch]] for batch in options.batches}
        middle = {batch: statistics.median(each) for batch, each in ms.items()}
        cells = "".join(f"{f'{middle[batch]:.1f} ({min(ms[batch]):.1f})':>20}" for batch in options.batches)
        rtf = middle[options.batches[0]] / 1000 / options.seconds
        print(f"{name:32}{cells}{rtf:10.5f}{memory:11.0f}{loading:8.2f}", flush=True)
        rows.append({"network": label, "way": name, "threads": threads, "seconds": options.seconds, "ms": ms,
                     "memory_mb": memory, "load_s": loading})
    return rows


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--networks", nargs="+", default=list(NETWORKS), help="architectures, with random weights")
    arguments.add_argument("--model", nargs="+", default=[], help="model folders to take instead")
    arguments.add_argument("--range-data", help="data directory with feats.scp for the INT8 files of --model")
    arguments.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    arguments.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments.add_argument("--seconds", type=float, default=3.0)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--clock", choices=list(CLOCKS), default="wall",
                           help="processor: of all threads together, which other work on the machine changes less")
    arguments.add_argument("--json", help="file for all figures")
    options = arguments.parse_args()
    print(about())
    frames, found = round(100 * options.seconds) - 2, []
    for source in options.model or options.networks:
        with tempfile.TemporaryDirectory() as folder:
            model = source if options.model else random_network(source, Path(folder) / "float_model")
            files = make_files(model, folder, options.ways, options.range_data if options.model else None, frames)
            for threads in options.threads:
                found += table(source, files, threads, options)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": about(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
