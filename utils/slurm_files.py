"""Wait for files that another machine has written: a network disk shows them late, up to a minute.

The files are those that a command names: arguments that are files, and what lies in arguments that are directories.
"""

import os
import time


def named_by(words, since_ns=0):
    """[(time of the last change in ns, path)] of the files that the words name; ``since_ns``: only those changed since."""
    found = {}
    for word in words:
        path = word.partition("=")[2] if word.startswith("--") and "=" in word else word
        try:
            if os.path.isdir(path):
                with os.scandir(path) as entries:
                    stats = [(entry.path, entry.stat()) for entry in entries
                             if entry.is_file() and not entry.name.startswith(".")]
            else:
                stats = [(path, os.stat(path))]
        except (OSError, ValueError):
            continue
        found.update({os.path.abspath(name): s.st_mtime_ns for name, s in stats if s.st_mtime_ns >= since_ns})
    return [(changed, path) for path, changed in sorted(found.items()) if "\n" not in path]


def lines_of(files, whose):
    """Lines to write them down by; ``whose``: the number of the job that they are for, or - for all."""
    return "".join("%s %d %s\n" % (whose, *pair) for pair in files)


def parse(lines, whose):
    """The files of lines_of that are for that job."""
    fields = (line.split(" ", 2) for line in lines)
    return [(int(f[1]), f[2]) for f in fields if len(f) == 3 and f[0] in (whose, "-")]


def _late(changed, path):
    """Whether the file is not here yet, or as it was before. Opening its folder asks the server anew."""
    try:
        os.scandir(os.path.dirname(path)).close()
        return os.stat(path).st_mtime_ns < changed
    except OSError:
        return True


def wait_for(files, patience):
    """Wait until the files are here as they were written; paths of those that are not after ``patience`` seconds."""
    deadline, pause = time.monotonic() + patience, 0.05
    while True:
        files = [pair for pair in files if _late(*pair)]
        if not files or time.monotonic() > deadline:
            return [path for _, path in files]
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
