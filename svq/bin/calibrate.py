"""Calibrates scores to log-likelihood ratios (natural log): llr = slope x score + offset.

Fits by prior-weighted logistic regression on the scores of a development list, writes
slope and offset to CALIBRATION (JSON), and for every SCORE file x.score writes x.llr beside it.
"""

import os
import sys

from svq.backend.calibration import fit
from svq.backend.scores import read_scores, read_trials, split, write_scores
from svq.cli import parser, run_main
from svq.errors import UserError


def main():
    options = parser(__doc__)
    options.add_argument("--prior", type=float, default=0.5, help="weight of the target trials in the fit")
    options.add_argument("--penalty", type=float, default=1e-4,
                         help="of half the squared slope per standard deviation: bounds the slope "
                              "where the development scores do not overlap")
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
    target, nontarget = split(read_scores(options.dev_scores), read_trials(options.dev_trials))
    calibration = fit(target, nontarget, options.prior, options.penalty,
                      lambda line: print(f"warning: {options.dev_scores}: {line}", file=sys.stderr))
    calibration.save(options.calibration)
    for path in options.scores:
        scores = read_scores(path)
        write_scores(os.path.splitext(path)[0] + ".llr", scores, calibration(scores.score))
    print(f"llr = {calibration.slope:.6g} x score {calibration.offset:+.6g}, from {len(target)} target and "
          f"{len(nontarget)} non-target trials; {len(options.scores)} files calibrated")


if __name__ == "__main__":
    run_main(main)
