"""Normalises scores against a cohort of speakers: S-norm, or AS-norm with the top N.

Reads SCORES/<backend>_none.score, which svq.bin.score wrote, and writes SCORES/<backend>_<norm>.score in the same
order. The options of the back end must be those of the scoring. Cohort scores come from the same back end; deviations
are those of the population (divided by N, not by N - 1).
"""

from svq.bin import score as scoring       # first: sets the number of BLAS threads
from svq.backend.scores import check_same_trials, read_scores, write_scores
from svq.backend.scoring import normalized_scores
from svq.cli import parser, run_main


def main():
    for options in scoring.each(scoring.arguments(parser(__doc__), scoring.NORMS[:0:-1]).parse_args()):
        normalize_list(options)


def normalize_list(options):
    """Normalises the scores of one list."""
    system = scoring.backend(options)
    vectors, top_n = scoring.cohort(options)
    trials, rows = scoring.prepared(options, system)
    raw = read_scores(scoring.score_path(options, "none"))
    check_same_trials(raw, trials)
    score = normalized_scores(raw.score, rows, system, vectors, top_n, options.threads)
    write_scores(scoring.score_path(options, options.norm), trials, score)
    print(f"{len(trials)} scores normalised into {scoring.score_path(options, options.norm)}")


if __name__ == "__main__":
    run_main(main)
