"""Calibrates scores to log-likelihood ratios (natural log): llr = slope x score + offset.

Fits slope and offset by prior-weighted logistic regression on the scores of a development list, and writes them to
CALIBRATION (JSON). For each SCORE file x.score it writes x.llr beside it.

A calibration is right for one kind of score only. With --mean, CALIBRATION says for which: it holds the name of the
development score file (cosine_none, cosine_asnorm, plda_none, ...) and, for cosine scores, the mean embedding that was
subtracted. svq.bin.verify, which scores by the cosine, uses no calibration that lacks either of them.

With --names several scores are calibrated, one after another: each name replaces the word NAME in the names of the
files, as in scores/dev/NAME.score.
"""

import os
import sys

from svq.backend.calibration import PLAIN, fit, mean_text
from svq.backend.embeddings import read_vector
from svq.backend.scores import read_scores, read_trials, split, write_scores
from svq.cli import parser, probability, run_main
from svq.errors import UserError


def main():
    options = parser(__doc__)
    options.add_argument("--prior", type=probability, default=0.5, help="weight of the target trials in the fit")
    options.add_argument("--penalty", type=float, default=1e-4,
                         help="weight, in the fit, of half the squared slope per standard deviation; it bounds the slope "
                              "where the development scores do not overlap")
    options.add_argument("--mean", metavar="FILE", help="the mean.vec that svq.bin.score --cohort subtracted before "
                         f"the cosine, to keep in CALIBRATION; `{PLAIN}` where none was; not used for other scores")
    options.add_argument("--names", nargs="+", metavar="NAME", default=[],
                         help="words that replace NAME in the names of files, one after another")
    options.add_argument("dev_trials", help="development list with labels")
    options.add_argument("dev_scores", help="scores of that list, by the same back end and normalisation as SCORE")
    options.add_argument("calibration", help="JSON file to write")
    options.add_argument("scores", nargs="*", metavar="SCORE", help="score files to calibrate")
    options = options.parse_args()
    for path in options.scores:
        if not path.endswith(".score"):
            raise UserError(f"{path}: a score file is named *.score")
    if options.penalty <= 0:
        raise UserError(f"--penalty {options.penalty}: must be positive")
    trials = read_trials(options.dev_trials)
    for name in options.names or ["NAME"]:
        paths = (options.dev_scores, options.calibration, *options.scores)
        calibrate(options, trials, *(named(path, name) for path in paths))


def named(path: str, name: str) -> str:
    """Replaces NAME by `name` in the last part of a path."""
    folder, last = os.path.split(path)
    return os.path.join(folder, last.replace("NAME", name))


def calibrate(options, trials, dev_scores: str, path: str, *score_files: str) -> None:
    """Fits a calibration on one file of development scores, saves it to `path`, and applies it to the score files."""
    target, nontarget = split(read_scores(dev_scores), trials)
    calibration = fit(target, nontarget, options.prior, options.penalty,
                      lambda line: print(f"warning: {dev_scores}: {line}", file=sys.stderr))
    calibration.of(*scored_as(dev_scores, options.mean)).save(path)
    for file in score_files:
        scores = read_scores(file)
        write_scores(os.path.splitext(file)[0] + ".llr", scores, calibration(scores.score))
    print(f"llr = {calibration.slope:.6g} x score {calibration.offset:+.6g}, from {len(target)} target and "
          f"{len(nontarget)} non-target trials; {len(score_files)} files calibrated")


def scored_as(dev_scores: str, mean: str | None):
    """Gives the name of the development scores (cosine_none, ...) and, for cosine scores, the mean embedding that was
    subtracted, as text; None where --mean does not tell."""
    if mean is None:
        return None, None
    name = os.path.splitext(os.path.basename(dev_scores))[0]
    if not name.startswith("cosine_"):
        return name, None
    return name, mean_text(None if mean == PLAIN else read_vector(mean))


if __name__ == "__main__":
    run_main(main)
