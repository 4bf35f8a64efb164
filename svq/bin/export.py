"""Exports a model to an ONNX or OpenVINO file, in float or INT8, that needs no other file (an .xml needs its .bin).

The exported model takes features (B, T, F), as the model's front end gives them, or with --front-end true waveforms
(B, samples) in [-1, 1]. It gives embeddings (B, D). It takes any batch and any duration, unless --seconds fixes the
duration. The metadata of a file that takes features say which front end they must come from.

An .onnx of a quantized network is compact: it holds the weights as packed codes, as a .svq does, and the tables of the
front end as the numbers that they are computed from. A runtime makes tensors of both when it loads the file. With
--compact false the file holds all tensors as they are, and so does an .xml.

--int8 true quantizes weights and activations of convolutions, linear layers and residual sums; utterances of
--range-data show how large the activations get. Weights with codebooks (k-means and others) are put on the int8 grid
that fits the codebook best. Recurrent layers stay in float, and so do layers that the quantized model has in float.
With --dynamic true as well, only linear layers are quantized, and no utterances are needed.
"""

from __future__ import annotations

import os
import sys

from svq.cli import boolean, parser, run_main
from svq.errors import UserError, require


P_TARGET = 0.01  # the prior of a target trial for which a threshold is printed, svq.bin.verify's default


def main() -> None:
    options = parse_options()
    require("onnx")  # first: its extra brings torch, too
    from svq.backend.calibration import Calibration
    from svq.deploy.compact import compact
    from svq.deploy.export import export_dynamic_int8, export_float, float_layers, require_for, write
    from svq.deploy.runtimes import bytes_of, load_embedder, packed_calibration
    from svq.hardware import warn_without_vnni
    from svq.models import network_digest
    from svq.quant.api import freeze_

    import torch

    require_for(options.out, options.int8)
    torch.set_num_threads(options.num_threads)
    scores = options.calibration
    calibration = Calibration.load(scores).as_dict() if scores else None
    net, config, layers = read_model(options.model, options.compact and options.out.endswith(".onnx"))
    keep = float_layers(net, (options.float_layers or "").replace(",", " ").split(), options.bits, config.quant)
    calibration = calibration or packed_calibration(options.model)
    network = network_digest(net, config)
    graph = export_float(freeze_(net), config, calibration, options.front_end, options.seconds, network)
    if options.target == "sherpa-onnx":
        graph = for_sherpa_onnx(graph, options.out)
    if options.int8:
        graph = export_dynamic_int8(graph, keep, options.int8_weights) if options.dynamic else quantized(graph, keep, options)
        warn_without_vnni(lambda line: print(line, file=sys.stderr))
        if options.int8_weights == "8bit":
            print("warning: weights of 8 bits: on x86 without VNNI programs other than svq must set "
                  "session.x64quantprecision, or embeddings are wrong", file=sys.stderr)
    if layers:
        graph = compact(graph, layers)
    write(graph, options.out)
    load_embedder(options.out)  # fails here, and not later at the user's, if the file cannot be loaded
    if options.summary:
        write_summary(options.summary, graph, options.out)
    print(f"{options.out}: {graph.metadata.precision}, weights {graph.metadata.weights}, takes {graph.metadata.input}, "
          f"{bytes_of(options.out)} bytes")


def read_model(path: str, with_codes: bool):
    """Reads a model: its network, its config and a list of quantized layers.

    with_codes: gives network and layers as a packed file holds them; else the list is empty.
    """
    from svq.models import load_model
    from svq.pack.file import as_packed, load_with_codes
    from svq.quant.api import quantizers

    if with_codes and path.endswith(".svq"):
        return load_with_codes(path)
    net, config = load_model(path)
    return as_packed(net, config) if with_codes and any(quantizers(net)) else (net, config, [])


def quantized(graph, keep, options):
    """Quantizes `graph` to INT8; prints how well codebooks fit the int8 grid."""
    from svq.deploy.export import export_int8
    from svq.deploy.int8 import Int8Config, calibration_inputs

    try:
        config = Int8Config(options.activations, options.sums, options.range, options.percentile, options.int8_weights)
    except ValueError as error:
        raise UserError(str(error)) from None
    samples = calibration_inputs(options.range_data, graph.metadata, options.num_utts, options.range_seconds,
                                 options.seed, options.input)
    graph = export_int8(graph, samples, config, keep)
    books = {name: found for name, found in graph.snapped.items() if found.levels}
    if books:
        worst = max(books, key=lambda name: books[name].error)
        print(f"codebooks of {len(books)} layers on the int8 grid: the largest error is {books[worst].error:.3f} of a "
              f"step ({worst}, {books[worst].levels} levels)")
    print(f"INT8: {len(graph.snapped)} of {len(graph.layers)} layers, calibrated with {len(samples)} utterances")
    return graph


def for_sherpa_onnx(graph, path: str):
    """Turns `graph` into one that sherpa-onnx takes; prints what sherpa-onnx computes differently, and the threshold for its
    cosines where there is a calibration."""
    from svq.backend.calibration import Calibration
    from svq.deploy.sherpa import differences, for_sherpa, threshold_of

    made = for_sherpa(graph, path)
    for line in differences(graph.metadata.config.front_end):
        print(f"warning: {line}", file=sys.stderr)
    if made.metadata.calibration is not None:
        threshold = threshold_of(Calibration.from_dict(made.metadata.calibration, path), P_TARGET)
        print(f"threshold of sherpa-onnx's cosines: {threshold:.4f} for a target prior of {P_TARGET:g}")
    return made


