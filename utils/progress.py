"""Shows the work of a run of run.sh while it runs; utils/stages.sh starts this.

  progress.py EXP PID

Shows every piece of work that the run with process id PID has begun: how far it has come, its loss, the time left and
its log. A terminal gets lines at the bottom, refreshed every second, while all other output goes on above them; without
a terminal there is one line a minute. It reads marks (at_work.py) and the ends of logs, so it does not slow the work. It
dies with its parent.

The scrolling region of the terminal keeps the lines at the bottom free; it is set back at the end. SVQ_PROGRESS is the
number of seconds between two lines without a terminal (default 60); 0 turns both forms off.
"""

import os
import signal
import sys
import time

HERE = os.path.dirname(os.path.realpath(__file__))
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import guard

MOST = 8             # lines on a terminal
JOBS = 64            # logs of one call that are read


def _plain(name):
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else "?" for c in name)


def _short(path):
    here = os.getcwd().rstrip("/") + "/"
    return path[len(here):] if path.startswith(here) else path


class State:
    """The progress of a piece of work. text: in words; left: seconds, or None; log: path or empty."""

    def __init__(self, mark, now):
        import log_lines
        import stamps

        self.name = mark.pieces[0][0] + (" and %d more" % (len(mark.pieces) - 1) if mark.pieces[1:] else "")
        self.text, self.left, self.log = "", None, ""
        self.ran = now - (stamps.moment(mark.started) or now)
        call = mark.calls[-1] if mark.calls else None
        logs = [found for path in (call.logs()[:JOBS] if call else ())
                if (found := log_lines.read(path)) and found.changed >= call.at - 10**9]
        if call and not logs:
            self.text = "waits for job %s of Slurm" % mark.jobs[-1] if mark.jobs else ""
        if logs:
            self._of(logs, call)
        elif call:
            self.log = _short(call.logs()[0])
        if self.left is None and mark.before:
            self.left = max(0.0, mark.before - self.ran)

    def _of(self, logs, call):
        """Takes from jobs side by side what the slowest says, once none runs what one that failed says, and how many have
        ended."""
        open_ones = [log for log in logs if log.code is None] or [log for log in logs if log.code] or logs
        behind = max(open_ones, key=lambda log: (log.left is not None, log.left or 0.0))
        self.text, self.log = behind.progress(), _short(behind.path)
        known = [log.left for log in open_ones if log.left is not None]
        self.left = max(known) if known and behind.done < behind.total else None
        jobs = call.last - call.first + 1
        if jobs > 1:
            ended = "%d of %d jobs ended" % (sum(log.code is not None for log in logs), jobs)
            self.text += " (%s)" % ended if self.text else ended

    def line(self, width=0):
        """Writes one line; with a width, in at most that many columns, leaving out the name of the log first."""
        from log_lines import duration

        text = _plain(self.name) + (": " + self.text if self.text else "")
        text += ", %s left" % duration(self.left) if self.left else ", for " + duration(self.ran)
        if not width:
            return text + (" (%s)" % _plain(self.log) if self.log else "")
        if self.log and len(text) + len(self.log) + 3 <= width:
            return "%s (%s)" % (text, _plain(self.log))
        return text if len(text) <= width else text[:max(0, width - 3)] + "..."


class Terminal:
    """The lines at the bottom of a terminal. `draw` writes once, so that no other output falls between."""

    def __init__(self):
        self.kept = 0

    def draw(self, lines):
        columns, rows = os.get_terminal_size(1)
        lines = [line(columns - 1) for line in lines[:min(MOST, max(0, rows // 3))]]
        more = max(0, len(lines) - self.kept)
        text = "\n" * more + "\0337"           # the lines there scroll up
        for row in range(rows - max(self.kept, len(lines)) + 1, rows + 1):
            text += "\033[%d;1H\033[2K" % row
        text += "\033[1;%dr" % (rows - len(lines)) if lines else "\033[r"
        for number, line in enumerate(lines):
            text += "\033[%d;1H%s" % (rows - len(lines) + 1 + number, line)
        text += "\0338" + ("\033[%dA" % more if more else "")
        if lines or self.kept:
            os.write(1, os.fsencode(text))
        self.kept = len(lines)

    def end(self):
        self.draw([])


def states(owner, run):
    """Gives the State of each piece of work that the run has begun and that goes on."""
    import at_work

    now = time.time()
    return [State(mark, now) for mark in at_work.read_all(owner)
            if not mark.failed and mark.run == run and mark.lives()]


def main(owner, run):
    def stop(number, frame):
        try:
            terminal.end()
        finally:
            os._exit(0)

    terminal = Terminal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)         # this process ends with the run
    signal.signal(signal.SIGTERM, stop)
    guard.die_with_parent(run)
    pause = float(os.environ.get("SVQ_PROGRESS") or 60)
    if pause <= 0:
        return
    if os.isatty(1) and os.environ.get("TERM", "dumb") != "dumb":
        while True:
            time.sleep(1)
            found = states(owner, run)
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
            terminal.draw([state.line for state in found])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    while True:
        time.sleep(pause)
        lines = [state.line() for state in states(owner, run)]
        if lines:
            os.write(1, os.fsencode("%s at work: %s\n" % (time.strftime("[%H:%M:%S]"), "; ".join(lines))))


if __name__ == "__main__":
    try:
        main(os.path.abspath(sys.argv[1]), int(sys.argv[2]))
    except (OSError, ValueError):
        pass
