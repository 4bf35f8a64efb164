"""Measures what quantizing does to each part of a network, without training: weights, activations, embeddings, errors.

Takes a float model (--model with --config or --set) and quantizes it, or takes a finetuned quantized model
(--quantized), whose parts go back to the float weights that training kept behind the quantized ones. With --model
beside --quantized, losses are counted from that float network. At each level of --alone (stage, block or layer) it
quantizes one part at a time; at each level of --kept it leaves one part at a time in float and quantizes all others.
Writes to OUT:

    systems.tsv       the networks as wholes: EER, minDCF(0.01), their losses, 95 % intervals over speakers
    parts.tsv         each part: distortion of its weights, drift of its output and of the embedding, what it costs
                      alone, what keeping it in float recovers
    movements.tsv     how far the output of every part moves when one of them is quantized
    correlations.tsv  rank correlation of these measures with the losses, with intervals and permutation p-values
    index.html, layers.md, *.svg  the page, the tables and the figures; analysed.yaml: what was measured and how
    embeddings/, probes/  kept so that a run that was killed goes on and ends with the same bytes
"""

from __future__ import annotations

import math
import os

from svq.cli import add_part_options, check_part_options, parser, run_main
from svq.errors import UserError
from svq.names import PART_LEVELS

SETTINGS = ("model", "quantized", "data", "trials", "ptq_data", "norms_data", "input", "max_utts", "max_seconds",
            "center", "bootstrap", "permutations", "probes", "probe_seconds", "seed", "batch_frames", "device")


def main() -> None:
    options = parse_options()
    from svq.analysis.layer_study import ALL, LayerStudy
    from svq.config import dump_config
    from svq.data.extraction import compute_on

    config = settings_of(options)
    compute_on(options.device, options.num_threads)
    study = LayerStudy(config, options.out)
    listed = study.subject.listed.describe()
    parts = study.rows()
    systems = study.systems()
    correlations = study.correlations(parts)
    named = config.quantized or config.model
    said = f"{named}, {study.subject.method}; {listed}"
    from svq.analysis.layer_page import Findings, write  # matplotlib takes a second to load

    dump_config(study.config, os.path.join(options.out, "analysed.yaml"))
    write(options.out, Findings(options.title, said, study.subject.method, systems, parts, study.movements(),
                                correlations))
    print(f"{options.out}/index.html: {systems[0].system} {systems[0].eer:.2f} %, {ALL} quantized "
          f"{systems[-1].eer:.2f} %; {summary(correlations)}")


def summary(correlations) -> str:
    """Says in one line how well the distortion of weights ranks the parts by their loss: Spearman correlations."""
    found = [row for row in correlations if (row.predictor, row.loss) == ("relative_mse", "alone_eer")]
    if not found:
        return "too few parts for a correlation"
    return "; ".join(f"over {row.parts} {row.level}s Spearman {row.spearman:+.2f}{_between(row)} of distortion with "
                     "the rise of the EER" for row in found)


def _between(row) -> str:
    return "" if math.isnan(row.spearman_low) else f" ({row.spearman_low:+.2f} to {row.spearman_high:+.2f})"


def settings_of(options):
    """Gives the LayerAnalysisConfig that the command line and the config ask for; UserError where they contradict."""
    from svq.analysis.layer_subjects import LayerAnalysisConfig
    from svq.config import from_dict, load_config, to_dict
    from svq.train.config import TrainConfig

    tree = {name: getattr(options, name) for name in SETTINGS}
    tree |= {"alone": options.alone, "kept": options.kept}
    if options.config is not None or options.set:
        if options.quantized is not None:
            raise UserError("--config and --set say how a float network is quantized; leave them out with --quantized")
        config = load_config(options.config, TrainConfig, options.set)
        if config.quant is None:
            raise UserError(f"{options.config or '--set'}: no `quant` in the config; add it, or --set quant.bits=2, to "
                            "say how to quantize")
        tree |= {"quant": to_dict(config.quant), "ptq": to_dict(config.ptq), "ptq_seed": config.seed}
    return from_dict(tree, LayerAnalysisConfig, "options")


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--model", help="folder of the float model; with --quantized, the model that losses are counted from")
    arguments.add_argument("--quantized", help="folder of a finetuned quantized model, in place of --config")
    arguments.add_argument("--alone", nargs="*", choices=PART_LEVELS, default=["stage", "layer"],
                           help="levels at which one part at a time is quantized")
    arguments.add_argument("--kept", nargs="*", choices=PART_LEVELS, default=["stage"],
                           help="levels at which one part at a time is left in float")
    arguments.add_argument("--norms-data", help="data directory to measure batch norms anew on, with --quantized: the norms "
                           "of a finetuned network do not fit its float weights")
    arguments.add_argument("--permutations", type=int, default=9999,
                           help="random pairings for the p-values of the correlations")
    arguments.add_argument("--probes", type=int, default=32, help="utterances that the drift of activations is measured on")
    arguments.add_argument("--probe-seconds", type=float, default=3.0, help="seconds to read of each of them")
    arguments.add_argument("--title", default="Layer-wise analysis", help="title of the page")
    add_part_options(arguments)
    options = arguments.parse_args()
    check_part_options(arguments, options)
    return options


if __name__ == "__main__":
    run_main(main)
