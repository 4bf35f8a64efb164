"""Bytes of the files of a recipe's systems, which do not depend on training: every network at full size, random weights.

    python tests/bench/sizes.py [--conf egs/voxceleb/conf] SYSTEM ...

A float system's file is model.safetensors, a quantized one's model.svq without a calibration. Where a row allocates bits,
they are those for average Hessian traces that are drawn as in allocation.py.
"""

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
from allocation import drawn_sensitivities  # noqa: E402
from svq.bits.allocation import allocate, make_problem  # noqa: E402
from svq.config import load_config  # noqa: E402
from svq.pack.file import packed_bytes  # noqa: E402
from svq.pack.format import safetensors_bytes  # noqa: E402
from svq.recipe.settings import Conf  # noqa: E402
from svq.train.config import TrainConfig  # noqa: E402


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("systems", nargs="+", metavar="SYSTEM")
    arguments.add_argument("--conf", default=str(ROOT / "egs" / "voxceleb" / "conf"))
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    conf = Conf(options.conf, "exp")
    for name in options.systems:
        print(f"{name}\t{bytes_of(conf.names.parse(name), conf, options.seed)}", flush=True)


def bytes_of(system, conf, seed):
    config = conf.own_file(system.net, None)
    model, net = built(config, seed)
    if system.row is None:
        return safetensors_bytes({name: (tensor.dtype, tensor.shape) for name, tensor in net.state_dict().items()})
    row = load_config(conf.config_of(system), TrainConfig)
    quant = row.quant
    if row.allocate is not None:
        problem = problem_of(config, seed, quant, row.allocate.candidates)
        bits = problem.bits(allocate(problem, row.allocate))
        quant = dataclasses.replace(quant, layers=dict(zip(problem.layers, map(int, bits), strict=True)))
    return packed_bytes(net, quant, model)


@functools.lru_cache(maxsize=1)
def built(config, seed):
    model = load_config(config, TrainConfig).model
    torch.manual_seed(seed)
    return model, model.build().eval()


@functools.lru_cache(maxsize=2)
def problem_of(config, seed, quant, candidates):
    model, net = built(config, seed)
    return make_problem(net, quant, model, list(drawn_sensitivities(net, seed)), candidates, "drawn")


if __name__ == "__main__":
    main()
