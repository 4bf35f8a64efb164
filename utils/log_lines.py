"""Reads the log of a job: how far the job has come, its last line, how it ended.

Understands the lines of trainings (`step 40/310 epoch 1.52 loss 4.1969 ... 57 s left`), of all other loops
(`extract: 313/440 (71 %) in 4.6 s, 68.7/s, 2 s left`, svq/progress.py), of tqdm, and those that run.py writes at both ends.
"""

import os
import re
import time

TAIL = 8192          # bytes of a log's end that are read
HEAD = 4096

_STEP = re.compile(r"step (\d+)/(\d+) .*?\bloss (\S+).*? (\d+) s left")
_LOOP = re.compile(r"(.*): (\d+)/(\d+) \(\d+ %\) in [\d.]+ s, [\d.]+/s(?:, (\d+) s left)?")
_TQDM = re.compile(r"(?:(.*?): +)?\s*\d+%\|.*?\| *(\d+)/(\d+) \[[\d:]+<([\d:]+)")
_ENDED = re.compile(r"# Ended \(code (\d+)\) at (.*)")


class Log:
    """A log. text: the last line that the command wrote; what, done, total: name and count of its loop, total 0 where none
    is known; loss: text or empty; left: seconds from now on, or None; code: exit status or None; changed: ns."""

    def __init__(self, path):
        self.path, self.text, self.what, self.loss = path, "", "", ""
        self.done = self.total = 0
        self.left = self.code = None
        self.ended = self.started = self.host = ""
        self.changed = self.size = 0

    def progress(self):
        """Says how far the job has come: `step 47/310, loss 4.1969`, `extract 313/440`, or the last line."""
        if not self.total:
            return self.text if len(self.text) <= 80 else self.text[:77] + "..."
        text = "%s %d/%d" % (self.what, self.done, self.total) if self.what else "%d/%d" % (self.done, self.total)
        return text + (", loss " + self.loss if self.loss else "")


def read(path, head=False):
    """Reads a log; None where it cannot be read. head: also when it began and on which host."""
    log = Log(path)
    try:
        with open(path, "rb") as file:
            state = os.fstat(file.fileno())
            log.changed, log.size = state.st_mtime_ns, state.st_size
            if head:
                _take_head(log, file.read(HEAD).decode("utf-8", "replace"))
            file.seek(max(0, log.size - TAIL))
            text = file.read(TAIL).decode("utf-8", "replace")
    except OSError:
        return None
    for line in reversed(re.split(r"[\r\n]+", text)):
        line = line.strip()
        if line.startswith("#"):
            match = _ENDED.match(line)
            if match and log.code is None:
                log.code, log.ended = int(match[1]), match[2]
        elif line:
            _take(log, line)
            break
    return log


def _take_head(log, text):
    for line in text.split("\n"):
        if not line.startswith("#"):
            return
        if line.startswith("# Host: "):
            log.host = line[len("# Host: "):]
        elif line.startswith("# Started: "):
            log.started = line[len("# Started: "):]


def _take(log, line):
    log.text = "".join(c if c.isprintable() else " " for c in line)
    left = None
    if match := _STEP.match(line):
        log.what, log.done, log.total, log.loss = "step", int(match[1]), int(match[2]), match[3]
        left = int(match[4])
    elif match := _LOOP.match(line):
        log.what, log.done, log.total = match[1], int(match[2]), int(match[3])
        left = int(match[4]) if match[4] else 0 if log.done == log.total else None
    elif match := _TQDM.match(line):
        log.what, log.done, log.total = match[1] or "", int(match[2]), int(match[3])
        left = 0
        for part in match[4].split(":"):
            left = 60 * left + int(part)
    if left is not None:
        log.left = max(0.0, left - (time.time_ns() - log.changed) / 1e9)


def duration(seconds):
    """Writes seconds as `40 s`, `12 min`, `3 h 20 min` or `2 days 5 h`."""
    seconds = int(seconds)
    if seconds < 100:
        return "%d s" % seconds
    minutes = (seconds + 30) // 60
    if minutes < 100:
        return "%d min" % minutes
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return "%d h %d min" % (hours, minutes) if minutes else "%d h" % hours
    return "%d days %d h" % divmod(hours, 24)


def size(count):
    """Writes bytes as text: `1.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            break
        count /= 1000
    else:
        unit = "TB"
    return "%d %s" % (count, unit) if unit == "bytes" else "%.3g %s" % (count, unit) if count < 100 else "%.0f %s" % (count, unit)
