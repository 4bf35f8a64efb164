"""Waits for files that another machine has written: a network disk shows them late, up to a minute.

The files are those that a command names: arguments that are files, and files in arguments that are directories.
"""

import os
import re
import time


# Files that exist for a moment only: half-written ones, and those of SQLite.
PASSING = re.compile(r"\.|.*(\.tmp|-journal$|-wal$|-shm$|~$)")
MANY = 1000          # a directory of more entries is not searched


def named_by(words, since_ns=0):
    """Finds the files that the words name, and those in directories that they name: two lists of (last change in ns, path).

    since_ns: only files that have changed since then.
    """
    files, contents = {}, {}
    for word in words:
        path = word.partition("=")[2] if word.startswith("--") and "=" in word else word
        try:
            if not os.path.isdir(path):
                files[os.path.abspath(path)] = os.stat(path).st_mtime_ns
                continue
            names = [name for name in os.listdir(path) if not PASSING.match(name)]
            for name in names if len(names) <= MANY else ():
                full = os.path.join(os.path.abspath(path), name)
                if os.path.isfile(full):
                    contents[full] = os.stat(full).st_mtime_ns
        except (OSError, ValueError):
            continue
    return tuple([(changed, path) for path, changed in sorted(found.items())
                  if changed >= since_ns and "\n" not in path] for found in (files, contents))


def lines_of(files, whose):
    """Writes files as lines; ``whose``: a word without blanks that says for whom they are."""
    return "".join("%s %d %s\n" % (whose, *pair) for pair in files)


def parse(lines, *whose):
    """Reads from lines of `lines_of` the files that are for one of ``whose``."""
    fields = (line.split(" ", 2) for line in lines)
    return [(int(f[1]), f[2]) for f in fields if len(f) == 3 and f[0] in whose]


def _late(changed, path):
    """Says whether the file is not here yet, or is still an old one. Opens its folder, which asks the server anew."""
    try:
        os.scandir(os.path.dirname(path)).close()
        return os.stat(path).st_mtime_ns < changed
    except OSError:
        return True


def wait_for(files, patience):
    """Waits until the files are here as they were written; gives the paths of those that are not after ``patience`` s."""
    deadline, pause = time.monotonic() + patience, 0.05
    while True:
        files = [pair for pair in files if _late(*pair)]
        if not files or time.monotonic() > deadline:
            return [path for _, path in files]
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
