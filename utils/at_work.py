"""Marks the work that a run of run.sh has begun, by small files in the folder .at_work of the experiment.

once.py writes a mark for each command that it starts and removes it when the work is done, so a mark that stays tells
of work that failed or was cut off. run.py and slurm.py add where the logs are, slurm.py also the jobs. progress.py shows
the marks while the run goes on, status.py afterwards. If a mark cannot be written, the work goes on without it.

A mark is lines of fields between tabs, appended one at a time:

  svq work 1
  started TIME | host NAME | pid PID TICKS RUN | command WORDS | before SECONDS  of the work; RUN: pid of run.sh;
                                                                                before: seconds that it took last
  piece TITLE STAMP                                                             for each part of it
  log NS NAME VARIABLE FIRST LAST                                               JOB=FIRST:LAST NAME; for each call
  job ID                                                                        of Slurm
  failed TIME WHY
"""

import os
import time

from stamps import blake2b, escape, unescape

FOLDER, HEADER = ".at_work", "svq work 1"
MOST = 10_000        # jobs of a call that are looked at


def path_of(owner, stamp):
    """Gives the path of the mark of the work whose first piece has this stamp; "" without an experiment."""
    name = blake2b(os.fsencode(os.path.abspath(stamp)), digest_size=8).hexdigest()
    return os.path.join(owner, FOLDER, name) if owner else ""


def _line(*fields):
    return "\t".join(escape(str(field)) for field in fields) + "\n"


def _append(path, text, how="a"):
    try:
        with open(path, how, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            file.write(text)
    except OSError:
        pass


def begin(path, command, pieces, before):
    """Marks that work begins. pieces: (title, stamp) each; before: seconds that it took the last time, or None."""
    if not path:
        return
    text = HEADER + "\n" + _line("started", time.strftime("%Y-%m-%dT%H:%M:%S")) + _line("host", os.uname().nodename)
    text += _line("pid", os.getpid(), _ticks(os.getpid()), os.environ.get("SVQ_RUN", 0)) + _line("command", command)
    text += "" if before is None else _line("before", "%.0f" % before)
    text += "".join(_line("piece", title, os.path.abspath(stamp)) for title, stamp in pieces)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError:
        return
    _append(path, text, "w")


def fail(path, why):
    if path:
        _append(path, _line("failed", time.strftime("%Y-%m-%dT%H:%M:%S"), why))


def end(path):
    """Removes the mark, because the work is done."""
    if path:
        for remove, what in ((os.unlink, path), (os.rmdir, os.path.dirname(path))):
            try:
                remove(what)
            except OSError:          # others are at work
                return


def note_logs(request):
    """Notes where the logs of a dispatcher's call (dispatch.Request) are, in the mark of the work that it belongs to."""
    first, last = request.jobs[0], request.jobs[-1]
    _note("log", time.time_ns(), os.path.abspath(request.log), request.variable or "", first or 0, last or 0)


def note_job(job_id):
    _note("job", job_id)


def _note(*fields):
    path = os.environ.get("SVQ_AT_WORK", "")
    if path and os.path.exists(path):
        _append(path, _line(*fields))


class Mark:
    """The contents of a mark. started, host, command; before: seconds or None; pieces: [(title, stamp)]; calls: Call
    each; jobs: ids; failed: (when, why) or None."""

    def __init__(self, path):
        self.path, self.started, self.host, self.command, self.before = path, "", "", "", None
        self.pid, self.ticks, self.run, self.pieces, self.calls, self.jobs, self.failed = 0, "", 0, [], [], [], None

    def _take(self, kind, fields):
        if kind in ("started", "host", "command"):
            setattr(self, kind, fields[0])
        elif kind == "pid":
            self.pid, self.ticks, self.run = int(fields[0]), fields[1], int(fields[2])
        elif kind == "before":
            self.before = float(fields[0])
        elif kind == "piece":
            self.pieces.append((fields[0], fields[1]))
        elif kind == "log":
            self.calls.append(Call(int(fields[0]), fields[1], fields[2], int(fields[3]), int(fields[4])))
        elif kind == "job":
            self.jobs.append(fields[0])
        elif kind == "failed":
            self.failed = (fields[0], fields[1])

    def lives(self):
        """Says whether the process of the work is there; None for one on another machine."""
        if self.host != os.uname().nodename:
            return None
        return bool(self.ticks) and _ticks(self.pid) == self.ticks


class Call:
    """A call of a dispatcher: its time in ns, and the names of the logs of its jobs."""

    def __init__(self, at, name, variable, first, last):
        self.at, self.name, self.variable, self.first, self.last = at, name, variable, first, last

    def logs(self):
        if not self.variable:
            return [self.name]
        last = min(self.last, self.first + MOST)
        return [self.name.replace(self.variable, str(job)) for job in range(self.first, last + 1)]


def read(path):
    """Reads a mark, None where there is none. Passes over lines that are cut or unknown."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            lines = file.read().split("\n")
    except OSError:
        return None
    if lines[0] != HEADER:
        return None
    mark = Mark(path)
    for line in lines[1:-1]:
        kind, *fields = map(unescape, line.split("\t"))
        try:
            mark._take(kind, fields)
        except (ValueError, IndexError):
            continue
    return mark if mark.started and mark.pieces else None


def read_all(owner):
    """Reads all marks of an experiment, oldest first."""
    try:
        names = sorted(os.listdir(os.path.join(owner, FOLDER)))
    except OSError:
        return []
    found = [read(os.path.join(owner, FOLDER, name)) for name in names]
    return sorted((mark for mark in found if mark), key=lambda mark: (mark.started, mark.pieces[0]))


def where(path):
    """Tells where work was done, for its stamp: host, log of the last dispatcher's call, jobs of Slurm."""
    mark = read(path) if path else None
    if mark is None:
        return {"host": os.uname().nodename}
    return {"host": mark.host, "job": " ".join(mark.jobs), "log": mark.calls[-1].logs()[0] if mark.calls else ""}


def _ticks(pid):
    """Gives the start of a process in the kernel's ticks, which tells it from a later one with its id; "" if it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == b"Z" else fields[19].decode()
