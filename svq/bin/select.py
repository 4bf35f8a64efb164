"""Chooses which blocks of a float model to quantize and which to leave in float; writes a table of bits (bits.tsv).

Reads what svq.bin.block_sensitivity measured (--from). The goal is one of these:

  --max-eer-loss        the smallest file whose EER rises by at most this much (absolute per cent)
  --target-mb, --bytes  the least loss in a file of at most this size, to the byte
  --preset              what a paper recommends. ecapa-selective: 8 bits for all of an ECAPA-TDNN but its second and third
                        SE-Res2Block (arXiv 2407.08991). Needs only --model, no measured blocks
  --config              the `select` part of a config names one of them (svq.bits.selection.SelectConfig)

--search greedy goes by loss per byte, exact solves a 0-1 knapsack. Both assume that the losses of single blocks add up.
--measure true measures the chosen blocks together on the same list; greedy does so after every step, and goes by the
measured EER where the goal is --max-eer-loss.

svq.bin.quantize and svq.bin.train take the table as --bits.
"""

from __future__ import annotations

import os
from fractions import Fraction

from svq.atomic import atomic_write
from svq.bits.selection import COSTS, PRESETS, SelectConfig
from svq.cli import boolean, parser, run_main
from svq.config import load_config
from svq.errors import UserError


def main() -> None:
    options = parse_options()
    import torch

    from svq.bits.block_run import STEP_COLUMNS, BlockRun, Chooser, bits_rows, float_blocks, preset_bits
    from svq.bits.block_sensitivity import BlockSensitivityConfig
    from svq.bits.table import write_bits
    from svq.models import load_model

    torch.set_num_threads(options.num_threads)
    if options.folder is None:
        net, _ = load_model(options.model)
        write_bits(options.out, preset_bits(options.preset, net, options.bits), PRESETS[options.preset].source)
        print(f"{options.out}: {PRESETS[options.preset].source}; in float: "
              f"{', '.join(float_blocks(options.preset, net))}")
        return
    run = BlockRun(load_config(os.path.join(options.folder, "measured.yaml"), BlockSensitivityConfig), options.folder)
    goal = SelectConfig(options.preset, options.max_eer_loss, target_bytes(options, run.model.embed_dim),
                        search=options.search, cost=options.cost)
    chooser = Chooser(run, goal, options.measure, say=print)
    mask = chooser.chosen()
    kept = chooser.problem.names(~mask)
    said = chooser.describe(mask)
    if options.steps and chooser.steps:
        with atomic_write(options.steps) as file:
            file.writelines("\t".join(line) + "\n" for line in [STEP_COLUMNS, *chooser.steps])
    write_bits(options.out, bits_rows(run.net, kept, run.config.quant.bits, run.config.level), said)
    print(f"{options.out}: {said}")


def target_bytes(options, embed_dim: int) -> int | None:
    """Gives the bytes that the goal leaves for the packed file without its calibration; None where the goal is no size."""
    if options.bytes is None and options.target_mb is None:
        return None
    from svq.bits.allocation import calibration_bytes

    reserve = calibration_bytes(embed_dim) if options.reserve is None else options.reserve
    return max(0, (options.bytes or int(Fraction(str(options.target_mb)) * 10**6)) - reserve)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--from", dest="folder", help="folder that svq.bin.block_sensitivity wrote")
    arguments.add_argument("--model", help="folder of the float model, for --preset without --from")
    arguments.add_argument("--out", required=True, help="table of bits to write")
    arguments.add_argument("--config", help="YAML with a `select` part, in place of a goal, --search, --cost, --bits")
    arguments.add_argument("--max-eer-loss", type=float,
                           help="goal: the smallest file whose EER rises by at most this much, in absolute per cent")
    arguments.add_argument("--target-mb", type=float,
                           help="goal: the least loss in a packed file of at most this size, in 10^6 bytes")
    arguments.add_argument("--bytes", type=int, help="goal: the same with the size in bytes")
    arguments.add_argument("--preset", metavar="NAME", help=f"goal: what a paper recommends; {', '.join(PRESETS)}")
    arguments.add_argument("--bits", type=int, choices=range(1, 9), metavar="1-8",
                           help="bits in place of the preset's, for --model")
    arguments.add_argument("--search", choices=["greedy", "exact"], default="exact",
                           help="how blocks are chosen; exact: by a 0-1 knapsack, greedy: by loss per byte")
    arguments.add_argument("--cost", choices=COSTS, default="eer", help="loss to keep low where the goal is a size")
    arguments.add_argument("--measure", type=boolean, default=True, metavar="true|false",
                           help="measure the chosen blocks together; with greedy, after every step")
    arguments.add_argument("--reserve", type=int, help="bytes to keep free in the packed file where the goal is a size "
                           "(None: as many as its calibration can take)")
    arguments.add_argument("--steps", help="table to write, with the steps of a greedy search")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    options = arguments.parse_args()
    if options.config is not None:
        take_config(options)
    check_options(arguments, options)
    return options


def take_config(options) -> None:
    """Sets the options that the `select` part of the config gives; UserError where the config has none."""
    from svq.train.config import TrainConfig

    config = load_config(options.config, TrainConfig)
    if config.select is None:
        raise UserError(f"{options.config}: no `select` in the config; add it to say what to choose")
    chosen = config.select
    options.preset, options.max_eer_loss, options.search, options.cost = (
        chosen.preset, chosen.max_eer_loss, chosen.search, chosen.cost)
    options.bytes, options.target_mb = chosen.bytes, chosen.megabytes
    if options.folder is None:
        options.bits = config.quant.bits


def check_options(arguments, options) -> None:
    """Exits with 2 and one line where options are missing or contradict each other."""
    names = ("max_eer_loss", "target_mb", "bytes", "preset")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]
    if len(given) != 1:
        arguments.error(f"{' and '.join(given) or 'no goal'} given; "
                        "give one of --max-eer-loss, --target-mb, --bytes and --preset")
    if options.preset is not None and options.preset not in PRESETS:
        arguments.error(f"preset '{options.preset}' is unknown; known: {', '.join(PRESETS)}")
    if options.folder is None and (options.preset is None or options.model is None):
        arguments.error("give --from, or --preset and --model")
    if options.folder is not None and (options.model is not None or options.bits is not None):
        arguments.error("--from has a model and bits of its own; leave out --model and --bits")
    if options.max_eer_loss is not None and (not options.max_eer_loss >= 0 or options.cost != "eer"):
        arguments.error("--max-eer-loss must not be negative, and goes with --cost eer")
    for name in ("target_mb", "bytes"):
        if getattr(options, name) is not None and not 0 < getattr(options, name) < float("inf"):
            arguments.error(f"--{name.replace('_', '-')} must be above 0")
    if (options.reserve or 0) < 0 or options.num_threads < 1:
        arguments.error("--reserve must not be negative, --num-threads at least 1")


if __name__ == "__main__":
    run_main(main)
