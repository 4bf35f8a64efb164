#!/usr/bin/env python3
"""Tell the scripts of a folder which options of Python workers they forward (utils/forward.sh asks).

  declared.py SCRIPT

A script names its workers above parse_options.sh, each with what it gives the worker itself:

  _forward_to=("svq.bin.train but config data out set" "svq.bin.pack only calibration" "svq.bin.cascade choose but out")

The options are asked of the workers' argparse, which is where they are declared, with kind, default and help. Prints
those of SCRIPT, and keeps those of all scripts of the folder in __pycache__/options beside them, so that a script
starts without starting Python. With them it keeps, for every file that the options come from, an empty file of the same
time of change: as long as the times are the same, so are the options.
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
    """Carries what is said in one line."""


class Asked(Exception):
    """Carries the parser whose options were about to be parsed."""


# --- what a script says ---

def forwards(script):
    """[(module, verb or "", `but` or `only`, names), ...] of a script."""
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
    """Parsers raise Asked in place of parsing, meanwhile."""
    parse_args, argv = argparse.ArgumentParser.parse_args, sys.argv

    def asked(self, args=None, namespace=None):
        raise Asked(self)

    argparse.ArgumentParser.parse_args = asked
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_args, sys.argv = parse_args, argv


def parser_of(module, verb=""):
    """The ArgumentParser of a worker, or of a verb of it."""
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
    """name -> fields of the options of a parser, as they are declared: kind, shape, needed, default, choices, help.

    shape: `one` value, `many` (several words, of which the shell has one text with blanks), `some` (the same, but at
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
    """A default as one types it in a shell."""
    if default is None or isinstance(default, bool):
        return "" if default is None else str(default).lower()
    return " ".join(map(as_text, default)) if isinstance(default, (list, tuple)) else str(default)


# --- what both say together ---

def declared(script, parsers):
    """[(array, worker, {name: fields}), ...]: what a script forwards to each worker. ``parsers`` keeps the answers."""
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
    """script -> what is `declared`, or what is wrong with it; only of scripts that forward options."""
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
    """The files that the options of a script come from: it, this one, its workers and what these import."""
    found, todo = {os.path.abspath(script), os.path.abspath(__file__)}, [module for module, *_ in forwards(script)]
    for name in todo:                             # which grows
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if file not in found and file.endswith(".py") and "site-packages" not in file and not file.startswith(STANDARD):
            found.add(file)
            todo += imported(file)
    return sorted(found)


@functools.lru_cache(maxsize=None)
def imported(file):
    """The modules that a file may import, and the packages that they are in."""
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
    """path from the script's folder -> time of change, of its sources."""
    folder = os.path.dirname(os.path.realpath(script))
    return {os.path.relpath(os.path.realpath(file), folder): os.stat(file).st_mtime_ns for file in sources(script)}


def keep(folder, made, began):
    """Write the options of the scripts beside them, and of every file that they come from its time of change.

    Nothing is kept where one of them has changed since ``began``: what was read may have been the file before."""
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
        for source, time_ns in changed.items():      # last: they say that the rest is there
            replace(os.path.join(place, source.replace("/", "+")), "", time_ns)


def replace(path, text, time_ns=None):
    temporary = "%s.tmp%d" % (path, os.getpid())
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    if time_ns is not None:
        os.utime(temporary, ns=(time_ns, time_ns))
    os.replace(temporary, path)


def lines_of(listed, workers):
    """The files that the options come from; of each worker a line, and two of each option: what it is, and its help."""
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
    with contextlib.suppress(OSError):            # a folder that is not ours: the options are asked for each time
        keep(os.path.dirname(script), made, began)
    sys.stdout.write(lines_of((), made[script]))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Wrong as wrong:
        sys.exit("%s: %s" % (os.path.basename(sys.argv[0]), wrong))
