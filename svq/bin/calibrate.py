"""Calibrates scores to log-likelihood ratios (natural log): llr = slope x score + offset.

Fits by prior-weighted logistic regression on the scores of a development list, writes
slope and offset to CALIBRATION (JSON), and for every SCORE file x.score writes x.llr beside it.

A calibration is right for one score only. With --mean CALIBRATION says which: the name of the development
score file (cosine_none, cosine_asnorm, plda_none, ...) and, for cosine scores, the mean embedding that was
subtracted. svq.bin.verify, which scores by the cosine, needs both, and uses no calibration that lacks them.

With --names the word NAME in the names of the files stands for each of them in turn: scores/dev/NAME.score and so on.
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
                         help="of half the squared slope per standard deviation: bounds the slope "
                              "where the development scores do not overlap")
    options.add_argument("--mean", metavar="FILE", help="the mean.vec that svq.bin.score --cohort subtracted before "
                         f"cosine scores, kept in CALIBRATION; `{PLAIN}` where nothing was; not used for other scores")
    options.add_argument("--names", nargs="+", metavar="NAME", default=[], help="what NAME in the names of files stands for in turn")
    options.add_argument("dev_trials", help="development list with labels")
    options.add_argument("dev_scores", help="its scores, of the same back end and normalisation")
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
    """The path with `name` in the place of NAME in its last part."""
    folder, last = os.path.split(path)
    return os.path.join(folder, last.replace("NAME", name))


def calibrate(options, trials, dev_scores: str, path: str, *score_files: str) -> None:
    """Fits on one file of development scores, keeps the calibration at `path`, and applies it to the score files."""
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
    """The name of the development scores, and the mean embedding behind them; None where it is not told."""
    if mean is None:
        return None, None
    name = os.path.splitext(os.path.basename(dev_scores))[0]
    if not name.startswith("cosine_"):
        return name, None
    return name, mean_text(None if mean == PLAIN else read_vector(mean))


if __name__ == "__main__":
    run_main(main)
