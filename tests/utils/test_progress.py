"""utils/progress.py: what run.sh shows of the work that goes on; utils/log_lines.py: what logs say."""

import os
import pty
import re
import signal
import subprocess
import time

import pytest

RUN = """#!/usr/bin/env bash
# A recipe in small.
set -euo pipefail
cd "$(dirname "$0")"
stage=0
stop_stage=11
dry_run=false
force=false
exp=exp
. utils/parse_options.sh
. utils/stages.sh
if stage 3 "networks"; then
  at_a_time 2
  for name in one two; do
    once --out "$exp/$name/model" -- run.py "$exp/$name/log/train.log" bash work.sh "$name"
  done
  all_done
fi
stages_done
"""
# Goes on until the file `end` is there.
WORK = """echo "step 3/10 epoch 0.30 loss 1.5$1 accuracy 0.1 lr 0.1 9.0 samples/s 7000 s left" >&2
until [[ -e end ]]; do sleep 0.05; done
touch "exp/$1/model"
"""


@pytest.fixture
def recipe(shell):
    shell.write("run.sh", RUN)
    shell.write("work.sh", WORK)
    (shell.folder / "utils").symlink_to(shell.root / "utils")
    return shell


def test_a_line_a_while_without_a_terminal(recipe, marked):
    run = recipe.start("bash", "run.sh", SVQ_PROGRESS="0.3")
    seen = ""
    while "1.5two" not in seen or "1.5one" not in seen:
        line = run.stdout.readline()
        seen = line if "at work" in line else ""
    one, two = (r"exp/%s/model: step 3/10, loss 1.5%s, 1 h 5\d min left \(exp/%s/log/train.log\)" % ((name,) * 3)
                for name in ("one", "two"))
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] at work: (%s; %s|%s; %s)\n" % (one, two, two, one), seen)
    recipe.write("end", "")
    out, err = run.communicate(timeout=60)
    assert "2 made, 0 up to date" in out and not err and not marked() and run.returncode == 0
    assert not (recipe.folder / "exp/.at_work").exists()