def write_summary(path: str, graph, file: str) -> None:
    """Writes the JSON that svq.bin.report reads of a system: bits per weight, bytes of the file, number of parameters."""
    from svq.atomic import write_json
    from svq.deploy.runtimes import bytes_of
    from svq.quant.api import count_parameters, quantizable

    in_int8 = graph.snapped.keys()
    counts = {name: layer.weight.numel() for name, layer in quantizable(graph.net)}
    bits = {name: 8 if name in in_int8 else graph.packed.get(name, 32) for name in counts}
    bits = sum(count * bits[name] for name, count in counts.items()) / sum(counts.values())
    write_json(path, {"avg_bits": bits, "size_bytes": bytes_of(file), "params": count_parameters(graph.net)})


def parse_options():
    arguments = parser(__doc__, renamed={
        "--calibration-seconds": "--range-seconds", "--score-calibration": "--calibration", "--weights": "--int8-weights"})
    arguments.add_argument("--model", required=True, help="model folder, or a packed .svq file")
    arguments.add_argument("--out", required=True, help="the file to write: .onnx, or .xml for OpenVINO")
    arguments.add_argument("--front-end", type=boolean, default=False,
                           help="true: waveforms go in, the front end is part of the file")
    arguments.add_argument("--compact", type=boolean, default=True,
                           help="whether an .onnx holds quantized weights as packed codes")
    arguments.add_argument("--seconds", type=float, help="the only duration that the file takes (None: any)")
    arguments.add_argument("--calibration",
                           help="JSON of svq.bin.calibrate to keep in the file (None: a .svq's own)")
    arguments.add_argument("--summary", metavar="FILE",
                           help="also write this JSON for the report of a recipe: bits, bytes, weights")
    arguments.add_argument("--for", dest="target", choices=["svq", "sherpa-onnx"], default="svq",
                           help="who reads the file: svq and any ONNX Runtime or OpenVINO, or sherpa-onnx as well")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    int8 = arguments.add_argument_group("INT8")
    int8.add_argument("--int8", type=boolean,
                      help="quantize weights and activations (None: false, and no other option of this group may be given)")
    int8.add_argument("--dynamic", type=boolean, default=False,
                      help="quantize linear layers only; the runtime finds the range of each input when it computes")
    int8.add_argument("--range-data", metavar="DIR",
                      help="data directory whose utterances show how large activations get")
    int8.add_argument("--num-utts", type=int, default=100, help="how many of its utterances to draw at random")
    int8.add_argument("--range-seconds", type=float, default=3.0, help="seconds to read of each of them; 0: all")
    int8.add_argument("--input", choices=["auto", "wav", "feats"], default="auto", help="what to read in --range-data")
    int8.add_argument("--seed", type=int, default=0, help="seed of the draw")
    int8.add_argument("--range", choices=["minmax", "percentile", "entropy"], default="minmax",
                      help="how the range of activations is found; the last two take far longer")
    int8.add_argument("--percentile", type=float, default=99.999,
                      help="share of values, in per cent, inside the range; with --range percentile")
    int8.add_argument("--activations", choices=["uint8", "int8"], default="uint8")
    int8.add_argument("--int8-weights", choices=["safe", "8bit"], default="safe",
                      help="safe: 7 bits, with which sums are right on any processor; 8bit: finer, but on x86 without "
                           "VNNI sums saturate in a runtime that was not told to be precise")
    int8.add_argument("--sums", type=boolean, default=True, help="whether residual sums are INT8 too")
    int8.add_argument("--float-layers",
                      help="layers, or modules with layers, that stay in float, besides those that are in float already; "
                           "names between commas")
    int8.add_argument("--bits", help="bits.tsv whose layers of 32 bits stay in float")
    options = arguments.parse_args()
    check(arguments, options, int8)
    return options


def check(arguments, options, int8) -> None:
    if options.calibration and os.path.isdir(options.calibration):
        if options.range_data is not None:
            arguments.error(f"--calibration {options.calibration}: a folder, not the JSON of svq.bin.calibrate")
        print("warning: --calibration DIR is --range-data DIR now", file=sys.stderr)
        options.range_data, options.calibration = options.calibration, None
    if options.summary and options.dynamic:
        arguments.error("--summary counts weights of INT8 layers, which --dynamic true leaves to the runtime")
    for action in int8._group_actions if options.int8 is None else ():
        if getattr(options, action.dest) != action.default:
            arguments.error(f"{action.option_strings[0]} is about INT8: say --int8 true, too")
    if options.int8 and not options.dynamic and options.range_data is None:
        arguments.error("--int8 true needs --range-data DIR, or --dynamic true")
    if options.num_utts < 1 or options.num_threads < 1:
        arguments.error("--num-utts and --num-threads must be at least 1")
    if options.range_seconds < 0 or (options.seconds is not None and options.seconds <= 0):
        arguments.error("--seconds must be above 0 and --range-seconds not negative")


if __name__ == "__main__":
    run_main(main)
