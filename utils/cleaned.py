"""Keeps notes of the files that clean.py has removed. Work that read such a file stays up to date, as if the file were
there. The file is made again when work that is not up to date needs it.

A folder that has lost files holds `.cleaned`, with the name, size, times, inode and digest of each file, and whether it
is needed again. A note counts only while its file is missing, and goes when the file is made again (once.py).
"""

import os

from stamps import content_digest, escape, state_of, unescape

NAME, HEADER = ".cleaned", "svq cleaned 1"
_tables = {}         # folder -> {name: (state, digest, needed)}
_wanted = set()      # real paths that a plan needs again


def _table(folder):
    folder = folder or "."
    if folder not in _tables:
        _tables[folder] = _read(os.path.join(folder, NAME))
    return _tables[folder]


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = file.read().split("\n")
    except OSError:
        return {}
    table = {}
    if lines[0] != HEADER or lines[-2:] != ["end", ""]:
        return {}
    try:
        for line in lines[1:-2]:
            name, *state, digest, needed = line.split("\t")
            if len(state) == 4:
                table[unescape(name)] = (tuple(map(int, state)), digest, needed == "1")
    except ValueError:
        return {}
    return table


def _write(folder, table):
    path = os.path.join(folder or ".", NAME)
    _tables[folder or "."] = table
    lines = [HEADER] + ["\t".join((escape(name), *map(str, state), digest, "1" if needed else "0"))
                        for name, (state, digest, needed) in sorted(table.items())]
    temporary = "%s.tmp%d" % (path, os.getpid())
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.write("\n".join(lines + ["end", ""]))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def find(path):
    """Gives (state, digest, needed) of a file that was cleaned away; None if it is there, or was never cleaned."""
    folder, name = os.path.split(path)
    entry = _table(folder).get(name)
    if entry is None or os.path.lexists(path):
        return None
    return (*entry[:2], entry[2] or os.path.realpath(path) in _wanted)


def note(paths):
    """Notes files of one folder that are about to be removed."""
    folder = os.path.dirname(paths[0])
    _write(folder, {**_table(folder), **{os.path.basename(path): (state_of(path), content_digest(path), False) for path in paths}})


def index(top):
    """Notes in the folder of an experiment that something below was cleaned: stages.sh looks there."""
    if not os.path.exists(os.path.join(top, NAME)):
        _write(top, {})


def want(paths, keep=False):
    """Marks files that are to be made again. keep: writes it down for later runs, too."""
    _wanted.update(map(os.path.realpath, paths))
    for path in paths if keep else ():
        folder, name = os.path.split(path)
        table = dict(_table(folder))
        table[name] = (*table[name][:2], True)
        _write(folder, table)


def restore_times(paths):
    """Gives files that were made again with the same content the times that they had: digests of lists hold the times."""
    for path in paths:
        folder, name = os.path.split(path)
        entry = _table(folder).get(name)
        if entry and os.path.isfile(path) and os.path.getsize(path) == entry[0][0] and content_digest(path) == entry[1]:
            os.utime(path, ns=(entry[0][1], entry[0][1]))


def drop(paths):
    """Forgets the notes of files that are there again."""
    for folder in dict.fromkeys(map(os.path.dirname, paths)):
        names = {os.path.basename(path) for path in paths if os.path.dirname(path) == folder}
        table = _table(folder)
        if names & table.keys():
            _write(folder, {name: entry for name, entry in table.items() if name not in names})