@pytest.mark.parametrize("every", ["0", "60"])
def test_a_short_run_says_what_it_always_said(recipe, every):
    recipe.write("end", "")
    out, err = recipe("bash", "run.sh", SVQ_PROGRESS=every)
    assert not err and [line.split()[0] for line in out.splitlines()[1:]] == ["make", "make", "made", "made", "done"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_dies_with_the_run(recipe, marked, number):
    run = recipe.start("bash", "run.sh", SVQ_PROGRESS="0.1")
    while "at work" not in run.stdout.readline():
        pass
    run.send_signal(number)
    run.communicate(timeout=60)
    recipe.until(lambda: not marked(), "all have ended")


def test_a_killed_watcher_harms_nothing(recipe, marked):
    run = recipe.start("bash", "run.sh", SVQ_PROGRESS="60")
    command = lambda pid: open("/proc/%d/cmdline" % pid).read()  # noqa: E731
    recipe.until(lambda: any("progress.py" in command(pid) for pid in marked()), "the watcher is there")
    [os.kill(pid, signal.SIGKILL) for pid in marked() if "progress.py" in command(pid)]
    recipe.write("end", "")
    out, err = run.communicate(timeout=60)
    assert "2 made, 0 up to date" in out and run.returncode == 0 and not err


def test_what_is_made_again_says_how_long_it_took(recipe):
    recipe.write("end", "")
    recipe("bash", "run.sh")
    stamp = recipe.folder / "exp/one/.done.model"
    stamp.write_text(re.sub("(started|ended)\t.*", "\\1\t2026-01-01T00:00:00", stamp.read_text()).replace(
        "ended\t2026-01-01T00", "ended\t2026-01-01T02"))
    for name in ("one", "two"):
        (recipe.folder / "exp" / name / "model").unlink()
    plan = recipe("bash", "run.sh", "--dry-run")[0].splitlines()
    assert plan[-2:] == ["dry run: 2 to make, 0 up to date; nothing was touched", "  what was made before took 2 h then"]
    assert "  make exp/one/model (exp/one/model is not there yet; it took 2 h before)" in recipe("bash", "run.sh")[0]


class Screen:
    """What a terminal of 24 lines shows of the sequences that progress.py writes."""

    def __init__(self, rows=24):
        self.lines, self.row, self.column, self.bottom, self.saved = [""] * rows, 0, 0, rows, (0, 0)

    def feed(self, text):
        for part in re.findall(r"\033\[[\d;]*[A-Za-z]|\033[78]|[^\033]", text):
            if part == "\n":
                if self.row == self.bottom - 1:
                    self.lines[:self.bottom] = self.lines[1:self.bottom] + [""]
                elif self.row < len(self.lines) - 1:
                    self.row += 1
            elif part == "\r":
                self.column = 0
            elif part == "\0337":
                self.saved = self.row, self.column
            elif part == "\0338":
                self.row, self.column = self.saved
            elif part.startswith("\033"):
                self._sequence(part[-1], [int(number) for number in part[2:-1].split(";") if number])
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[:self.column] + part + line[self.column + 1:]
                self.column += 1
                assert self.column < 100, "a line is too long: it would wrap"

    def _sequence(self, letter, numbers):
        if letter == "r":
            self.bottom = numbers[1] if numbers else len(self.lines)
            self.row = self.column = 0
        elif letter == "H":
            self.row, self.column = numbers[0] - 1, numbers[1] - 1
        elif letter == "A":
            self.row = max(0, self.row - numbers[0])
        else:
            assert letter == "K" and numbers == [2]
            self.lines[self.row] = ""


def on_terminal(recipe, until, **env):
    """Runs run.sh on a terminal of 24 x 100; (its process, screen, function that reads on until a condition holds)."""
    master, slave = pty.openpty()
    import fcntl
    import struct
    import termios
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    run = subprocess.Popen(["bash", "run.sh"], cwd=recipe.folder, env=dict(recipe.env, TERM="xterm", **env), stdout=slave,
                           stderr=slave, stdin=subprocess.DEVNULL)
    os.close(slave)
    screen = Screen()

    def read(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, screen.lines
            try:
                screen.feed(os.read(master, 65536).decode())
            except OSError:                       # all have closed it
                break
    read(until(screen))
    return run, screen, read


@pytest.mark.parametrize("end", ["well", "killed"])
def test_lines_at_the_bottom_of_a_terminal(recipe, marked, end):
    run, screen, read = on_terminal(recipe, lambda screen: lambda: "1.5two" in "".join(screen.lines) and "1.5one" in "".join(screen.lines))
    assert "exp/one/model: step 3/10, loss 1.5one, 1 h 5" in screen.lines[22] + screen.lines[23]
    assert screen.bottom == 22 and screen.row < 22 and screen.lines[1].startswith("  make exp/")
    if end == "well":
        recipe.write("end", "")
    else:
        run.kill()
    read(lambda: False)
    run.wait(timeout=60)
    assert screen.bottom == 24 and screen.lines[22:] == ["", ""], "the terminal is as it was"
    assert end == "killed" or [line for line in screen.lines if line][-1].startswith("done in ")
    recipe.until(lambda: not marked(), "all have ended")


@pytest.fixture
def log_lines(shell, monkeypatch):
    monkeypatch.syspath_prepend(str(shell.root / "utils"))
    import log_lines
    return log_lines


@pytest.mark.parametrize("text, progress, left, code", [
    ("", "", None, None),
    ("step 47/310 epoch 1.52 loss 4.1969 accuracy 0.0625 lr 0.00151 148.4 samples/s 57 s left\n", "step 47/310, loss 4.1969", 57, None),
    ("extract: 313/440 (71 %) in 4.6 s, 68.7/s, 2 s left\n", "extract 313/440", 2, None),
    ("extract: 440/440 (100 %) in 4.6 s, 68.7/s\n# Time: 5.0 s\n# Ended (code 0) at 2026-11-28 10:42:32\n", "extract 440/440", 0, 0),
    ("noise:  40%|####      | 4/10 [00:04<01:06, 1.0s/it]\rnoise:  50%|#####     | 5/10 [00:05<00:05, 1.0s/it]", "noise 5/10", 5, None),
    ("a line\nTraceback: no\n# Ended (code 1) at now\n", "Traceback: no", None, 1),
    ("\xff\x00 step 3/ of \x1b[2J\n", "\ufffd  step 3/ of  [2J", None, None),
])
def test_what_a_log_says(log_lines, tmp_path, text, progress, left, code):
    path = tmp_path / "x.log"
    path.write_bytes(("# cmd\n# Host: there\n# Started: then\n#\n" + text).encode("latin-1"))
    found = log_lines.read(str(path), head=True)
    assert (found.progress(), found.code, found.host, found.started) == (progress, code, "there", "then")
    assert found.left is None if left is None else found.left <= left <= found.left + 5
    assert log_lines.read(str(tmp_path / "none")) is None


def test_only_the_end_of_a_long_log_is_read(log_lines, tmp_path):
    (tmp_path / "x.log").write_text("x" * 10**6 + "\nextract: 1/2 (50 %) in 1.0 s, 1.0/s, 1 s left")
    assert log_lines.read(str(tmp_path / "x.log")).progress() == "extract 1/2"


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (6000, "1 h 40 min"),
                                           (7200, "2 h"), (200000, "2 days 7 h")])
def test_durations(log_lines, seconds, text):
    assert log_lines.duration(seconds) == text


@pytest.mark.parametrize("count, text", [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (123456, "123 kB"),
                                         (2_500_000_000, "2.5 GB"), (7 * 10**13, "70 TB")])
def test_sizes(log_lines, count, text):
    assert log_lines.size(count) == text
