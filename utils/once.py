#!/usr/bin/env python3
"""Run a command unless what it makes is there, made by this very command from these very inputs.

  once.py [--stamp FILE] --in [STAGE:]PATH ... --out PATH ... [--neutral OPTION ...]
          [--dry-run] [--force] -- command arguments...

A stamp, written only after the command has exited with 0 and all outputs exist, holds the command
line and a digest of every input. When they are the same the next time the command is skipped; when
not, one line says what has changed and it is run again. The stamp is removed before the command
starts, so a command killed at any instant is run again.

  --in [STAGE:]PATH   file, or Kaldi data directory (its files at the top, no hidden ones, none of
                      the outputs); a missing one is an error that names the stage that makes it
  --out PATH          file or directory that the command makes
  --stamp FILE        default: .done.NAME beside the first output
  --neutral OPTION    an option of the command that says how, not what: its value may change without
                      anything being redone. Always so: --cmd --nj --num-threads --num-workers
                      --max-jobs-run
  --dry-run           say what would be done; touch nothing
  --force             run it in any case
Contents are read again only where size or times differ from those in the stamp.
Exit status: 0, 1 when the command failed or an input is missing, 2 for a wrong command line.
"""
# run.sh calls this for every piece of work, so it must start in milliseconds: no argparse, no json,
# and nothing that only a command which is really run needs.

import os
import sys
import time

try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

NEUTRAL = {"cmd", "nj", "num-threads", "num-workers", "max-jobs-run"}
HEADER = "svq stamp 1"
# A file changed again within the clock's grain keeps its time and perhaps its size: times this
# recent are not trusted and the content is read once more the next time (as git does).
RACY_NS = 2_000_000_000


class Stop(Exception):
    """Carries (exit status, message)."""


def say(text, fd=1):
    os.write(fd, os.fsencode(text + "\n"))


def parse(argv):
    opts = {"in": [], "out": [], "neutral": [], "stamp": None, "dry-run": False, "force": False,
            "tell": False}
    i = 0
    while i < len(argv) and argv[i] != "--":
        name, equals, value = argv[i].partition("=")
        key = name[2:].replace("_", "-")
        if name == "--help":
            print(__doc__.strip())
            raise Stop(0, "")
        if not name.startswith("--") or key not in opts:
            raise Stop(2, "once.py: unknown option %s (the command follows after --)" % name)
        if isinstance(opts[key], bool):
            opts[key] = True
        else:
            if not equals:
                i += 1
                value = argv[i] if i < len(argv) else "--"
            if not value or value == "--":
                raise Stop(2, "once.py: %s needs a value" % name)
            if key == "stamp":
                opts[key] = value
            else:
                opts[key].append(value)
        i += 1
    command = argv[i + 1:]
    if not command:
        raise Stop(2, "once.py: no command; it follows after --")
    if not opts["out"]:
        raise Stop(2, "once.py: no --out; what does %s make?" % command[0])
    return opts, command


def split_stage(text):
    stage, colon, path = text.partition(":")
    return (stage, path) if colon and stage.isdigit() and path else ("", text)


def essential(command, neutral):
    """The command line without its neutral options and their values."""
    kept, skip = command[:1], False
    for word in command[1:]:
        if skip:
            skip = False
            continue
        name, equals, _ = word.partition("=")
        if name.startswith("--") and name[2:].replace("_", "-") in neutral:
            skip = not equals
            continue
        kept.append(word)
    return kept


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


def input_files(paths, outputs):
    """The files that are read, each once, in a fixed order."""
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


def digest_inputs(files, known):
    """path -> (state, digest); ``known``, the stamp's, spares reading what has not been touched."""
    result = {}
    for path in files:
        state = state_of(path)
        old = known.get(path)
        result[path] = (state, old[1] if old and old[0] == state else content_digest(path))
    return result


