"""Prints how every piece of work of a recipe stands, for utils/status.sh. Only reads, and starts in milliseconds.

  status.py [--all true] FOLDER ...

Reads the stamps below the folders (stamps.py), the marks of work that was begun (at_work.py), the logs and the lock.
"""

import os
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import at_work
import cleaned
import log_lines
from stamps import NO_FILE, content_digest, damaged_output, moment, read_stamp, state_of

ORDER = ("running", "failed", "interrupted", "stale", "done")
READ_AGAIN = 32_000_000      # bytes to read, at most, of inputs with new times, to see whether they have changed
NO_STAMP = "the stamp is not whole: it will be made again"


class Found:
    """The files below a folder. stamps: paths; logs: paths; disk: bytes for each folder right below, "" for its files."""

    def __init__(self, top):
        self.top, self.stamps, self.logs, self.disk, self.closed = top, [], [], {}, []
        self._look(top, "")

    def _look(self, folder, name):
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.closed.append("%s: %s" % (folder, error.strerror))
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                self._look(entry.path, name or entry.name)
                continue
            try:
                self.disk[name] = self.disk.get(name, 0) + entry.stat(follow_symlinks=False).st_blocks * 512
            except OSError:                 # gone in the meantime
                continue
            if entry.name.startswith(".done") and ".tmp" not in entry.name:
                self.stamps.append(entry.path)
            elif entry.name.endswith(".log"):
                self.logs.append(entry.path)


class Work:
    """A piece of work. state: one of ORDER; since: text; where: host or job; note: why, or how far; log: path; disk: bytes."""

    def __init__(self, title, state, since="", where="", note="", log="", disk=0):
        self.title, self.state, self.since, self.where = title, state, since, where
        self.note, self.log, self.disk = note, log, disk


def base_of(stamp_path, stamp):
    """Finds the folder that relative names in a stamp start from; the stamp lies beside the first output, or in it."""
    folder = os.path.dirname(os.path.abspath(stamp_path))
    first = os.path.normpath(next(iter(stamp["out"]), ""))
    if os.path.isabs(first):
        return "/"
    place = folder
    while True:                             # find the nearest folder above where the output is there
        if os.path.lexists(os.path.join(place, first)):
            return place
        if place == "/":
            break
        place = os.path.dirname(place)
    beside = os.path.dirname(first)
    return folder[:-len(beside)].rstrip("/") or "/" if beside and folder.endswith("/" + beside) else os.getcwd()


class Inputs:
    """Checks whether inputs have changed; looks at each file once."""

    def __init__(self):
        self.states, self.digests, self.budget = {}, {}, READ_AGAIN

    def changed(self, base, stamp):
        """Finds an input that has changed, and one that was too large to read; each a path, or None."""
        unread = None
        for name, (state, digest) in stamp["in"].items():
            if state == NO_FILE:            # lists of recordings, rows of settings: run.sh looks into them
                continue
            path = os.path.join(base, name)
            now = self._state(path)
            if now is None:
                return name + " is gone", None
            if now[0] == state or now[1] is not None and now[1] == digest:
                continue
            if state[3] == -1 and now[0][:3] == state[:3]:     # written just before the stamp: run.sh reads it once more
                continue
            if now[0][0] != state[0]:
                return name + " changed", None
            found = self._digest(path, now[0][0]) if now[1] is None else now[1]
            if found is None:
                unread = unread or name
            elif found != digest:
                return name + " changed", None
        return None, unread

    def _state(self, path):
        if path not in self.states:
            try:
                self.states[path] = (state_of(path), None)
            except OSError:
                entry = cleaned.find(path)
                self.states[path] = entry and entry[:2]
        return self.states[path]

    def _digest(self, path, size):
        if path not in self.digests:
            self.digests[path] = None
            if size <= self.budget:
                self.budget -= size
                try:
                    self.digests[path] = content_digest(path)
                except OSError:
                    pass
        return self.digests[path]


