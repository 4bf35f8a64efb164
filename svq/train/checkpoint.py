"""Checkpoints, which hold all that a run needs to go on as if it had never stopped, and requests to end.

SIGTERM, or SIGUSR1, which a cluster sends before its time limit, ends a run once a checkpoint is written.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

import torch

from svq.atomic import atomic_path
from svq.errors import UserError
from svq.files import require_file

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def save_checkpoint(path, state: dict) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts) so that `path` is always a whole file."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path) -> dict | None:
    """Loads the state at `path`, or returns None where there is no file. Only plain data is read, never code.

    Raises UserError for a file that is damaged or no checkpoint.
    """
    if not os.path.exists(path):
        return None
    try:
        state = torch.load(require_file(path), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a checkpoint of ours ({reason}); remove it to start anew") from None
    if not isinstance(state, dict) or "run_id" not in state:
        raise UserError(f"{path}: not a checkpoint of ours; remove it to start anew")
    return state


class RunningAverage:
    """The mean of several state dicts, kept as sums, so that it takes the memory of just one copy of the model.

    Integer tensors (batch norm's counters) are not averaged: the last one counts.
    """

    def __init__(self, sums: dict[str, torch.Tensor] | None = None, count: int = 0):
        self.sums = sums or {}
        self.count = count

    def add(self, state: dict[str, torch.Tensor]) -> None:
        """Adds the weights of a network; floats are averaged, of others the last value counts."""
        for name, tensor in state.items():
            if tensor.is_floating_point() and name in self.sums:
                self.sums[name] += tensor.detach().cpu().double()
            else:
                value = tensor.detach().cpu()
                self.sums[name] = value.double() if tensor.is_floating_point() else value.clone()
        self.count += 1

    def mean(self) -> dict[str, torch.Tensor]:
        """Computes the averages, in float32. Raises UserError before the first `add`."""
        if not self.count:
            raise UserError("no checkpoint to average yet")
        return {
            name: (total / self.count).float() if total.is_floating_point() else total
            for name, total in self.sums.items()
        }

    def state(self) -> dict:
        """Gives all that a checkpoint must hold to go on."""
        return {"sums": self.sums, "count": self.count}


class Stopped(SystemExit):
    """Raised once a run that was asked to end has written its state; exits with status 128 plus the signal's number."""


class StopRequest:
    """A context in which SIGTERM and SIGUSR1 only set `signal` (0 until then); afterwards they do what they did before.

    Python changes handlers only in a process's main thread: in another thread nothing is ever requested.
    """

    def __init__(self):
        self.signal = 0
        self._before: dict = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame) -> None:
        self.signal = self.signal or number  # the first of several signals says how the run ends

    def flag(self, like: torch.Tensor) -> torch.Tensor:
        """Gives 1 where an end is asked for, else 0, in a tensor like the given one, for a sum over all processes."""
        return torch.full_like(like, float(bool(self.signal)))

    def stop(self, state: str) -> None:
        """Raises Stopped, after telling in one line that the same command goes on from the file `state`."""
        number = self.signal or signal.SIGTERM  # another process was asked
        print(f"ended by {signal.Signals(number).name}; the same command goes on from {state}", file=sys.stderr, flush=True)
        raise Stopped(128 + number)
