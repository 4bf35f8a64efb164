"""Reads and writes the stamps of once.py, which describe a finished piece of work, and says why work must be done again.

A stamp has lines of fields between tabs: the command line, every input with its state and digest, every output with
its size, the digest of the code, the experiment that made it, and the time.
"""

import os
import time

try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

HEADER = "svq stamp 2"
NOTES = ("started", "ended", "code", "owner", "host", "job", "log")
# A file that changes again within the clock's grain keeps its time and perhaps its size. So times
# this recent are not trusted, and the content is read once more the next time (as git does).
RACY_NS = 2_000_000_000
NO_FILE = (0, 0, 0, 0)
NEEDED = "was cleaned and is needed again"     # why a file that clean.py has removed is made again


def state_of(path):
    s = os.stat(path)
    return (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)


def content_digest(path):
    digest = blake2b(digest_size=16)
    with open(path, "rb", buffering=0) as f:
        while True:
            block = f.read(1 << 20)
            if not block:
                return digest.hexdigest()
            digest.update(block)


def text_digest(text):
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def input_files(paths, outputs):
    """Lists the files that are read, each once, in a fixed order."""
    made = {os.path.abspath(p) for p in outputs}
    files = {}
    for path in paths:
        if os.path.isdir(path):
            for name in sorted(os.listdir(path)):
                full = os.path.join(path, name)
                if not name.startswith(".") and os.path.isfile(full) \
                        and os.path.abspath(full) not in made:
                    files[full] = None
        else:
            files[path] = None
    return list(files)


def digest_inputs(files, known, texts={}, removed=None):
    """Digests inputs: path -> (state, digest). ``known``, from the stamp, saves reading untouched files. ``texts``: name ->
    digest of other inputs, such as a row of a table. ``removed``: cleaned.find."""
    result = {name: (NO_FILE, digest) for name, digest in texts.items()}
    for path in files:
        entry = removed and removed(path)
        if entry:
            result[path] = entry[:2]
            continue
        state = state_of(path)
        old = known.get(path)
        result[path] = (state, old[1] if old and old[0] == state else content_digest(path))
    return result


def changed_while(inputs):
    """Yields the names of the inputs that have changed since ``digest_inputs``."""
    for path, (state, digest) in inputs.items():
        if state != NO_FILE:
            there = os.path.exists(path)
            if not there or state_of(path) != state and content_digest(path) != digest:
                yield path


def sizes_of(outputs):
    """Gives path -> bytes for outputs that are files, and path -> -1 for the files at the top of outputs that are folders:
    users may change these files (fix_data_dir.sh), but must not lose them."""
    inside = {p: -1 for p in input_files([p for p in outputs if os.path.isdir(p)], ())}
    return {**inside, **{p: os.path.getsize(p) for p in outputs if os.path.isfile(p)}}


# --- reading and writing ---

def escape(text):
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def unescape(text):
    if "\\" not in text:
        return text
    out, chars = [], iter(text)
    for c in chars:
        out.append({"t": "\t", "n": "\n"}.get(c2, c2) if c == "\\" and (c2 := next(chars, "")) else c)
    return "".join(out)