def of_stamp(path, top, inputs):
    """Gives the Work that a stamp tells of; None for a file that is no stamp of once.py."""
    stamp = read_stamp(path)
    if stamp is None:
        name = os.path.basename(path)[len(".done"):].lstrip(".") or os.path.basename(os.path.dirname(path))
        return Work(os.path.join(os.path.dirname(path), name), "interrupted", note=NO_STAMP)
    if not stamp["out"]:
        return None
    base = base_of(path, stamp)
    join = lambda name: os.path.join(base, name)  # noqa: E731
    work = Work(next(iter(stamp["out"])), "done", stamp["ended"].replace("T", " "), stamp["host"], log=stamp["log"],
                disk=sum(max(0, size) for name, size in stamp["out"].items() if os.path.exists(join(name))))
    inside = os.path.relpath(join(work.title), os.path.abspath(top))
    work.title = join(work.title) if inside.startswith("..") else os.path.join(top, inside)
    if stamp["job"]:
        work.where = "job " + stamp["job"]
    absolute = {"out": {join(name): size for name, size in stamp["out"].items()}}
    damage = damaged_output(absolute, (), cleaned.find)
    changed, unread = inputs.changed(base, stamp)
    if damage or changed:
        work.state, work.note = "stale", damage.replace(base + "/", "") if damage else changed
    elif any(not os.path.exists(name) and cleaned.find(name) for name in absolute["out"]):
        work.note = "cleaned"
    elif unread:
        work.note = "%s has other times; it is too large to be read here" % unread
    work.began, work.stamp = moment(stamp["started"]), os.path.abspath(path)
    return work


def of_mark(mark, held, stamps):
    """Yields the Work of the pieces of a mark that have no newer stamp. held: whether a run has the lock; None: unknown."""
    from progress import State

    state = State(mark, time.time())
    begun = moment(mark.started)
    alive = mark.lives()
    running = not mark.failed and held is not False and (alive if alive is not None else held)
    where = "job " + " ".join(mark.jobs) if mark.jobs else mark.host
    for title, stamp in mark.pieces:
        done = stamps.get(stamp)
        if done and done.began is not None and begun is not None and done.began >= begun:
            continue
        if mark.failed:
            yield Work(title, "failed", mark.failed[0].replace("T", " "), where, mark.failed[1], state.log), stamp
        elif running:
            left = ", %s left" % log_lines.duration(state.left) if state.left else ""
            yield Work(title, "running", mark.started.replace("T", " "), where, (state.text + left).lstrip(", "), state.log), stamp
        elif os.path.isdir(os.path.dirname(stamp)):        # else its folder was removed, and nobody needs it
            yield Work(title, "interrupted", mark.started.replace("T", " "), where, "begun and not ended", state.log), stamp


def of_log(path, later):
    """Gives the Work of a log that no mark and no stamp knows: of a step that was called by hand. None where it ended well,
    or where the work was done later with fewer jobs. later: folder -> time when the last work below it was done."""
    log = log_lines.read(path, head=True)
    if log is None or not log.host or log.code == 0:
        return None
    over = later.get(os.path.dirname(os.path.dirname(os.path.abspath(path))), 0) > log.changed / 1e9
    if over and (log.code is None or path.split(".")[-2].isdigit()):
        return None
    title = path
    if log.code is not None:
        return Work(title, "failed", log.ended, log.host, "code %d" % log.code, path)
    here = log.host == os.uname().nodename
    if here and os.path.realpath(path) in open_logs():
        return Work(title, "running", log.started, log.host, log.progress(), path)
    if not here and time.time_ns() - log.changed < 120 * 10**9:
        return Work(title, "running", log.started, log.host, log.progress(), path)
    return Work(title, "interrupted", log.started, log.host, "begun and not ended", path)


def open_logs():
    """Finds the real paths of the logs that processes of this machine write to."""
    if not hasattr(open_logs, "found"):
        open_logs.found = set()
        for pid in os.listdir("/proc") if os.path.isdir("/proc") else ():
            for number in ("1", "2"):
                try:
                    target = os.readlink("/proc/%s/fd/%s" % (pid, number)) if pid.isdigit() else ""
                except OSError:
                    continue
                if target.endswith(".log"):
                    open_logs.found.add(target)
    return open_logs.found


def lock_held(top):
    """Says whether a run has the folder, and what that run says of itself; (None, "") where that cannot be seen."""
    import fcntl

    path = os.path.join(top, ".lock")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            holder = file.read(1000).strip()
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)       # released at once, when the file closes
            except BlockingIOError:
                return True, holder
            return False, holder
    except FileNotFoundError:
        return False, ""
    except OSError:
        return None, ""


