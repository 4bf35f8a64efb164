"""Writes the final table of a search, a float network beside the systems made from it, and the figures of the search.

    python -m svq.bin.tradeoff --data data/dev --study exp/search/study.db --out exp/search/report \\
        float=exp/small ptq=exp/small_kmqat4-ptq qat=exp/search/best int8=exp/search/best/int8.xml

Each system is NAME=PATH: a model folder, a .svq, or an exported .onnx or .xml. The others are compared with the first.
Writes OUT/index.html, tradeoff.md, tradeoff.tsv and every figure. Operations that were counted, a saving that is
assumed, and times that were measured stand in separate columns.
"""

from __future__ import annotations

import os

from svq.cli import parser, run_main
from svq.errors import UserError


def main() -> None:
    options = parse_options()
    systems = [parts(text) for text in options.systems]
    from svq.config import from_dict
    from svq.evaluation.identification import IdentifyConfig, plan_segments
    from svq.evaluation.operations import ASSUMPTION
    from svq.hardware import describe
    from svq.search.page import figures_of, write
    from svq.search.storage import open_study
    from svq.search.tradeoff import Conditions, examine

    settings = {"seconds": options.probe_seconds, "shortest": min(1.0, options.probe_seconds), "probes": options.probes,
                "seed": options.seed}
    config = from_dict(settings, IdentifyConfig, "options of svq.bin.tradeoff")
    figures, note = figures_of(open_study(options.study)) if options.study else ([], "")
    rows = examine(systems, options.data, options.trials or os.path.join(options.data, "trials"), config,
                   options.seconds, options.times, options.num_threads, options.replicates)
    plan = plan_segments(options.data, config)
    about = Conditions(options.data, len(plan.speakers), len(plan.probes), config.seconds, options.seconds,
                       options.times, options.num_threads, describe(), ASSUMPTION)
    write(options.out, options.title, rows, about, figures, note)
    print(f"{options.out}/index.html: {len(rows)} systems, {len(figures)} figures")


def parts(text: str) -> tuple[str, str]:
    """Splits 'name=path' into (name, path); UserError for other text, and where there is no such path."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UserError(f"'{text}': write a system as NAME=PATH")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such model; it is that of system {name}")
    return name, path


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("systems", nargs="+", metavar="NAME=PATH", help="systems, the one to compare with first")
    arguments.add_argument("--data", required=True, help="data directory that identification and EER are measured on")
    arguments.add_argument("--trials", help="trial list; by default DATA/trials")
    arguments.add_argument("--study", help="study.db of a search, to draw its figures")
    arguments.add_argument("--out", required=True, help="folder of the report")
    arguments.add_argument("--title", default="Search and trade-off", help="title of the page")
    arguments.add_argument("--probe-seconds", type=float, default=3.0,
                           help="length of enrolment and probes in identification")
    arguments.add_argument("--probes", type=int, default=5, help="probes of each speaker")
    arguments.add_argument("--seconds", type=float, default=3.0,
                           help="length of the recording that operations and latency are given for")
    arguments.add_argument("--times", type=int, default=20, help="number of calls; latency is their median")
    arguments.add_argument("--replicates", type=int, default=1000, help="resamplings of the speakers")
    arguments.add_argument("--seed", type=int, default=0, help="seed of segments and resampling")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    options = arguments.parse_args()
    for name in ("times", "num_threads", "replicates"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least 1")
    if not 0.1 <= options.seconds <= 600:
        raise UserError(f"--seconds {options.seconds}: between 0.1 and 600")
    return options


if __name__ == "__main__":
    run_main(main)
