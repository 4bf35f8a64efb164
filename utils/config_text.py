"""Find the lines of settings that a system depends on, without reading YAML: what once.py digests.

`FILE.yaml:ROW` is FILE with the files that it builds on (`base: other.yaml`), and of the tables that one of them
names (`rows: [quant.yaml, ../conf/quant.yaml]`) the lines of ROW and of the rows that it builds on. svq.config reads
the same and refuses a table that is written so that its rows could not be told apart by line.
"""

import os
import re
import sys

_BASE = re.compile(r"^base: *([^#\n]+)", re.MULTILINE)
_ROWS = re.compile(r"^rows: *\[?([^\]#\n]*)", re.MULTILINE)
_BASE_OF_ROW = re.compile(r"(?:^|[\s{,])base: *[\"']?([^\"'#\s,}]+)")


def split(text):
    """(file, row or None): conf/finetune.yaml:kmqat4. A file of that very name is a file."""
    file, colon, row = text.rpartition(":")
    return (file, row) if colon and file.endswith((".yaml", ".yml")) and not os.path.exists(text) else (text, None)


def parts(text):
    """(files, {name: lines}): the files that the settings `text` are made of, and the rows taken of tables."""
    layers, _ = _layers(text)
    return [name for name, _, of_table in layers if not of_table], {
        name: lines for name, lines, of_table in layers if of_table}


def reads_features(text):
    """Whether the settings say `input: feats`: the nearest of them that speaks of `input`."""
    found = _nearest(r"^[^#\n]*\binput: *(\w+)", text)
    return found == "feats"


def augments(text):
    """Whether the settings add noise and rooms: the nearest of them that speaks of `augment` has something there."""
    return _nearest(r"^[^#\n]*\baugment: *([^\s,}]*)", text) not in (None, "null", "~")


def levels(text):
    """The teacher's cached levels that the settings name, nearest first: `levels: [utterance, narrowBN]`."""
    found = _nearest(r"\blevels: *\[([^\]]*)\]", text) or ""
    return [level.strip(" \"'\n") for level in found.split(",") if level.strip()]


def number(name, text, default):
    """The whole number that the nearest of the settings that speaks of `name` gives it, else the default."""
    return int(_nearest(r"^[^#\n]*\b%s: *(\d+)" % re.escape(name), text) or default)


def _nearest(pattern, text):
    """What the pattern's group is in the nearest of the settings that has it; None where none has."""
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
    """([(file or table:row, its lines, whether of a table), the nearest first], tables of the nearest that names some)."""
    file, row = split(text)
    if file in seen:                         # a chain that leads back is the worker's to name
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
    """{table:row: its lines} of a row and of those that it builds on."""
    found, first = {}, 0
    while row is not None:
        for i in range(first, len(tables)):
            lines = _lines_of(row, tables[i])
            if lines is not None:
                break
        else:
            return found                     # no such row: the worker says so
        name = "%s:%s" % (tables[i], row)
        if name in found:
            return found
        found[name] = lines
        base = _BASE_OF_ROW.search(lines.partition(":")[2])
        first = i + 1 if base and base.group(1) == row else 0
        row = base.group(1) if base else None
    return found


def _lines_of(row, table):
    """The lines of a table from the one that begins with the row's name to the next that begins at its margin, without
    comments between rows; None where there is none."""
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
