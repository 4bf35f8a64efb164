"""Compares the EERs of systems: prints their differences, with 95 % intervals from the same resampled speakers for both.

Two systems scored on one list share its speakers, so their EERs rise and fall together. Whether one system is better
shows in the interval of the difference, not in whether the two intervals overlap. A side of a comparison may be
several systems, such as several seeds of one: their EERs are averaged within each resampling.

    python -m svq.bin.compare --trials data/test/trials --scores cosine_asnorm \\
        small_kmqat2:small_uniform2 small_mixed2,small_mixed2-s2:small_kmqat2,small_kmqat2-s2
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svq.atomic import atomic_write
from svq.cli import parser, run_main
from svq.errors import UserError

HEADER = "first\tsecond\teer_first\teer_second\tdifference\tlow\thigh\tfirst_lower"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("pairs", nargs="+", metavar="A[,A2...]:B[,B2...]", help="systems to compare")
    arguments.add_argument("--exp", type=Path, default=Path("exp"), help="folder of the systems")
    arguments.add_argument("--trials", type=Path, default=Path("data/test/trials"), help="trial list in its data directory")
    arguments.add_argument("--scores", default="cosine_asnorm", help="BACKEND_NORM of the score files")
    arguments.add_argument("--replicates", type=int, default=1000, help="resamplings of the speakers")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the resamplings")
    arguments.add_argument("--out", help="table to write as well (tab-separated)")
    options = arguments.parse_args()
    pairs = [sides(text) for text in options.pairs]
    if options.replicates < 1:
        raise UserError(f"--replicates {options.replicates}: at least 1")
    systems = {name for pair in pairs for side in pair for name in side}
    eers = resampled_eers(sorted(systems), options)
    lines = [HEADER, *(compared(first, second, eers) for first, second in pairs)]
    print("\n".join(lines))
    if options.out:
        with atomic_write(options.out) as file:
            file.writelines(f"{line}\n" for line in lines)


def sides(text: str) -> tuple[list[str], list[str]]:
    """Splits a comparison into the systems of its two sides: 'a,a2:b' -> (['a', 'a2'], ['b']). UserError for other text."""
    first, colon, second = text.partition(":")
    if not (colon and all(first.split(",")) and all(second.split(","))):
        raise UserError(f"'{text}': write a comparison as SYSTEM:SYSTEM, with commas between several on a side")
    return first.split(","), second.split(",")


def resampled_eers(systems, options) -> dict[str, np.ndarray]:
    """Gives each system's EERs in per cent, (1 + replicates,): first that of all trials, then one of each resampling.

    UserError where a score file is missing.
    """
    from svq.backend.bootstrap import EerInterval
    from svq.backend.metrics import eer
    from svq.backend.scores import read_scores, read_trials, split
    from svq.names import list_name

    trials = read_trials(options.trials)
    bootstrap = EerInterval(trials, options.trials.parent, options.replicates, options.seed)
    found = {}
    for system in systems:
        path = options.exp / system / "scores" / list_name(options.trials) / f"{options.scores}.score"
        if not path.is_file():
            raise UserError(f"{path} is missing; stages 7 and 8 make it")
        target, nontarget = split(read_scores(path), trials)
        found[system] = 100 * np.concatenate([[eer(target, nontarget)], bootstrap.samples(target, nontarget)])
    return found


def compared(first: list[str], second: list[str], eers: dict[str, np.ndarray]) -> str:
    """Writes one line of the table; `first_lower` is the share of resamplings in which the first side's EER is lower."""
    from svq.backend.bootstrap import interval

    a, b = (np.mean([eers[name] for name in side], axis=0) for side in (first, second))
    low, high = interval(a[1:] - b[1:])
    lower = np.mean(a[1:] < b[1:])
    return (f"{','.join(first)}\t{','.join(second)}\t{a[0]:.3f}\t{b[0]:.3f}\t{a[0] - b[0]:+.3f}\t{low:+.3f}\t{high:+.3f}"
            f"\t{lower:.3f}")


if __name__ == "__main__":
    run_main(main)