def survey(top):
    """Surveys a folder: works, bytes of each folder, folders that cannot be read, whether a run has the lock, and which."""
    found, inputs = Found(top), Inputs()
    held, holder = lock_held(top)
    works = [work for path in found.stamps if (work := of_stamp(path, top, inputs))]
    stamps = {work.stamp: work for work in works if hasattr(work, "stamp")}
    told = set()
    for mark in at_work.read_all(os.path.abspath(top)):
        for work, stamp in of_mark(mark, held, stamps):
            works = [each for each in works if getattr(each, "stamp", "") != stamp]
            works.append(work)
        told.update(os.path.realpath(path) for call in mark.calls for path in call.logs())
    told.update(os.path.realpath(work.log) for work in works if work.log and work.state != "done")
    later = {}
    for path, work in stamps.items():
        while len(path) > 1:
            path = os.path.dirname(path)
            later[path] = max(later.get(path, 0), moment(work.since) or 0)
    for path in found.logs:
        if os.path.realpath(path) not in told:
            work = of_log(path, later)
            if work:
                works.append(work)
    return works, found.disk, found.closed, held, holder


# --- printing ---

def lines_of(work, above=""):
    """Writes the lines of a piece; below one that is not done stands the last line of its log, unless the piece above has
    the same log."""
    size = log_lines.size(work.disk) if work.disk else ""
    head = "%-11s  %-19s  %s" % (work.state, work.since, work.title)
    more = [part for part in (work.where, size, work.note) if part]
    lines = [head + ("  (%s)" % ", ".join(more) if more else "")]
    if work.state != "done" and work.log and work.log != above:
        log = log_lines.read(work.log)
        text = log.text[:160] or "nothing yet" if log else "cannot be read"
        lines.append("%-11s  %s: %s" % ("", work.log, text))
    return lines


def done_lines(top, works):
    """Yields a line for each folder right below, with the work there that is done."""
    groups = {}
    for work in works:
        inside = os.path.relpath(os.path.abspath(work.title), os.path.abspath(top))
        name = inside.split(os.sep)[0] if os.sep in inside and not inside.startswith("..") else ""
        groups.setdefault(name, []).append(work)
    for name, group in sorted(groups.items()):
        away = sum(work.note == "cleaned" for work in group)
        yield "%-11s  %-19s  %s  (%d piece%s%s)" % ("done", max(work.since for work in group), os.path.join(top, name) if name else top,
                                             len(group), "s" if group[1:] else "", ", %d cleaned" % away if away else "")


def show(top, everything):
    if not os.path.isdir(top):
        print("status.sh: %s: no such folder; give the folder of an experiment (--help says more)" % top, file=sys.stderr)
        return 1
    works, disk, closed, held, holder = survey(top)
    for text in closed:
        print("status.sh: " + text, file=sys.stderr)
    counts = ["%d %s" % (count, state) for state in ORDER if (count := sum(work.state == state for work in works))]
    run = "; a run is on (%s)" % holder if held else ""
    print("%s: %s; %s on disk%s" % (top, ", ".join(counts) or "nothing was made here yet", log_lines.size(sum(disk.values())), run))
    for state in ORDER:
        group = sorted((work for work in works if work.state == state), key=lambda work: (work.since, work.title))
        if state == "done" and not everything:
            lines = done_lines(top, group)
        else:
            logs = [""] + [work.log for work in group]
            lines = (line for work, above in zip(group, logs) for line in lines_of(work, above))
        for line in lines:
            print("  " + line)
    largest = sorted(((count, name) for name, count in disk.items() if name and name[0] != "."), reverse=True)[:10 ** 6 if everything else 5]
    if largest:
        print("  disk: " + ", ".join("%s %s" % (name, log_lines.size(count)) for count, name in largest))
    return 1 if closed else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="surrogateescape")
    sys.stderr.reconfigure(errors="surrogateescape")
    words = sys.argv[1:]
    everything = words[:2] == ["--all", "true"]
    try:
        sys.exit(max([show(folder.rstrip("/") or folder, everything) for folder in words[2:]]))
    except BrokenPipeError:
        os._exit(0)