def read_stamp(path):
    """Reads a stamp: {"arg": [...], "in": {path: (state, digest)}, ...}; None where there is no whole one."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            lines = f.read().split("\n")
    except OSError:
        return None
    if lines[0] != HEADER or lines[-2:] != ["end", ""]:
        return None
    stamp = {"arg": [], "in": {}, "out": {}, **dict.fromkeys(NOTES, "")}
    try:
        for line in lines[1:-2]:
            kind, *fields = line.split("\t")
            if kind == "arg":
                stamp["arg"].append(unescape(fields[0]))
            elif kind == "in":
                stamp["in"][unescape(fields[0])] = (tuple(map(int, fields[1:5])), fields[5])
            elif kind == "out":
                stamp["out"][unescape(fields[0])] = int(fields[1])
            else:
                stamp[kind] = unescape(fields[0])
    except (ValueError, IndexError):
        return None
    return stamp


def write_stamp(path, args, inputs, sizes, notes, read_at):
    """Writes a stamp, whole or not at all. ``inputs``: from digest_inputs, called at ``read_at``; ``sizes``: from sizes_of;
    ``notes``: values of NOTES."""
    lines = [HEADER] + ["%s\t%s" % (name, escape(notes[name])) for name in NOTES if notes.get(name)]
    lines += ["arg\t" + escape(a) for a in args]
    lines += ["out\t%s\t%d" % (escape(p), size) for p, size in sizes.items()]
    for name, (state, digest) in inputs.items():
        size, mtime, ctime, inode = state
        if any(state) and max(mtime, ctime) > read_at - RACY_NS:
            inode = -1                                # matches no file, so that it is read again
        lines.append("in\t%s\t%d\t%d\t%d\t%d\t%s" % (escape(name), size, mtime, ctime, inode, digest))
    temporary = "%s.tmp%d" % (path, os.getpid())
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            f.write("\n".join(lines + ["end", ""]))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:     # of a full disk
            raise OSError(error.errno, error.strerror, path) from None
        raise


# --- why a command has to be run ---

def changed_words(old, new):
    if len(old) == len(new):
        i = next(i for i, (a, b) in enumerate(zip(old, new)) if a != b)
        name, equals, value = new[i].partition("=")
        if equals and name.startswith("--") and old[i].startswith(name + "="):
            return "%s: '%s' -> '%s'" % (name, old[i][len(name) + 1:], value)
        option = new[i - 1] if i and new[i - 1].startswith("-") else "argument %d" % i
        return "%s: '%s' -> '%s'" % (option, old[i], new[i])
    more = [w for w in new if w not in old]
    less = [w for w in old if w not in new]
    return "command line changed:%s%s" % (" now with " + " ".join(more) if more else "",
                                          " now without " + " ".join(less) if less else "")


def changed_inputs(old, new):
    """Says in a few words which inputs differ; "" where none does."""
    changed = [p + " changed" for p in new if p in old and old[p][1] != new[p][1]]
    changed += [p + " is new" for p in new if p not in old]
    changed += [p + " is gone" for p in old if p not in new]
    return ", ".join(changed[:3]) + (" and %d more" % (len(changed) - 3) if changed[3:] else "")


def damaged_output(stamp, outputs, removed=None):
    """Says in a few words which output is not as the command left it; None where all are. ``removed``: cleaned.find,
    which knows the files that may be missing."""
    for path in outputs:
        if not os.path.exists(path):
            entry = removed and removed(path)
            if not entry:
                return "%s is not there yet" % path
            if entry[2]:
                return "%s %s" % (path, NEEDED)
    for path, size in (stamp["out"] if stamp else {}).items():
        if not os.path.exists(path):
            entry = removed and removed(path)
            if not entry or entry[0][0] != size:
                return "%s is gone" % path
            if entry[2]:
                return "%s %s" % (path, NEEDED)
        elif size >= 0 and os.path.isfile(path) and os.path.getsize(path) != size:
            return "%s has %d bytes where it was made with %d" % (path, os.path.getsize(path), size)
    return None


def reason(stamp, args, inputs, outputs, removed=None):
    """Says in a few words why the command must run; None where all is up to date."""
    damaged = damaged_output(stamp, outputs, removed)
    if damaged:
        return damaged
    if stamp is None:
        return "not finished before"
    if stamp["arg"] != args:
        return changed_words(stamp["arg"], args)
    return changed_inputs(stamp["in"], inputs) or None


def moment(text):
    """Converts a time in a stamp to seconds since 1970; None where it is no time. Without strptime, whose import is slow."""
    try:
        return time.mktime((*map(int, text[:10].split("-")), *map(int, text[11:].split(":")), 0, 0, -1))
    except (TypeError, ValueError, OverflowError):
        return None


def seconds_of(stamp):
    """Gives the seconds that the work of a stamp took; None where the stamp does not tell."""
    began, ended = moment(stamp["started"]), moment(stamp["ended"])
    return None if began is None or ended is None else max(0.0, ended - began)
