#!/usr/bin/env python3
"""Tells the scripts of a folder which options of Python workers they forward (utils/forward.sh asks).

  declared.py SCRIPT

A script names its workers above parse_options.sh, each with the options that it gives the worker itself:

  _forward_to=("svq.bin.train but config data out set" "svq.bin.pack only calibration" "svq.bin.cascade choose but out")

The options, with kind, default and help, come from the argparse of the workers, where they are declared. Prints those of
SCRIPT, and keeps those of all scripts of the folder in __pycache__/options beside them, so that a script starts without
starting Python. Beside them it keeps an empty file for every file that the options depend on, with the same time of
change: as long as the times agree, the options are the same.
"""

import argparse
import ast
import contextlib
import fcntl
import functools
import importlib
import os
import re
import shlex
import sys
import time

BETWEEN = "\x1f"                       # fields of a line; no blank, so that the shell keeps empty ones
RECENT_NS = 20_000_000                 # the clock's grain
STANDARD = os.path.dirname(os.__file__)
KINDS = {int: "integer", float: "number"}
NUMBER = r"-?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]+)?"


class Wrong(Exception):
    """Carries a message of one line."""


class Asked(Exception):
    """Carries the parser whose options were about to be parsed."""


# --- what a script says ---

def forwards(script):
    """Reads the _forward_to of a script: [(module, verb or "", `but` or `only`, names), ...]."""
    with open(script, encoding="utf-8") as file:
        found = re.search(r"^_forward_to=\((.*?)\)", file.read(), re.MULTILINE | re.DOTALL)
    return [forward(text.split(), script) for text in shlex.split(found[1], comments=True)] if found else []


def forward(words, script):
    for how in ("but", "only"):
        if how in words:
            head, names = words[:words.index(how)], {name.replace("-", "_") for name in words[words.index(how) + 1:]}
            break
    else:
        head, how, names = words, "but", set()
    if not 1 <= len(head) <= 2:
        raise Wrong("%s: _forward_to: write MODULE [VERB] [but|only NAME ...], not '%s'" % (script, " ".join(words)))
    return head[0], head[1] if head[1:] else "", how, names


# --- what a worker says ---

@contextlib.contextmanager
def asking():
    """Makes parsers raise Asked in place of parsing, within the block."""
    parse_args, argv = argparse.ArgumentParser.parse_args, sys.argv

    def asked(self, args=None, namespace=None):
        raise Asked(self)

    argparse.ArgumentParser.parse_args = asked
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = parse_args, argv


def parser_of(module, verb=""):
    """Gets the ArgumentParser of a worker, or of one of its verbs."""
    with asking():
        sys.argv = [module]
        try:
            importlib.import_module(module).main()
            parser = None
        except Asked as asked:
            parser = asked.args[0]
        except ImportError as error:
            raise Wrong("%s: %s (bash utils/setup.sh installs what is missing)" % (module, error)) from None
        except (Exception, SystemExit) as error:
            raise Wrong("%s: %s: %s" % (module, type(error).__name__, error)) from None
    if parser is None:
        raise Wrong("%s: parses no options with argparse" % module)
    if not verb:
        return parser
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not verbs or verb not in verbs[0].choices:
        raise Wrong("%s: has no verb %s" % (module, verb))
    return verbs[0].choices[verb]


def options_of(parser):
    """Lists the options of a parser, name -> fields as declared: kind, shape, needed, default, choices, help.

    shape: `one` value, `many` (several words, which the shell holds as one text with blanks), `some` (the same, but at
    least one), `flag` (no value) or `repeated`, which no script can forward."""
    found = {}
    for action in parser._actions:
        flags = [flag for flag in action.option_strings if flag.startswith("--")]
        if not flags or isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            continue
        found[flags[0][2:].replace("-", "_")] = fields_of(action)
    return found


def fields_of(action):
    default = as_text(action.default)
    kind = "number" if re.fullmatch(NUMBER, default) else "text"   # such as sizes, kept as they are written
    kind = "boolean" if getattr(action.type, "__name__", "") == "boolean" else KINDS.get(action.type, kind)
    shape = {"*": "many", "+": "some"}.get(action.nargs, "one")
    if isinstance(action, argparse._StoreTrueAction):
        kind, shape = "boolean", "flag"
    elif isinstance(action, argparse._AppendAction) or action.nargs not in (None, "*", "+"):
        shape = "repeated"
    choices = [str(choice) for choice in action.choices or ()]
    told = (action.help or "") % {**vars(action), "prog": ""} if action.help else ""
    if choices and not action.metavar:
        told = ", ".join(choices[:-1]) + " or " * (len(choices) > 1) + choices[-1] + (": " + told if told else "")
    return (kind, shape, "needed" if action.required else "", default, " ".join(choices),
            " ".join(told.split()))


def as_text(default):
    """Writes a default as one types it in a shell."""
    if default is None or isinstance(default, bool):
        return "" if default is None else str(default).lower()
    return " ".join(map(as_text, default)) if isinstance(default, (list, tuple)) else str(default)


