"""Measures what quantizing each block of a float model costs, by experiment and without training.

Quantizes one block (or layer) at a time and leaves the others in float, embeds the utterances of a development list
anew, and scores its trials by the cosine. Writes to OUT:

    blocks.tsv    a row for the float network, for each block, and for all blocks quantized at once: weights, bytes
                  saved, EER and minDCF(0.01) with their differences to float and 95 % intervals over speakers, drift
                  of the embeddings
    blocks.md     the table to read, and blocks.svg, its plot
    measured.yaml what was measured and how; svq.bin.select reads it
    embeddings/   those of every network: a run that was killed goes on from them and ends with the same bytes

The config is that of svq.bin.quantize, its `ptq` part included; `--set quant.bits=8` and the like change it.
"""

from __future__ import annotations

import os

from svq.atomic import atomic_write
from svq.cli import add_part_options, check_part_options, parser, run_main
from svq.errors import UserError
from svq.names import BLOCK_LEVELS

SETTINGS = ("model", "data", "trials", "level", "input", "max_utts", "max_seconds", "center", "bootstrap", "seed",
            "batch_frames", "device", "ptq_data")


def main() -> None:
    options = parse_options()
    from svq.bits.block_run import BlockRun
    from svq.bits.block_sensitivity import write_blocks
    from svq.config import dump_config
    from svq.data.extraction import compute_on

    compute_on(options.device, options.num_threads)
    run = BlockRun(settings_of(options), options.out)
    listed = run.listed.describe()
    rows = run.rows()
    size = os.path.getsize(os.path.join(options.model, "model.safetensors"))
    quant = run.config.quant
    said = f"{options.model}, {quant.method} {quant.bits} bits, one {options.level} at a time; {listed}; " \
           f"the float model's file has {size} bytes"
    from svq.bits.block_page import markdown, plot  # matplotlib takes a second to load
    from svq.draw.page import standalone

    drawn = plot(rows, f"{quant.method}, {quant.bits} bits")
    for name, text in (("blocks.svg", standalone(drawn.svg)), ("blocks.md", markdown(rows, f"{said}."))):
        with atomic_write(os.path.join(options.out, name)) as file:
            file.write(text)
    dump_config(run.config, os.path.join(options.out, "measured.yaml"))
    write_blocks(os.path.join(options.out, "blocks.tsv"), rows, said)  # last: it says that the rest is there
    worst = max(rows[1:-1], key=lambda row: row.eer_delta)
    print(f"{options.out}/blocks.tsv: float {rows[0].eer:.2f} %, all quantized {rows[-1].eer:.2f} %; most sensitive: "
          f"{worst.block} ({worst.eer_delta:+.2f} %)")


def settings_of(options):
    """Gives the BlockSensitivityConfig that the command line and the config ask for; UserError where it cannot be."""
    from svq.bits.block_sensitivity import BlockSensitivityConfig
    from svq.config import from_dict, load_config, to_dict
    from svq.train.config import TrainConfig

    if options.config is None and not options.set:
        config = from_dict({}, TrainConfig)
    else:
        config = load_config(options.config or os.devnull, TrainConfig, options.set)
    if config.quant is None:
        raise UserError(f"{options.config or '--set'}: no `quant` in the config; add it, or --set quant.bits=8, to say "
                        "how to quantize")
    if config.ptq is not None and config.ptq.measures and options.ptq_data is None:
        raise UserError(f"{options.config}: its ptq is measured on speech; give a data directory as --ptq-data")
    tree = {name: getattr(options, name) for name in SETTINGS}
    tree |= {"quant": to_dict(config.quant), "ptq": to_dict(config.ptq), "ptq_seed": config.seed}
    return from_dict(tree, BlockSensitivityConfig, "options")


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", required=True, help="folder of the float model")
    arguments.add_argument("--level", choices=BLOCK_LEVELS, default="block",
                           help="what is quantized at a time: a block, or a single layer (convolution or linear)")
    add_part_options(arguments)
    options = arguments.parse_args()
    check_part_options(arguments, options)
    return options


if __name__ == "__main__":
    run_main(main)
