"""Argument parsing and one-line errors, shared by all workers in `svq.bin`."""

from __future__ import annotations

import argparse
import os
import sys

from svq import numbers
from svq.errors import one_line


typed: str | None = None  # the command that called this worker, such as `svq verify`; None: `python3 -m`


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Parser(argparse.ArgumentParser):
    renamed: dict[str, str] = {}  # old name of an option -> its name today

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.register("type", int, numbers.integer)  # reads numbers as bash does, not as Python does
        self.register("type", float, _number)

    def parse_args(self, args=None, namespace=None):
        """Parses as argparse does. A negative --seed, which no generator takes, exits with 2 in every worker."""
        args = [self._today(word) for word in sys.argv[1:]] if args is None else args
        options = super().parse_args(args, namespace)
        if isinstance(getattr(options, "seed", None), int) and options.seed < 0:
            self.error(f"--seed {options.seed}: must not be negative")
        return options

    def _today(self, word: str) -> str:
        """Gives a word of the command line back, a renamed option by its name today, with a warning."""
        name, equals, value = word.partition("=")
        if name not in self.renamed:
            return word
        print(f"warning: {name} is {self.renamed[name]} now", file=sys.stderr)
        return self.renamed[name] + equals + value


def parser(doc: str, renamed: dict[str, str] | None = None) -> argparse.ArgumentParser:
    """Makes the ArgumentParser of the worker that calls this.

    Its help shows `doc` as written and every option's default. Its usage names the worker as it was typed: python3 -m
    svq.bin.verify, or svq verify. renamed: old name of an option -> its name today; old names are taken with a warning.
    """
    spec = sys._getframe(1).f_globals.get("__spec__")
    if typed and spec:
        doc = doc.replace(f"python -m {spec.name}", typed)
    made = _Parser(prog=typed or (f"python3 -m {spec.name}" if spec else None), description=doc,
                   formatter_class=_Formatter)
    made.renamed = renamed or {}
    return made


def _number(text: str) -> float:
    """Reads a number as utils/parse_options.sh does, without a leading plus; ValueError for any other text."""
    if text.startswith("+"):
        raise ValueError(text)
    return numbers.number(text)


def probability(text: str) -> float:
    """Parses a number between 0 and 1, both excluded, such as the prior of a target trial; a type for argparse."""
    try:
        value = _number(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not between 0 and 1")
    return value


def boolean(text: str) -> bool:
    """Parses `true` or `false`, as shell recipes pass them on; a type for argparse."""
    if text in ("true", "false"):
        return text == "true"
    raise argparse.ArgumentTypeError(f"'{text}' is neither true nor false")


def add_network_options(arguments: argparse.ArgumentParser) -> None:
    """Adds the options of workers that run a network over a data directory."""
    arguments.add_argument("--input", choices=["auto", "wav", "feats"], default="auto",
                           help="what to read, wav.scp or feats.scp; auto: feats.scp where it is there and the model "
                           "takes such features")
    arguments.add_argument("--batch-frames", type=int, default=4000,
                           help="frames in a batch; only utterances of equal length share one")
    arguments.add_argument("--num-threads", type=int, default=1, help="CPU threads")
    add_device_option(arguments)


def add_device_option(arguments: argparse.ArgumentParser) -> None:
    """Adds the option that says where a worker computes networks."""
    arguments.add_argument("--device", default="cpu", help="cpu or cuda (one GPU)")


def check_network_options(arguments: argparse.ArgumentParser, options) -> None:
    """Checks the options of `add_network_options`; exits with 2 and one line where one is out of range."""
    for name in ("batch_frames", "num_threads"):
        if getattr(options, name) < 1:
            arguments.error(f"--{name.replace('_', '-')} must be at least 1")


def trials_of(options) -> str:
    """Gives the trial list of a worker that reads --data: that of --trials, else that of the data directory."""
    return options.trials or os.path.join(options.data, "trials")


def add_part_options(arguments: argparse.ArgumentParser) -> None:
    """Adds the options of workers that quantize one part of a network at a time and score a development list."""
    arguments.add_argument("--config", help="YAML whose `quant` says how to quantize, such as conf/finetune.yaml:ROW")
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                           help="overrides a config key, e.g. quant.bits=2")
    arguments.add_argument("--bits", type=int, help="bits in place of the config's")
    arguments.add_argument("--data", required=True, help="Kaldi data directory with the utterances of the trials")
    arguments.add_argument("--trials", help="trial list: enroll test target|nontarget; default: DATA/trials")
    arguments.add_argument("--out", required=True, help="folder to write to")
    arguments.add_argument("--ptq-data", help="data directory to correct biases on, where the config's ptq says so")
    arguments.add_argument("--max-utts", type=int, default=0,
                           help="so many utterances of the list, spread over its speakers; 0: all")
    arguments.add_argument("--max-seconds", type=float, default=0.0, help="read so much of each utterance; 0: all")
    arguments.add_argument("--center", type=boolean, default=True, metavar="true|false",
                           help="subtract the mean embedding of the list before scoring")
    arguments.add_argument("--bootstrap", type=int, default=200, help="resamplings of the speakers; 0: no intervals")
    arguments.add_argument("--seed", type=int, default=0, help="seed of all choices and resamplings")
    add_network_options(arguments)


def check_part_options(arguments: argparse.ArgumentParser, options) -> None:
    """Checks the options of `add_part_options`, and fills in those that follow from others.

    Exits with 2 and one line where one is out of range.
    """
    check_network_options(arguments, options)
    options.trials = trials_of(options)
    if options.bits is not None:
        options.set = [*options.set, f"quant.bits={options.bits}"]


def add_extraction_options(arguments: argparse.ArgumentParser) -> None:
    """Adds the options of workers that run a network over one job's share of a data directory."""
    arguments.add_argument("--job", type=int, default=1, help="which share to do, from 1")
    arguments.add_argument("--num-jobs", type=int, default=1, help="how many shares there are")
    add_network_options(arguments)


def check_extraction_options(arguments: argparse.ArgumentParser, options) -> None:
    """Checks the options of `add_extraction_options`; exits with 2 and one line where one is out of range."""
    if not 1 <= options.job <= options.num_jobs:
        arguments.error(f"--job {options.job} is not between 1 and --num-jobs {options.num_jobs}")
    check_network_options(arguments, options)


def _program_name() -> str:
    if typed:
        return typed
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else os.path.basename(sys.argv[0])


def run_main(main) -> None:
    """Runs `main()` and exits: with its status or 0, or with 1 and one line on stderr for a known error.

    `svq.errors.one_line` writes the line and says which errors are known. SVQ_TRACEBACK=1 in the environment shows the
    traceback of such an error, too.
    """
    try:
        status = main()
        sys.stdout.flush()  # here, so that a full disk is an error like others
    except BrokenPipeError:  # the reader of our output left (`... | head`)
        _drop_output()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = one_line(error)
        if line is None or os.environ.get("SVQ_TRACEBACK") == "1":
            raise
        print(f"{_program_name()}: {line}", file=sys.stderr)
        if isinstance(error, OSError):
            _drop_output()
        sys.exit(1)
    sys.exit(status or 0)


def _drop_output() -> None:
    """Discards output that can no longer be printed; else Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
