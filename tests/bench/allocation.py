"""Time and result of bit allocation: every layer for itself beside the search over four sections.

    python tests/bench/allocation.py [--arch ResNet101] [--width 32] [--seed 0] [--model DIR --sensitivity FILE]

Without a model: a freshly initialised network, and average Hessian traces drawn log-uniformly over four decades,
falling with the depth of the layer by two more, from the seed. `sections` are four of equal count, one
bit width each (all 256 ways); `ordered` cuts the layers sorted by trace anywhere, bits falling with the trace.
All three get the same limit of bytes: the file of the best allocation of so many bits on average. Seconds are
processor time of the search alone, the shortest of the repeats; the tables that it needs are timed apart.
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import scipy
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from svq.bits.allocation import Allocator, make_problem  # noqa: E402
from svq.bits.sensitivity import read_sensitivity  # noqa: E402
from svq.bits.table import LayerBits  # noqa: E402
from svq.hardware import describe  # noqa: E402
from svq.models import load_model
from svq.network import ModelConfig  # noqa: E402
from svq.quant import QuantConfig  # noqa: E402
from svq.quant.api import float_weight, quantizable  # noqa: E402


def drawn_sensitivities(net, seed):
    rng = np.random.default_rng(seed)
    layers = list(quantizable(net))
    for i, (name, module) in enumerate(layers):
        trace = 10 ** (rng.uniform(-4, 0) - 2 * i / len(layers))
        yield LayerBits(name, tuple(float_weight(module).shape), trace, 32)


def timed(search, repeats):
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        choice = search()
        seconds.append(time.process_time() - start)
    return choice, min(seconds)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--arch", default="ResNet101")
    arguments.add_argument("--width", type=int, default=32)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--candidates", type=int, nargs="+", default=[1, 2, 3, 4])
    arguments.add_argument("--averages", type=float, nargs="+", default=[1.1, 1.3, 1.7, 2, 3])
    arguments.add_argument("--model", help="model folder, in place of a fresh network")
    arguments.add_argument("--sensitivity", help="its sensitivity.tsv")
    options = arguments.parse_args()
    if options.model:
        net, config = load_model(options.model)
        sensitivities = read_sensitivity(options.sensitivity)
    else:
        torch.manual_seed(options.seed)
        config = ModelConfig(options.arch, {"width": options.width})
        net = config.build()
        sensitivities = list(drawn_sensitivities(net, options.seed))
    print(f"CPU {describe()}, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
          f"torch {torch.__version__}, scipy {scipy.__version__}")
    start = time.process_time()
    table = options.sensitivity or "drawn"
    problem = make_problem(net, QuantConfig(), config, sensitivities, options.candidates, table)
    tables = time.process_time() - start
    print(f"{options.model or config.arch}: {len(problem.layers)} layers, {problem.weights.sum()} weights, candidates "
          f"{problem.candidates}; tables in {tables:.1f} s")

    searches = {"sections": Allocator(problem, 4), "ordered": Allocator(problem, ordered=True),
                "exact": Allocator(problem)}
    print("\ntotal sensitivity, seconds, total sensitivity over that of sections")
    print(f"{'bits':>5} {'bytes, at most':>14} " + " ".join(f"{name:>10} {'s':>6} {'ratio':>6}" for name in searches))
    for average in options.averages:
        target = problem.size(searches["exact"].within_average(average))
        found = {name: timed(lambda: search.within_bytes(target), options.repeats)
                 for name, search in searches.items()}
        base = problem.objective(found["sections"][0])
        print(f"{average:>5g} {target:>14} " + " ".join(
            f"{problem.objective(choice):>10.5g} {seconds:>6.3f} {problem.objective(choice) / base:>6.3f}"
            for choice, seconds in found.values()), flush=True)
    for name, search in searches.items():
        points, seconds = timed(search.frontier, 1)
        print(f"frontier, {name}: {len(points)} points in {seconds:.1f} s")


if __name__ == "__main__":
    main()