# --- what both say together ---

def declared(script, parsers):
    """Finds what a script forwards to each worker: [(array, worker, {name: fields}), ...]. ``parsers`` keeps the answers."""
    found, known = [], {}
    for module, verb, how, names in forwards(script):
        if (module, verb) not in parsers:
            parsers[module, verb] = options_of(parser_of(module, verb))
        options, worker = parsers[module, verb], " ".join(filter(None, ("python3 -m", module, verb)))
        for name in sorted(names - options.keys()):
            raise Wrong("%s: %s has no --%s" % (script, worker, name.replace("_", "-")))
        options = {name: fields for name, fields in options.items() if (name in names) == (how == "only")}
        for name, fields in options.items():
            if fields[1] == "repeated":
                raise Wrong("%s: --%s of %s can be given several times and is not forwarded: name it after `but`"
                            % (script, name.replace("_", "-"), worker))
            if known.setdefault(name, fields)[:5] != fields[:5]:
                raise Wrong("%s: --%s is not the same in all its workers" % (script, name.replace("_", "-")))
        array = "to_" + (verb or module.rpartition(".")[2]).replace("-", "_")
        if array in (other for other, *_ in found):
            raise Wrong("%s: two workers would have the array %s" % (script, array))
        found.append((array, worker, options))
    return found


def of_folder(folder):
    """Gives `declared` for each script of a folder that forwards options, or Wrong where it has a mistake."""
    made, parsers = {}, {}
    for name in sorted(os.listdir(folder)):
        script = os.path.join(folder, name)
        try:
            if name.endswith(".sh") and forwards(script):
                made[script] = declared(script, parsers)
        except Wrong as wrong:
            made[script] = wrong
    return made


# --- what is kept ---

def sources(script):
    """Lists the files that the options of a script depend on: the script, this file, its workers and what they import."""
    found, todo = {os.path.abspath(script), os.path.abspath(__file__)}, [module for module, *_ in forwards(script)]
    for name in todo:                             # todo grows meanwhile
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if file not in found and file.endswith(".py") and "site-packages" not in file and not file.startswith(STANDARD):
            found.add(file)
            todo += imported(file)
    return sorted(found)


@functools.lru_cache(maxsize=None)
def imported(file):
    """Lists the modules that a file may import, and the packages that they are in."""
    names = set()
    with open(file, encoding="utf-8") as source:
        tree = ast.parse(source.read())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(node.module + "." + alias.name for alias in node.names)}
    return sorted({name[:end] for name in names for end, after in enumerate(name + ".") if after == "."})


def times_of(script):
    """Gives the time of change of each source of a script, by its path from the folder of the script."""
    folder = os.path.dirname(os.path.realpath(script))
    return {os.path.relpath(os.path.realpath(file), folder): os.stat(file).st_mtime_ns for file in sources(script)}


def keep(folder, made, began):
    """Writes the options of the scripts beside them, and the time of change of every file that they depend on.

    Keeps nothing if one of these files has changed since ``began``: its earlier version may have been read."""
    listed = {script: times_of(script) for script, found in made.items() if not isinstance(found, Wrong)}
    changed = {source: time_ns for times in listed.values() for source, time_ns in times.items()}
    if max(changed.values()) >= began - RECENT_NS:
        return
    place = os.path.join(folder, "__pycache__", "options")
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        texts = {os.path.basename(script) + ".options": lines_of(times, made[script]) for script, times in listed.items()}
        for name in os.listdir(place):
            if name.endswith(".options") and name not in texts:
                os.unlink(os.path.join(place, name))
        for name, text in texts.items():
            replace(os.path.join(place, name), text)
        for source, time_ns in changed.items():      # last: these files say that the rest is there
            replace(os.path.join(place, source.replace("/", "+")), "", time_ns)


def replace(path, text, time_ns=None):
    temporary = "%s.tmp%d" % (path, os.getpid())
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    if time_ns is not None:
        os.utime(temporary, ns=(time_ns, time_ns))
    os.replace(temporary, path)


def lines_of(listed, workers):
    """Writes a line of the files that the options depend on, then a line for each worker and two for each of its options:
    its facts, and its help."""
    rows = [listed]
    for array, worker, options in workers:
        rows.append((array, worker))
        for name, (*fields, told) in options.items():
            rows += [(name, *fields), (told,)]
    return "".join(BETWEEN.join(row) + "\n" for row in rows)


def main(script):
    began = time.time_ns()
    script = os.path.join(os.path.dirname(script) or ".", os.path.basename(script))
    made = of_folder(os.path.dirname(script))
    if isinstance(made[script], Wrong):
        raise made[script]
    with contextlib.suppress(OSError):            # in a folder that cannot be written, ask each time
        keep(os.path.dirname(script), made, began)
    sys.stdout.write(lines_of((), made[script]))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Wrong as wrong:
        sys.exit("%s: %s" % (os.path.basename(sys.argv[0]), wrong))
