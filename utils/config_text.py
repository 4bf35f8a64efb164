"""Finds the lines of settings that a system depends on, without a YAML reader; once.py digests them.

`FILE.yaml:ROW` means FILE, the files that it builds on (`base: other.yaml`), and the lines of ROW and of the rows that
ROW builds on, in the tables that one of these files names (`rows: [quant.yaml, ../conf/quant.yaml]`). svq.config reads
the same, and refuses a table whose rows cannot be told apart by line.
"""

import os
import re
import sys

_BASE = re.compile(r"^base: *([^#\n]+)", re.MULTILINE)
_ROWS = re.compile(r"^rows: *\[?([^\]#\n]*)", re.MULTILINE)
_BASE_OF_ROW = re.compile(r"(?:^|[\s{,])base: *[\"']?([^\"'#\s,}]+)")


def split(text):
    """Splits conf/finetune.yaml:kmqat4 into (file, row); row is None for a plain file, or if a file has the whole name."""
    file, colon, row = text.rpartition(":")
    return (file, row) if colon and file.endswith((".yaml", ".yml")) and not os.path.exists(text) else (text, None)


def parts(text):
    """Gives the files that the settings `text` are made of, and the lines of the rows that they take, {name: lines}."""
    layers, _ = _layers(text)
    return [name for name, _, of_table in layers if not of_table], {
        name: lines for name, lines, of_table in layers if of_table}


def reads_features(text):
    """Says whether the settings have `input: feats`; the nearest file or row with an `input` decides."""
    found = _nearest(r"^[^#\n]*\binput: *(\w+)", text)
    return found == "feats"


def augments(text):
    """Says whether the settings add noise and rooms; the nearest file or row with an `augment` decides."""
    return _nearest(r"^[^#\n]*\baugment: *([^\s,}]*)", text) not in (None, "null", "~")


def levels(text):
    """Lists the teacher's cached levels that the settings name; the nearest `levels: [utterance, narrowBN]` decides."""
    found = _nearest(r"\blevels: *\[([^\]]*)\]", text) or ""
    return [level.strip(" \"'\n") for level in found.split(",") if level.strip()]


def number(name, text, default):
    """Gives the whole number that the nearest file or row with a `name` gives it, else the default."""
    return int(_nearest(r"^[^#\n]*\b%s: *(\d+)" % re.escape(name), text) or default)


def _nearest(pattern, text):
    """Finds the group of the pattern in the nearest file or row that matches it; None where none does."""
    for _, lines, _ in _layers(text)[0]:
        found = re.search(pattern, lines, re.MULTILINE)
        if found:
            return found.group(1)
    return None


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _layers(text, seen=()):
    """Gives ([(file or table:row, its lines, whether from a table), the nearest first], tables that the nearest file names)."""
    file, row = split(text)
    if file in seen:                         # the worker will report this circle
        return [], []
    lines, folder = _read(file), os.path.dirname(file)
    base, tables = _BASE.search(lines), _ROWS.search(lines)
    below, inherited = [], []
    if base:
        below, inherited = _layers(os.path.join(folder, base.group(1).strip(" \"'")), (*seen, file))
    names = [os.path.join(folder, name.strip(" \"'")) for name in tables.group(1).split(",")] if tables else inherited
    rows = _rows(row, names) if row is not None else {}
    return [*((name, found, True) for name, found in rows.items()), (file, lines, False), *below], names


def _rows(row, tables):
    """Gives {table:row: its lines} of a row and of the rows that it builds on."""
    found, first = {}, 0
    while row is not None:
        for i in range(first, len(tables)):
            lines = _lines_of(row, tables[i])
            if lines is not None:
                break
        else:
            return found                     # no such row: the worker will report it
        name = "%s:%s" % (tables[i], row)
        if name in found:
            return found
        found[name] = lines
        base = _BASE_OF_ROW.search(lines.partition(":")[2])
        first = i + 1 if base and base.group(1) == row else 0
        row = base.group(1) if base else None
    return found


def _lines_of(row, table):
    """Cuts a row out of a table: the lines from the one that begins with its name to the next that is not indented, without
    comments between rows; None where there is no such row."""
    found = None
    for line in _read(table).split("\n"):
        if found is not None:
            if line[:1] not in ("", " ", "#"):
                break
            found.append(line)
        elif line.startswith((row + ":", "'%s':" % row, '"%s":' % row)):
            found = [line]
    return None if found is None else "\n".join(line for line in found if line.strip() and not line.startswith("#"))


if __name__ == "__main__":      # config_text.py num_workers conf/teacher.yaml 1
    print(number(*sys.argv[1:]))
