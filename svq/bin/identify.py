"""Identifies the speaker of a recording: ranks the voices of a store, and names the best one or nobody.

  python -m svq.bin.identify --model model.onnx --store voices.svs who.wav

STORE is a file that svq.bin.enroll made, with the same model (by default the one that comes with svq) and calibration.
Prints, for each of the --top best names, the cosine score and the log-likelihood ratio that the recording is theirs.
Then prints the threshold (Bayes' for --p-target, --c-miss and --c-fa) and the decision: the best name if it is at or
above the threshold, else `unknown`. Without a calibration it prints scores alone, and decides only with --threshold.

Each name is compared with the threshold by itself, so with n voices a stranger has n chances to pass. --p-target is the
probability, before anything is heard, that the speaker is one certain name: at most 1/n.

svq.bin.identification_accuracy measures how often a network names the right speaker of a data directory.
"""

from __future__ import annotations

import json
import time

from svq.bin.verify import (
    UNDECIDED,
    Warnings,
    add_decision_options,
    add_model_options,
    add_scoring_options,
    check_decision_options,
    check_model_options,
    load_verifier,
    print_costs,
    threshold_line,
)
from svq.cli import boolean, parser, run_main
from svq.errors import UserError


def main() -> None:
    options = parse_options()
    warn = Warnings()
    report(options, identified(options, warn) | {"warnings": warn.said})


def identified(options, warn) -> dict:
    """Ranks the voices of the store for the recording and decides; gives all that `report` prints.

    `decision` is `accept`, and `name` the best voice; or `unknown`; or None where there is nothing to decide by.
    UserError for an empty store, or one of another model.
    """
    start = time.perf_counter()
    from svq.hardware import peak_bytes
    from svq.voices import Voices

    voices = Voices.load(options.store)
    if not len(voices):
        raise UserError(f"{options.store}: it has no voices; svq.bin.enroll puts some in")
    verifier = load_verifier(options, warn)
    voices.origin.check(verifier.origin, options.store)
    loaded = time.perf_counter()
    ranked = verifier.rank(voices, options.test)
    costs = (options.p_target, options.c_miss, options.c_fa, options.threshold)
    results = [(name, verifier.decide(score, *costs)) for name, score in ranked[: options.top]]
    name, best = results[0]
    return {
        "model": options.model, "backend": verifier.embedder.backend, "store": options.store, "test": options.test,
        "voices": len(voices), "mean_subtracted": verifier.mean is not None,
        "ranking": [{"name": each, "score": result.score, "llr": result.llr} for each, result in results],
        "threshold": best.threshold, "decision": {"reject": "unknown"}.get(best.decision, best.decision),
        "name": name if best.accepted else None, "load_seconds": loaded - start,
        "embed_seconds": time.perf_counter() - loaded, "peak_memory_bytes": peak_bytes(),
    }


def report(options, found: dict) -> None:
    """Prints the result: JSON, or a table of names and the decision."""
    if options.json:
        print(json.dumps(found, indent=1, sort_keys=True, allow_nan=False))
        return
    ranking, calibrated = found["ranking"], found["ranking"][0]["llr"] is not None
    print(f"rank  {'score':>9}  {'llr':>11}  name" if calibrated else f"rank  {'score':>9}  name")
    for number, row in enumerate(ranking, start=1):
        llr = f"  {row['llr']:11.6f}" if calibrated else ""
        print(f"{number:>4}  {row['score']:9.6f}{llr}  {row['name']}")
    if len(ranking) < found["voices"]:
        print(f"and {found['voices'] - len(ranking)} more below")
    if found["decision"] is not None:
        print(threshold_line(options, found["threshold"], not calibrated))
    words = {None: UNDECIDED, "unknown": "unknown: no name is at or above the threshold"}
    print(f"decision     {words.get(found['decision'], found['name'])}")
    print_costs(found, 1)


def parse_options():
    arguments = parser(__doc__)
    arguments.add_argument("--store", metavar="FILE", help="voices that svq.bin.enroll has kept (.svs)")
    arguments.add_argument("--top", type=int, default=10, help="how many of the best names to print")
    add_model_options(arguments)
    add_scoring_options(arguments)
    add_decision_options(arguments)
    arguments.add_argument("--json", type=boolean, default=False, metavar="true|false", help="print JSON")
    arguments.add_argument("test", nargs="+", metavar="TEST", help="the recording in question")
    options = arguments.parse_args()
    if options.store is None and len(options.test) == 3:
        arguments.error("DATA_DIR MODEL OUT are svq.bin.identification_accuracy's now")
    if options.store is None:
        arguments.error("the following arguments are required: --store")
    if len(options.test) > 1:
        arguments.error(f"one recording at a time, not {len(options.test)}")
    options.test = options.test[0]
    if options.top < 1:
        arguments.error("--top must be at least 1")
    check_model_options(arguments, options)
    check_decision_options(arguments, options)
    return options


if __name__ == "__main__":
    run_main(main)
