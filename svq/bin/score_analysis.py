"""Analyses what quantization did to scores: errors, drift and decision flips of several systems, against a float one.

    python -m svq.bin.score_analysis --out exp/score_analysis --trials data/dev/trials data/test/trials \\
        -- small_float small_kmqat4 small_kmqat3 small_kmqat2

The first system is the float one. The first list is the development list: maps of low-bit to float scores,
calibrations, the decision threshold and the bins of distance to it are fitted on it alone. Score files are read from
EXP/SYSTEM/scores/LIST/SCORES.score. Every figure has a 95 % interval over speakers; all systems share the resampled
speakers. Writes to OUT:

    scores.tsv       every measure with its interval and its difference to float, a line each
    scores.md        the tables; index.html: tables and figures in one file
    *.svg, *.tsv     each figure and its numbers: errors over bits, flips by distance to the threshold, reliability
    maps/            SYSTEM.{affine,isotonic,logistic}.json, from low-bit to float scores; SYSTEM.calibration.json
    config.yaml      what was analysed

Report an analysis on trials of speakers that the development list does not have: give such a list second.
"""

from __future__ import annotations

from svq.cli import parser, probability, run_main

SETTINGS = ("exp", "scores", "scale", "operating_point", "p_target", "c_miss", "c_fa", "prior", "duration",
            "bootstrap", "seed")


def main() -> None:
    options = parse_options()
    from svq.analysis.score_analysis import analyse
    from svq.analysis.score_lists import ScoreAnalysisConfig
    from svq.analysis.score_page import summary, write
    from svq.config import from_dict

    tree = {name: getattr(options, name) for name in SETTINGS}
    lists = {name: tuple(getattr(options, name)) for name in ("systems", "trials", "sweep", "duration_edges")}
    out = analyse(from_dict(tree | lists, ScoreAnalysisConfig, "options of svq.bin.score_analysis"))
    write(options.out, out, options.title)
    print(f"{options.out}/index.html: {summary(out)}")


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("systems", nargs="+", metavar="SYSTEM[:BITS]",
                           help="folders under EXP, the float system first; BITS replace those of summary.json")
    arguments.add_argument("--trials", nargs="+", required=True, metavar="LIST",
                           help="trial lists in their data directories, the development list first")
    arguments.add_argument("--out", required=True, help="folder to write to")
    arguments.add_argument("--exp", default="exp", help="folder of the systems")
    arguments.add_argument("--scores", default="cosine_none", help="BACKEND_NORM of the score files")
    arguments.add_argument("--scale", choices=["raw", "affine", "isotonic", "logistic"], default="affine",
                           help="how low-bit scores are mapped to float ones for the break-downs and the knee")
    arguments.add_argument("--sweep", nargs="*", default=[], metavar="SYSTEM",
                           help="systems among which to look for the knee over bits; default: all, if their bits differ")
    arguments.add_argument("--operating-point", choices=["eer", "bayes"], default="eer",
                           help="threshold: the float system's at the EER, or Bayes' for p-target and the costs")
    arguments.add_argument("--p-target", type=probability, default=0.01,
                           help="prior of the targets in minDCF, actDCF and the Bayes threshold")
    arguments.add_argument("--c-miss", type=float, default=1.0, help="cost of a miss in them")
    arguments.add_argument("--c-fa", type=float, default=1.0, help="cost of a false alarm in them")
    arguments.add_argument("--prior", type=probability, default=0.5, help="weight of the targets in the fit of calibrations")
    arguments.add_argument("--duration", choices=["shorter", "test"], default="shorter",
                           help="side of a trial whose duration sorts it into a group: the shorter one, or the test")
    arguments.add_argument("--duration-edges", nargs="*", type=float, default=[], metavar="S",
                           help="seconds that divide these groups; default: quartiles of each list")
    arguments.add_argument("--bootstrap", type=int, default=200, help="resamplings of the speakers; 0: no intervals")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the resamplings")
    arguments.add_argument("--title", default="Scores of quantized systems", help="title of the page")
    return arguments.parse_args()


if __name__ == "__main__":
    run_main(main)