# --- the stamp: lines of fields between tabs ---

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
    """{"arg": [...], "in": {path: (state, digest)}, ...}, or None where there is no whole stamp."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            lines = f.read().split("\n")
    except OSError:
        return None
    if lines[0] != HEADER or lines[-2:] != ["end", ""]:
        return None
    stamp = {"arg": [], "in": {}, "started": "", "ended": ""}
    try:
        for line in lines[1:-2]:
            kind, *fields = line.split("\t")
            if kind == "arg":
                stamp["arg"].append(unescape(fields[0]))
            elif kind == "in":
                stamp["in"][unescape(fields[0])] = (tuple(map(int, fields[1:5])), fields[5])
            else:
                stamp[kind] = fields[0]
    except (ValueError, IndexError):
        return None
    return stamp


def write_stamp(path, args, inputs, started, ended, read_at):
    lines = [HEADER, "started\t" + started, "ended\t" + ended]
    lines += ["arg\t" + escape(a) for a in args]
    for name, (state, digest) in inputs.items():
        size, mtime, ctime, inode = state
        if max(mtime, ctime) > read_at - RACY_NS:
            inode = -1                                # matches no file: to be read again
        lines.append("in\t%s\t%d\t%d\t%d\t%d\t%s" % (escape(name), size, mtime, ctime, inode, digest))
    temporary = "%s.tmp%d" % (path, os.getpid())
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as f:
            f.write("\n".join(lines + ["end", ""]))
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


# --- why a command has to be run ---

def changed_words(old, new):
    if len(old) == len(new):
        i = next(i for i, (a, b) in enumerate(zip(old, new)) if a != b)
        option = new[i - 1] if i and new[i - 1].startswith("-") else "argument %d" % i
        return "%s: '%s' -> '%s'" % (option, old[i], new[i])
    more = [w for w in new if w not in old]
    less = [w for w in old if w not in new]
    return "command line changed:%s%s" % (" now with " + " ".join(more) if more else "",
                                          " now without " + " ".join(less) if less else "")


def reason(stamp, args, inputs, outputs):
    """Why the command must be run, in a few words; None where all is up to date."""
    missing = [p for p in outputs if not os.path.exists(p)]
    if missing:
        return "%s is not there yet" % missing[0]
    if stamp is None:
        return "not finished before"
    if stamp["arg"] != args:
        return changed_words(stamp["arg"], args)
    old = stamp["in"]
    changed = [p + " changed" for p in inputs if p in old and old[p][1] != inputs[p][1]]
    changed += [p + " is new" for p in inputs if p not in old]
    changed += [p + " is gone" for p in old if p not in inputs]
    if changed:
        return ", ".join(changed[:3]) + (" and %d more" % (len(changed) - 3) if changed[3:] else "")
    return None


# --- running ---

def run(command):
    """Run the command, which dies with this process and this with its parent; its exit status."""
    import signal
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import guard
    parent = os.environ.pop("SVQ_PARENT_PID", "")
    for name in ("SVQ_PLANNED",):
        os.environ.pop(name, None)

    def stop(number, frame):
        guard.stop(pids)
        os._exit(128 + number)

    pids = []
    caught = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, caught)
    for number in caught:
        signal.signal(number, stop)
    guard.die_with_parent(int(parent) if parent.isdigit() else None)
    pids.append(guard.start(command))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, caught)
    status = os.waitpid(pids[0], 0)[1]
    pids.clear()
    return os.waitstatus_to_exitcode(status)


def within(path, planned):
    """True where path, a folder of it, or something inside it is among the planned outputs."""
    path = os.path.abspath(path)
    return any(p == path or path.startswith(p + "/") or p.startswith(path + "/") for p in planned)


def main(argv):
    opts, command = parse(argv)
    outputs = [p.rstrip("/") or p for p in opts["out"]]
    inputs = [split_stage(text) for text in opts["in"]]
    stamp_path = opts["stamp"] or os.path.join(os.path.dirname(outputs[0]),
                                               ".done." + os.path.basename(outputs[0]))
    args = essential(command, NEUTRAL | {n.lstrip("-").replace("_", "-") for n in opts["neutral"]})
    title = outputs[0]

    planned = [os.path.abspath(p) for p in os.environ.get("SVQ_PLANNED", "").split("\n") if p]
    awaited = [p for _, p in inputs if within(p, planned)] if opts["dry-run"] else []
    for stage, path in inputs:
        if not os.path.exists(path) and path not in awaited:
            raise Stop(1, "once.py: %s is missing%s" % (
                path, "; stage %s makes it" % stage if stage else ""))

    if awaited:
        why = "%s is made again before" % awaited[0]
    else:
        read_at = time.time_ns()
        stamp = read_stamp(stamp_path)
        known = stamp["in"] if stamp else {}
        digests = digest_inputs(input_files([p for _, p in inputs], outputs), known)
        why = "forced" if opts["force"] else reason(stamp, args, digests, outputs)

    if why is None:
        say("  skip %s (up to date)" % title)
        if digests != known and not opts["dry-run"]:      # read again and found the same: say so
            write_stamp(stamp_path, args, digests, stamp["started"], stamp["ended"], read_at)
        return 0
    if opts["dry-run"]:
        say("  would make %s (%s): %s" % (title, why, " ".join(command)))
        return 10 if opts["tell"] else 0

    say("  make %s (%s)" % (title, why))
    started, began = time.strftime("%Y-%m-%dT%H:%M:%S"), time.monotonic()
    if os.path.exists(stamp_path):
        os.unlink(stamp_path)
    code = run(command)
    if code != 0:
        raise Stop(1, "once.py: %s failed (code %d)" % (" ".join(command[:2]), code))
    for path in outputs:
        if not os.path.exists(path):
            raise Stop(1, "once.py: %s ended well but did not make %s" % (command[0], path))
    after = {p: state_of(p) for p in digests if os.path.exists(p)}
    for path, (state, digest) in digests.items():
        if after.get(path) != state and (path not in after or content_digest(path) != digest):
            say("once.py: warning: %s changed while %s was running: it will be run again the next "
                "time. If the command itself writes it, name it with --out" % (path, command[0]), 2)
    write_stamp(stamp_path, args, digests, started, time.strftime("%Y-%m-%dT%H:%M:%S"), read_at)
    say("  made %s in %.0f s" % (title, time.monotonic() - began))
    return 10 if opts["tell"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stop as stop:
        if stop.args[1]:
            say(stop.args[1], 2)
        sys.exit(stop.args[0])
    except OSError as error:
        say("once.py: %s: %s" % (error.filename, error.strerror), 2)
        sys.exit(1)
