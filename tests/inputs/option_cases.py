"""Numbers of options: every option of every worker that takes one, and the same words given to bash."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import pkgutil
from unittest import mock

import svq.bin
from svq.cli import probability
from tests.helpers import run_worker
from tests.inputs.outcome import Case

BAD = ("\u0663", "\uff11\uff12", "1_0", " 3", "3 ", "nan", "inf", "-inf", "0x10", "1e999", "", "+3", "\u00b2", "1,5",
    "3\n", "9" * 5000)
SPELLINGS = (*BAD, "3", "-3", "0", "-0", "03", "3.0", ".5", "5.", "1e-3", "1E3", "1e", "1.2.3", "0b1", "three", "1e+5",
    "9" * 18, "9" * 19, "-")


class _Found(Exception):
    pass


NO_PARSER = ("systems",)  # the options of a run.sh, name by name: tests/recipe


def parser_of(module: str) -> argparse.ArgumentParser:
    """The parser that a worker makes."""
    worker = importlib.import_module(f"svq.bin.{module}")

    def caught(self, *_):
        raise _Found(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", caught), mock.patch("svq.cli._Parser.parse_args",
        caught):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                run_worker(worker.main)
        except _Found as found:
            return found.args[0]
    raise AssertionError(f"svq.bin.{module} parses no options")


def numeric(parser: argparse.ArgumentParser, verb: tuple[str, ...] = ()):
    """(words before it, option) of each that takes a number, those of its verbs too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from numeric(sub, (*verb, name))
        elif action.type in (int, float, probability) and action.option_strings:
            yield verb, action.option_strings[-1], action.type


def cases() -> list[Case]:
    found = []
    for module in sorted({info.name for info in pkgutil.iter_modules(svq.bin.__path__)} - {*NO_PARSER}):
        main = importlib.import_module(f"svq.bin.{module}").main
        for place, (verb, option, kind) in enumerate(numeric(parser_of(module))):
            more = ("7", "0", "1", "-0.1") if kind is probability else ("1.5", "1e3") if kind is int else ()
            for text in [*(BAD[(place + i) % len(BAD)] for i in range(3)), *more]:
                found.append(Case("numbers of options", f"{module} {' '.join(verb)} {option} {text[:9]!r}", lambda _,
                    m=main, v=verb, o=option,
                                  t=text: run_worker(m, *v, f"{o}={t}"), f"argument {option}"))
    return found
