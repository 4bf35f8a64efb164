"""The curves of a training as CSV, and the bar or plain lines that it shows while it runs."""

from __future__ import annotations

import csv
import sys
import time

from svq.atomic import atomic_write

COLUMNS = ("step", "epoch", "lr", "margin", "loss", "accuracy")


class Curves:
    """Training curves: rows of means over a few steps each.

    The file is rewritten as a whole, so that a resumed run leaves the same rows as an undisturbed one, and none twice.
    Speed is therefore not in it, but in the log.
    """

    def __init__(self, path, every: int, rows: list | None = None, sums: list | None = None):
        self.path, self.every = path, every
        self.rows = rows or []
        self.sums = sums or [0.0, 0.0, 0]  # loss, correct answers, samples since the last row

    def add(self, step: int, epoch: float, lr: float, margin: float, loss: float, correct: int, samples: int):
        """Counts one step (numbered from 1); `loss` is the batch's mean, `correct` and `samples` are counts."""
        self.sums[0] += loss * samples
        self.sums[1] += correct
        self.sums[2] += samples
        if step % self.every:
            return
        means = self.sums[0] / self.sums[2], self.sums[1] / self.sums[2]
        self.rows.append([step, round(epoch, 4), lr, margin, *means])
        self.sums = [0.0, 0.0, 0]

    def write(self) -> None:
        """Writes the curves as CSV, whole or not at all."""
        with atomic_write(self.path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([f"{x:.6g}" if isinstance(x, float) else x for x in row] for row in self.rows)

    def state(self) -> dict:
        """Gives all that a checkpoint must hold to go on."""
        return {"rows": self.rows, "sums": self.sums}


class Progress:
    """Progress of training: a tqdm bar on a terminal, a line every `seconds` in a log."""

    def __init__(self, total_steps: int, done: int, batch_size: int, seconds: float = 10.0, silent: bool = False):
        self.total, self.batch_size, self.seconds = total_steps, batch_size, seconds
        self.start = self.last = time.monotonic()
        self.first = done
        self.bar = None
        self.silent = silent
        if sys.stderr.isatty() and not silent:
            from tqdm import tqdm

            self.bar = tqdm(total=total_steps, initial=done, unit="step", dynamic_ncols=True)

    def update(self, step: int, epoch: float, loss: float, accuracy: float, lr: float) -> None:
        """Shows a step: on a terminal in the bar, in a log as a line every so many seconds."""
        if self.silent:
            return
        now = time.monotonic()
        rate = (step - self.first) * self.batch_size / max(now - self.start, 1e-9)
        if self.bar is not None:
            self.bar.update(1)
            self.bar.set_postfix_str(f"epoch {epoch:.1f} loss {loss:.3f} acc {accuracy:.3f} {rate:.1f} samples/s")
        elif now - self.last >= self.seconds or step == self.total:
            self.last = now
            left = (self.total - step) * self.batch_size / max(rate, 1e-9)
            print(f"step {step}/{self.total} epoch {epoch:.2f} loss {loss:.4f} accuracy {accuracy:.4f} "
                  f"lr {lr:.3g} {rate:.1f} samples/s {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
