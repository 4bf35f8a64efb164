"""Allocates bits to the layers of a float model: the least total sensitivity that fits a size.

Reads the sensitivities that svq.bin.sensitivity wrote. The config says how the weights will be quantized (`quant`)
and to which size (`allocate`; options given here override it). Writes the table of bits, which training takes as
--bits, and with --frontier a table of the least total sensitivity at each size.
"""

from __future__ import annotations

import os
import sys

from svq.atomic import atomic_write
from svq.cli import boolean, parser, run_main
from svq.errors import UserError, some_of

TARGETS = ("average_bits", "bytes", "megabytes")


def main() -> None:
    options = parse_options()
    from svq.bits.allocation import Allocator, allocate, make_problem
    from svq.bits.sensitivity import read_sensitivity
    from svq.bits.table import write_bits
    from svq.config import load_config
    from svq.models import load_model
    from svq.train.config import TrainConfig

    config = load_config(options.config, TrainConfig, options.set)
    if config.quant is None:
        raise UserError(f"{options.config}: has no `quant`; name the config of the training with these bits")
    wanted = allocate_config(config, options)
    net, model_config = load_model(options.model)
    if model_config.quant is not None:
        raise UserError(f"{options.model}: is quantized already; allocate bits to the float model")
    problem = make_problem(net, config.quant, model_config, read_sensitivity(options.sensitivity), wanted.candidates,
                           options.sensitivity)
    warn_of_negative(problem, options.sensitivity)
    choice = allocate(problem, wanted)
    if options.frontier and options.frontier_points:
        points = Allocator(problem, wanted.sections, wanted.ordered).frontier(options.frontier_points)
        write_frontier(options.frontier, points)
    summary = describe(problem, choice)
    write_bits(options.out, rows_of(problem, choice), summary)
    print(f"{options.out}: {summary}")


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder of the float model")
    arguments.add_argument("--sensitivity",
                           help="table of the average Hessian traces of its layers; default: MODEL/sensitivity.tsv")
    arguments.add_argument("--config", required=True, help="YAML of the training with these bits")
    arguments.add_argument("--out", required=True, help="table of bits to write")
    arguments.add_argument("--frontier", help="table of bytes, average bits and objective to write")
    arguments.add_argument("--frontier-points", type=int, default=100,
                           help="how many sizes the table of --frontier has; 0: no such table")
    arguments.add_argument("--candidates", help="bits to choose from, e.g. 2,3,4")
    arguments.add_argument("--bytes", type=int, help="size of the packed file, at most")
    arguments.add_argument("--megabytes", type=float, help="size of the packed file, at most, in 10^6 bytes")
    arguments.add_argument("--average-bits", type=float, help="bits per weight, at most")
    arguments.add_argument("--reserve", type=int, help="bytes kept free for the calibration in the packed file")
    arguments.add_argument("--sections", type=int,
                           help="sort layers by trace and cut them into so many sections, each of one bit width; 0: none")
    arguments.add_argument("--ordered", type=boolean, help="true: a layer never gets more bits than one with a larger trace")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a config key, e.g. quant.retention=0.8")
    options = arguments.parse_args()
    if options.frontier_points != 0 and options.frontier_points < 2:
        raise UserError(f"--frontier-points {options.frontier_points}: must be at least 2, or 0 for no table")
    options.sensitivity = options.sensitivity or os.path.join(options.model, "sensitivity.tsv")
    return options


def allocate_config(config, options):
    """Gives the AllocateConfig of the training's config, with the options of the command line in place of its values."""
    from svq.bits.config import AllocateConfig
    from svq.config import from_dict, to_dict

    tree = {} if config.allocate is None else to_dict(config.allocate)
    given = {name: getattr(options, name) for name in (*TARGETS, "reserve", "sections", "ordered")}
    given = {name: value for name, value in given.items() if value is not None}
    if any(name in given for name in TARGETS):
        tree.update(dict.fromkeys(TARGETS))
    if options.candidates is not None:
        try:
            given["candidates"] = [int(bits) for bits in options.candidates.split(",")]
        except ValueError:
            raise UserError(f"--candidates {options.candidates}: write it like 2,3,4") from None
    tree.update(given)
    tree["sections"] = tree.get("sections") or None
    return from_dict(tree, AllocateConfig, options.config, "allocate.")


def warn_of_negative(problem, path) -> None:
    negative = [name for name, trace in zip(problem.layers, problem.traces) if trace < 0]
    if negative:
        print(f"warning: {path}: {len(negative)} traces are negative and count as 0 ({some_of(negative)}); "
              "more samples would tell", file=sys.stderr)


def rows_of(problem, choice) -> list:
    """Makes the rows of the table of bits: a LayerBits for each layer."""
    from svq.bits.table import LayerBits

    columns = zip(problem.layers, problem.shapes, map(float, problem.traces), problem.bits(choice))
    return [LayerBits(*row) for row in columns]


def describe(problem, choice) -> str:
    """Describes a choice in one line: bytes, average bits and total sensitivity, beside those of equal bits for all layers
    at about that size."""
    from svq.bits.allocation import uniform_choice

    uniform = uniform_choice(problem, problem.size(choice))
    mine, other = (f"{problem.size(c)} bytes, {problem.average_bits(c):.4g} bits per weight, "
                   f"total sensitivity {problem.objective(c):.6g}" for c in (choice, uniform))
    return f"{mine}; uniform: {other}"


def write_frontier(path, points) -> None:
    from svq.bits.allocation import FRONTIER_COLUMNS

    with atomic_write(path) as file:
        file.write("\t".join(FRONTIER_COLUMNS) + "\n")
        for size, average_bits, objective in points:
            file.write(f"{size}\t{average_bits:.6g}\t{objective:.9g}\n")


if __name__ == "__main__":
    run_main(main)
