"""Verifies a speaker: says whether the speaker of TEST is the one of the enrolment recordings.

  python -m svq.bin.verify enroll.wav test.wav
  python -m svq.bin.verify --model model.svq enroll.wav [more.wav ...] -- test.wav
  python -m svq.bin.verify --model model.onnx --store voices.svs --name ann -- test.wav
  python -m svq.bin.verify --cascade ladder.yaml enroll.wav [more.wav ...] -- test.wav

MODEL is a packed .svq file, a model folder, or an exported .onnx or .xml; by default the one that comes with svq.
Recordings may have any rate, any number of channels, and any format that libsndfile, SoX or ffmpeg reads. Embeddings of
several enrolment recordings are scaled to length 1 and averaged; so are those of the windows of a recording longer than
--window-seconds. With --store, the voice NAME that svq.bin.enroll keeps there takes the place of the enrolment
recordings. After one enrolment recording or a NAME, TEST may stand without --; after several, -- must come before TEST.

Prints the cosine score; the log-likelihood ratio (natural logarithm) by the calibration in the model file or that of
--calibration; the threshold (Bayes' for --p-target, --c-miss and --c-fa) and the decision, accept if the ratio is at or
above it, else reject; seconds and peak memory. Without a calibration it prints the score alone, and decides only with
--threshold. A calibration belongs to one kind of score. One for AS-norm or PLDA scores, or one that does not say which
mean embedding was subtracted (svq.bin.calibrate --mean), is not used, and a warning says so; --calibration refuses it.

With --cascade, which takes the ladder that svq.bin.cascade choose writes, the cheapest system is asked first, and the
next one where it is unsure. The ladder gives the maps, means and threshold. Prints what each system said, and which one
settled the trial.

A silent recording (nothing above -80 dBFS) and one with less than --min-seconds of sound are errors: their embeddings
mean nothing. A recording with less than one second brings a warning.

Exit status: 0 whatever the decision, 1 with one line for input that cannot be used, 2 for wrong options.
"""

from __future__ import annotations

import json
import math
import sys
import time

from svq.cli import boolean, parser, probability, run_main

BACKENDS = ("torch", "onnxruntime", "openvino")


def main() -> None:
    options = parse_options()
    warn = Warnings()
    if options.cascade is None:
        return report(options, by_model(options, warn) | {"warnings": warn.said})
    from svq.cascade.verifier import by_cascade, report_cascade

    report_cascade(options, by_cascade(options, warn) | {"warnings": warn.said})


class Warnings:
    """A callable that prints warnings as they come and keeps them all in `said`, for JSON."""

    def __init__(self):
        self.said: list[str] = []

    def __call__(self, line: str) -> None:
        self.said.append(line)
        print(f"warning: {line}", file=sys.stderr)


def load_verifier(options, warn):
    """Loads the Verifier that the options of `add_model_options` and `add_scoring_options` describe.

    Warns where the calibration in the model file cannot be used.
    """
    from svq.verifier import Verifier

    verifier = Verifier.load(options.model, options.runtime, options.num_threads, options.calibration, options.mean,
                             min_seconds=options.min_seconds, window_seconds=options.window_seconds, warn=warn)
    if verifier.calibration is None and verifier.embedder.calibration is not None:
        warn(verifier.why_uncalibrated)
    return verifier


def by_model(options, warn) -> dict:
    """Scores the test recording by one model and decides; gives all that `report` prints."""
    start = time.perf_counter()
    from svq.hardware import peak_bytes
    from svq.voices import Enrollment

    kept = None if options.store is None else Enrollment.load(options.store, options.name)
    verifier = load_verifier(options, warn)
    loaded = time.perf_counter()
    if kept is not None:
        kept.origin.check(verifier.origin, options.store)
    voice = verifier.enroll(options.enroll) if kept is None else kept
    score = verifier.score(voice, verifier.embed(options.test))
    result = verifier.decide(score, options.p_target, options.c_miss, options.c_fa, options.threshold)
    whose = {"enroll": options.enroll} if kept is None else {"store": options.store, "name": options.name}
    return {
        "model": options.model, "backend": verifier.embedder.backend, **whose, "test": options.test,
        "score": result.score, "mean_subtracted": verifier.mean is not None, "llr": result.llr,
        "threshold": result.threshold, "decision": result.decision, "load_seconds": loaded - start,
        "embed_seconds": time.perf_counter() - loaded, "peak_memory_bytes": peak_bytes(),
    }


def report(options, found: dict) -> None:
    """Prints the result: JSON, or a line for each thing that is known."""
    if options.json:
        print(json.dumps(found, indent=1, sort_keys=True, allow_nan=False))
        return
    score = "cosine of embeddings less their mean" if found["mean_subtracted"] else "cosine"
    print(f"score        {found['score']:.6f} ({score})")
    if found["llr"] is not None:
        print(f"llr          {found['llr']:.6f} (natural logarithm)")
    if found["decision"] is not None:
        print(threshold_line(options, found["threshold"], found["llr"] is None))
    print(f"decision     {found['decision'] or UNDECIDED}")
    print_costs(found, len(found.get("enroll", ())) + 1)


UNDECIDED = "none: give --calibration, or --threshold of the score"


def threshold_line(options, threshold: float, of_score: bool) -> str:
    """Writes the line that says what the threshold is, what it is compared with, and where it comes from."""
    bayes = f"Bayes' for p-target {options.p_target:g}, c-miss {options.c_miss:g}, c-fa {options.c_fa:g}"
    return (f"threshold    {threshold:.6f} (of the {'score' if of_score else 'llr'}; "
            f"{bayes if options.threshold is None else '--threshold'})")


