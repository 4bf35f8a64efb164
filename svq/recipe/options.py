"""Reads the options of a run.sh and checks what can be checked of them alone: counts, known words, trial lists, limits."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping

from svq.backend import BACKENDS, NORMS
from svq.cascade import LIMITS
from svq.errors import UserError
from svq.names import NAME, list_name

# The least value of each option that is a number.
COUNTS = {"stage": 0, "stop_stage": 0, "nj": 1, "extract_nj": 1, "systems_nj": 1, "search_nj": 1, "num_gpus": 0,
          "max_probes": 2, "lda_dim": 0, "top_n": 2, "cohort_per_spk": 0, "cohort_speakers": 0, "analysis_utts": 0}
# The runtimes of systems in INT8 arithmetic, and the endings of their files.
RUNTIMES = {"openvino": "xml", "onnxruntime": "onnx"}
FILES = (".onnx", ".xml", ".svq")  # the endings of files that are a model by themselves
_COUNT = re.compile(r"-?[0-9]{1,18}\Z")
_LIST = re.compile(r"(?:[A-Za-z0-9_+-][A-Za-z0-9._+-]*/)+trials(?:_[A-Za-z0-9_+-]+)?\Z")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a run.sh, by the same names; lists are split at blanks. An option that a recipe lacks has the value that
    turns it off. `read_options` makes and checks them."""

    systems: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    trials: tuple[str, ...] = ()
    backends: tuple[str, ...] = BACKENDS[:1]
    norms: tuple[str, ...] = NORMS[:1]
    conf: str = "conf"
    data: str = "data"
    exp: str = "exp"
    report: str = ""
    stage: int = 0
    stop_stage: int = 99
    cohort_per_spk: int = 0
    cohort_speakers: int = 0
    cohort_means: bool = False
    int8_runtime: str = "openvino"
    search: tuple[str, ...] = ()
    search_row: str = ""
    analysis: tuple[str, ...] = ()
    analysis_rows: tuple[str, ...] = ()
    ladders: tuple[str, ...] = ()
    cascade_limits: tuple[str, ...] = ()
    from_elsewhere: bool = False

    def runs(self, stage: int) -> bool:
        """Says whether stage `stage` is among those to run."""
        return self.stage <= stage <= self.stop_stage

    @property
    def files(self) -> dict[str, str]:
        """The files that --models names, by the names of their systems."""
        return dict(word.split("=", 1) for word in self.models if "=" in word)

    @property
    def cohort(self) -> str:
        """The data set whose embeddings are the cohort of AS-norm and give the mean and the PLDA."""
        return "cohort" if self.cohort_per_spk or self.cohort_speakers else "train"

    @property
    def means_only(self) -> bool:
        """Whether the cohort's means are all that is computed of it: nothing else asked for takes its embeddings."""
        return self.cohort_means and "plda" not in self.backends and self.cohort not in map(os.path.dirname, self.trials)


def read_options(given: Mapping[str, str]) -> tuple[Options, list[str]]:
    """Reads the texts `given`, by option; ignores names that it does not know.

    Returns the options, and a line for each thing that is wrong with them.
    """
    problems = [f"{_flag(name)}: a tab or line break in {value!r}" for name, value in given.items()
                if name in _FIELDS and re.search(r"[\t\n]", value)]
    values: dict = {}
    for name, least in COUNTS.items():
        if name in given and not (_COUNT.match(given[name]) and int(given[name]) >= least):
            problems.append(f"{_flag(name)} {given[name]}: must be a whole number, at least {least}")
        elif name in given and name in _FIELDS:
            values[name] = int(given[name])
    for name, text in given.items():
        kind = _FIELDS.get(name)
        if kind == "tuple[str, ...]":
            values[name] = tuple(text.split())
        elif kind == "str":
            values[name] = text
        elif kind == "bool":
            values[name] = text == "true"
    options = Options(**values)
    return options, problems + _words(options) + _models(options) + _lists(options) + _limits(options)


