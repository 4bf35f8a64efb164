"""Lists what can be made again below the folder of an experiment, and removes it; utils/clean.sh calls this.

  clean.py --data FOLDERS --yes true|false EXP

Removes, of work whose stamp says that it is done and whole,

  archives      .ark files that it made: embeddings, means, features, levels of a teacher
  checkpoints   those of a training, beside its model
  caches        embeddings/ and probes/ of an analysis of layers or blocks

and never anything else. Archives are noted in their folder (cleaned.py) before they go.
"""

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import cleaned
from listed import files_behind
from log_lines import size
from pieces import LISTED_AS
from stamps import NO_FILE, damaged_output, read_stamp
from status import Found, base_of

CACHES = ("embeddings", "probes")
RECORDINGS, SAMPLE = LISTED_AS["wav"] % "", 200
TRAINED = (".done.model.safetensors", ".done.aggregation.safetensors")


class Wrong(Exception):
    """Carries a message."""


class Part:
    """Files that are removed together. kind; folder: as shown; files: paths; bytes."""

    def __init__(self, kind, folder, files):
        self.kind, self.folder, self.files = kind, folder, files
        self.bytes = sum(os.lstat(path).st_size for path in files)


def files_below(folder):
    found = []
    for inside, folders, names in os.walk(folder):
        found += [os.path.join(inside, name) for name in names]
    return found


def _real_folder(path):
    return os.path.isdir(path) and not os.path.islink(path)


def compared(top, path):
    """Says whether the report reads these embeddings together with those of the same system in INT8 (NAME-int8)."""
    name, _, rest = os.path.relpath(path, top).partition(os.sep)
    return rest.startswith("embeddings") and (name.endswith("-int8") or os.path.isdir(os.path.join(top, name + "-int8")))


def can_be_made(stamp, base):
    """Says whether the work can be done again: whether its inputs and recordings (some of a long list) are there."""
    for name, (state, digest) in stamp["in"].items():
        if state != NO_FILE:
            path = os.path.join(base, name)
            if not os.path.exists(path) and not cleaned.find(path):
                return False
        elif name.startswith(RECORDINGS):
            try:
                files = files_behind(os.path.join(base, name[len(RECORDINGS):]))
            except OSError:
                return False
            if not all(os.path.exists(os.path.join(base, file)) for file in files[::len(files) // SAMPLE + 1]):
                return False
    return True


def parts_of(top):
    """Finds the parts that can go, and the archives that stay for the report."""
    archives, kept, parts = {}, set(), []
    for path in Found(top).stamps:
        stamp, folder = read_stamp(path), os.path.dirname(path)
        if stamp is None or not stamp["out"]:
            continue
        base = base_of(path, stamp)
        outputs = {os.path.join(base, name): count for name, count in stamp["out"].items()}
        if damaged_output({"out": outputs}, (), cleaned.find) or not can_be_made(stamp, base):
            continue
        names = [name for name in outputs if name.endswith(".ark") and os.path.isfile(name) and not os.path.islink(name)
                 and os.path.realpath(name).startswith(os.path.realpath(top) + os.sep)]
        if compared(top, path):
            kept.update(names)
        else:
            for name in names:
                archives.setdefault(os.path.dirname(name), {})[name] = None
        if os.path.basename(path) in TRAINED and _real_folder(os.path.join(folder, "checkpoints")):
            inside = os.path.join(folder, "checkpoints")
            parts.append(Part("checkpoints", inside, files_below(inside)))
        for name in CACHES:
            inside = os.path.join(folder, name)
            if os.path.isfile(os.path.join(folder, ".inputs." + name)) and _real_folder(inside):
                parts.append(Part("cache", inside, files_below(inside)))
    parts += [Part("archives", folder, [name for name in names if name not in kept]) for folder, names in archives.items()]
    return [part for part in parts if part.files], kept


def take_lock(exp):
    """Takes the lock of the experiment and holds it to the end of this process; Wrong where a run has it."""
    import fcntl

    try:
        file = open(os.path.join(exp, ".lock"), "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise Wrong("%s: %s: nothing can be removed here" % (error.filename, error.strerror)) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise Wrong("%s is in use by a run (%s): wait for it" % (exp, file.read(1000).strip())) from None
    return file


def remove(part, tops):
    if part.kind == "archives":
        for folder in dict.fromkeys(map(os.path.dirname, part.files)):
            cleaned.note([path for path in part.files if os.path.dirname(path) == folder])
        for top in tops:
            if part.folder.startswith(top + "/"):
                cleaned.index(top)
    for path in part.files:
        os.unlink(path)
    if part.kind != "archives":
        for inside, folders, names in os.walk(part.folder, topdown=False):
            os.rmdir(inside)


def find_parts(tops):
    parts, kept = [], set()
    for top in tops:
        found, stay = parts_of(os.path.abspath(top))
        parts, kept = parts + found, kept | stay
    return sorted(parts, key=lambda part: (-part.bytes, part.folder)), kept


def main(data, yes, exp):
    tops = [folder.rstrip("/") or folder for folder in [exp, *data]]
    for top in tops:
        if not os.path.isdir(top):
            raise Wrong("%s: no such folder; give the folder of an experiment (--help says more)" % top)
    parts, kept = find_parts(tops)
    lock = None
    if yes and parts:
        lock = take_lock(exp)
        parts, kept = find_parts(tops)         # again, now that no run can change them
    total = 0
    for part in parts:
        if yes:
            remove(part, [os.path.abspath(top) for top in tops])
        total += part.bytes
        print("  %-11s  %9s  %s" % (part.kind, size(part.bytes), os.path.relpath(part.folder)))
    if kept:
        print("  kept: %s of embeddings that the report compares with those in INT8" % size(sum(map(os.path.getsize, kept))))
    if not parts:
        print("%s: nothing that can be made again is here" % exp)
    else:
        print("%s: %s %s" % (exp, size(total), "removed; run.sh makes again what it needs" if yes else
                            "can be made again; --yes true removes it"))
    if lock:
        lock.close()


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
    try:
        main(sys.argv[2].split(), sys.argv[4] == "true", sys.argv[5])
    except Wrong as wrong:
        print("clean.sh: %s" % wrong, file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        import dispatch
        dispatch.report_os_error("clean.sh", error)
        sys.exit(1)
