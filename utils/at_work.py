"""Marks of the work that a run of run.sh has begun: small files in the folder .at_work of the experiment.

once.py leaves one for each command that it starts and removes it when the work is done, so one that stays tells of work
that failed or was cut off. run.py and slurm.py add where the logs are, slurm.py the jobs. progress.py shows them while
the run goes on, status.py afterwards. A mark that cannot be written is no reason to stop the work.

A mark is lines of fields between tabs, appended one at a time:

  svq work 1
  started TIME | host NAME | pid PID TICKS RUN | command WORDS | before SECONDS  of the work; RUN: pid of run.sh;
                                                                                before: what it took last
  piece TITLE STAMP                                                             for each part of it
  log NS NAME VARIABLE FIRST LAST                                               JOB=FIRST:LAST NAME; for each call
  job ID                                                                        of Slurm
  failed TIME WHY
"""

import os
import time

from stamps import blake2b, escape, unescape

FOLDER, HEADER = ".at_work", "svq work 1"
MOST = 10_000        # bytes that are read of a mark's end, and jobs that are looked at


def path_of(owner, stamp):
    """The mark of the work whose first piece has this stamp; empty without an experiment that it is for."""
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
    """Say that work begins. pieces: (title, stamp) each; before: seconds that it took the last time, or None."""
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
    """The work is done: nothing is to be told of it any more."""
    if path:
        for remove, what in ((os.unlink, path), (os.rmdir, os.path.dirname(path))):
            try:
                remove(what)
            except OSError:          # others are at work
                return


def note_logs(request):
    """Where the logs of a dispatcher's call are, for the work that it belongs to (dispatch.Request)."""
    first, last = request.jobs[0], request.jobs[-1]
    _note("log", time.time_ns(), os.path.abspath(request.log), request.variable or "", first or 0, last or 0)


def note_job(job_id):
    _note("job", job_id)


def _note(*fields):
    path = os.environ.get("SVQ_AT_WORK", "")
    if path and os.path.exists(path):
        _append(path, _line(*fields))


class Mark:
    """What a mark says. started, host, command; before: seconds or None; pieces: [(title, stamp)]; calls: Call each;
    jobs: ids; failed: (when, why) or None."""

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
        """Whether its process is there; None for one of another machine."""
        if self.host != os.uname().nodename:
            return None
        return bool(self.ticks) and _ticks(self.pid) == self.ticks


class Call:
    """A dispatcher's call: when in ns, and the names of its jobs' logs."""

    def __init__(self, at, name, variable, first, last):
        self.at, self.name, self.variable, self.first, self.last = at, name, variable, first, last

    def logs(self):
        if not self.variable:
            return [self.name]
        last = min(self.last, self.first + MOST)
        return [self.name.replace(self.variable, str(job)) for job in range(self.first, last + 1)]


def read(path):
    """The mark, or None where there is none. Lines that are cut or not understood are passed over."""
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
    """All marks of an experiment, oldest first."""
    try:
        names = sorted(os.listdir(os.path.join(owner, FOLDER)))
    except OSError:
        return []
    found = [read(os.path.join(owner, FOLDER, name)) for name in names]
    return sorted((mark for mark in found if mark), key=lambda mark: (mark.started, mark.pieces[0]))


def where(path):
    """What a stamp says of where the work was done: host, log of the last dispatcher's call, jobs of Slurm."""
    mark = read(path) if path else None
    if mark is None:
        return {"host": os.uname().nodename}
    return {"host": mark.host, "job": " ".join(mark.jobs), "log": mark.calls[-1].logs()[0] if mark.calls else ""}


def _ticks(pid):
    """When a process began, in the kernel's ticks: what tells it from a later one of that number. Empty: not there."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == b"Z" else fields[19].decode()