def print_costs(found: dict, recordings: int) -> None:
    """Prints lines for the seconds and the memory that the command took."""
    print(f"load         {found['load_seconds']:.3f} s ({found['backend']})")
    print(f"embed        {found['embed_seconds']:.3f} s ({recordings} recording{'s' * (recordings != 1)})")
    print(f"peak memory  {found['peak_memory_bytes'] / 1e6:.0f} MB")


def add_model_options(arguments, cascade: bool = False) -> None:
    """Adds the options of the model and how it runs; cascade: whether a ladder may be given in place of a model."""
    models = arguments.add_mutually_exclusive_group() if cascade else arguments
    models.add_argument("--model", help="model folder, .svq, .onnx or .xml (None: the one that comes with svq)")
    if cascade:
        models.add_argument("--cascade", metavar="LADDER", help="YAML of svq.bin.cascade choose")
    arguments.add_argument("--runtime", choices=BACKENDS, help="what runs the model (None: what the file is for)")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    arguments.add_argument("--min-seconds", type=float, default=0.3, help="recordings with less sound are an error")
    arguments.add_argument("--window-seconds", type=float, default=60.0,
                           help="longer recordings are embedded in equal windows of at most this length; 0: never")


def check_model_options(arguments, options) -> None:
    """Exits with 2 and one line where options of `add_model_options` are out of range. Fills in the model that comes with
    svq where none is named; UserError where there is none."""
    if options.num_threads < 1:
        arguments.error("--num-threads must be at least 1")
    if not 0 <= options.min_seconds < math.inf:
        arguments.error("--min-seconds must not be negative")
    if options.window_seconds != 0 and not 1 <= options.window_seconds < math.inf:
        arguments.error("--window-seconds must be 0 or at least 1")
    if options.model is None and getattr(options, "cascade", None) is None:
        from svq import ready

        options.model = ready.path()


def add_scoring_options(arguments) -> None:
    """Adds the options that say how embeddings are compared, besides the model."""
    arguments.add_argument("--calibration", metavar="FILE", help="JSON of svq.bin.calibrate (None: the model file's)")
    arguments.add_argument("--mean", metavar="FILE", help="mean embedding (mean.vec) to subtract before the cosine, or "
                           "`none`, where the calibration does not say which")


def add_decision_options(arguments) -> None:
    """Adds the options that a decision depends on: prior, costs and threshold."""
    arguments.add_argument("--p-target", type=probability, default=0.01,
                           help="probability, before anything is heard, that the speaker is the same")
    arguments.add_argument("--c-miss", type=float, default=1.0, help="cost of rejecting the right speaker")
    arguments.add_argument("--c-fa", type=float, default=1.0, help="cost of accepting a wrong speaker")
    arguments.add_argument("--threshold", type=float, help="compare with this instead of Bayes' threshold: the "
                           "log-likelihood ratio or, without a calibration, the score")


def check_decision_options(arguments, options) -> None:
    """Exits with 2 and one line where options of `add_decision_options` are out of range."""
    if not (0 < options.c_miss < math.inf and 0 < options.c_fa < math.inf):
        arguments.error("--c-miss and --c-fa must be above 0")
    if options.threshold is not None and not math.isfinite(options.threshold):
        arguments.error("--threshold must be a number")


def parse_options():
    arguments = parser(__doc__, renamed={"--backend": "--runtime"})
    arguments.usage = ("%(prog)s [--model MODEL | --cascade LADDER] [options] ENROLL TEST\n"
                       "       %(prog)s [--model MODEL | --cascade LADDER] [options] ENROLL [ENROLL ...] -- TEST\n"
                       "       %(prog)s [--model MODEL] --store STORE --name NAME [options] TEST")
    add_model_options(arguments, cascade=True)
    add_scoring_options(arguments)
    add_decision_options(arguments)
    arguments.add_argument("--json", type=boolean, default=False, metavar="true|false", help="print JSON")
    arguments.add_argument("--store", metavar="FILE", help="voices that svq.bin.enroll has kept (.svs)")
    arguments.add_argument("--name", help="name of the voice in --store")
    arguments.add_argument("enroll", nargs="*", metavar="ENROLL", help="recordings of the speaker")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = arguments.parse_args(words[:end])
    tests = words[end + 1:]
    if end == len(words) and len(options.enroll) == (1 if options.store is not None else 2):
        tests = [options.enroll.pop()]
    check_whose(arguments, options)
    if len(tests) != 1:
        arguments.error("give two recordings, or several of one voice, then -- and one test recording")
    options.test = tests[0]
    check_model_options(arguments, options)
    for name in ("runtime", "calibration", "mean", "p_target", "c_miss", "c_fa", "threshold"):
        if options.cascade is not None and getattr(options, name) != arguments.get_default(name):
            arguments.error(f"--{name.replace('_', '-')} is not for --cascade: the ladder says it")
    check_decision_options(arguments, options)
    return options


def check_whose(arguments, options) -> None:
    """Exits with 2 and one line unless the speaker is given in exactly one way: by recordings, or as a name in a store."""
    if options.store is not None and options.cascade is not None:
        arguments.error("--store is not for --cascade: a store holds voices of one model")
    if (options.store is None) != (options.name is None):
        arguments.error("--store and --name go together: the voice NAME of that store")
    if options.store is None and not options.enroll:
        arguments.error("the following arguments are required: ENROLL")
    if options.store is not None and options.enroll:
        arguments.error(f"recordings of the speaker ({options.enroll[0]}) or --store, not both; TEST stands after --")


if __name__ == "__main__":
    run_main(main)