_FIELDS = {field.name: field.type for field in dataclasses.fields(Options)}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _words(options: Options) -> list[str]:
    problems = []
    for name, known, what in (("backends", BACKENDS, "back end"), ("norms", NORMS, "score normalization")):
        problems += [f"{_flag(name)}: there is no {what} '{word}'{nearest(word, known)} Known: {', '.join(known)}"
                     for word in getattr(options, name) if word not in known]
    if options.int8_runtime not in RUNTIMES:
        problems.append(f"--int8-runtime is {' or '.join(RUNTIMES)}, not '{options.int8_runtime}'")
    for name in ("systems", "trials", "backends", "norms"):
        words = getattr(options, name)
        if not words:
            problems.append(f"{_flag(name)} names none; give at least one")
    for name in ("systems", "trials", "backends", "norms", "search", "analysis", "analysis_rows", "ladders"):
        problems += [f"{_flag(name)}: {word} is given twice; take one out" for word in twice(getattr(options, name))]
    for name in ("systems", "search", "analysis"):
        problems += [f"{_flag(name)}: '{word}' is no name: letters, digits and . _ + -, a letter or a digit first"
                     for word in getattr(options, name) if not NAME.match(word)]
    return problems


def _models(options: Options) -> list[str]:
    """Lists what is wrong with --models: each is NAME=FILE, the file one that is there and holds a model by itself."""
    problems, seen = [], []
    for word in options.models:
        name, equals, file = word.partition("=")
        seen.append(name)
        if not equals or not NAME.match(name):
            problems.append(f"--models {word}: write it as NAME=FILE; a name is letters, digits and . _ + -")
        elif not file.endswith(FILES):
            problems.append(f"--models {word}: the file of a model ends in {', '.join(FILES)}; a model folder is a system as "
                            f"{os.path.join(options.exp, name)}")
        elif not os.path.isfile(file):
            problems.append(f"--models {word}: {file}: no such file")
    return problems + [f"--models: {name} is given twice; take one out" for name in twice(seen)]


def _lists(options: Options) -> list[str]:
    """Lists what is wrong with trial lists: each must lie in a set of the data folder, and have its own name in the results."""
    problems, named = [], {}
    for trials in dict.fromkeys(options.trials):
        if not _LIST.match(trials):
            problems.append(f"--trials {trials}: write it as SET/trials or SET/trials_NAME, SET a folder within {options.data}")
            continue
        other = named.setdefault(list_name(trials), trials)
        if other != trials:
            problems.append(f"--trials: {other} and {trials} would both be called {list_name(trials)} in the results; "
                            "rename one")
    return problems


def _limits(options: Options) -> list[str]:
    problems, seen = [], []
    for text in options.cascade_limits:
        name, _, value = text.partition("=")
        if not re.match(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z", value):
            problems.append(f"--cascade-limits {text}: write it as NAME=NUMBER, such as eer_loss=0.05")
        elif name not in LIMITS:
            problems.append(f"--cascade-limits {text}: there is no limit '{name}'{nearest(name, LIMITS)} Known: "
                            f"{', '.join(LIMITS)}")
        seen.append(name)
    problems += [f"--cascade-limits: {name} is given twice; keep one" for name in twice(seen)]
    if options.ladders and not options.cascade_limits:
        problems.append("--cascade-limits names none, and --ladders asks for cascades; give at least one")
    for ladder in options.ladders:
        rungs = ladder.split(":")
        if len(rungs) < 2 or not all(map(NAME.match, rungs)):
            problems.append(f"--ladders {ladder}: write it as SYSTEM:SYSTEM, two rungs or more, the cheapest first")
        problems += [f"--ladders {ladder}: {rung} is on it twice" for rung in twice(rungs)]
    return problems


def twice(words: Iterable[str]) -> list[str]:
    """Lists the words that occur more than once, each of them once."""
    words = list(words)
    return [word for word in dict.fromkeys(words) if words.count(word) > 1]


def nearest(word: str, known: Iterable[str]) -> str:
    """Writes `; did you mean ...?` where one of `known` is spelled nearly like `word`, else a full stop."""
    import difflib

    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else "."


def refuse(problems: list[str]) -> None:
    """Raises UserError with all `problems`, a line each, if there are any."""
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
