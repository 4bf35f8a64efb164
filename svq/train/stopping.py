"""Ends a run that was asked to end once its state is safe: SIGTERM, or SIGUSR1, which a cluster sends before its time limit."""

from __future__ import annotations

import signal
import sys
import threading

import torch

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(SystemExit):
    """Raised once the state of a run that was asked to end is written: the exit status is 128 plus the signal's number."""


class StopRequest:
    """Within `with StopRequest() as request`, the signals only set `request.signal`; they do what they did before after it.

    Python changes handlers in a process's main thread alone: in another one nothing is ever requested.
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
        self.signal = self.signal or number  # of several, the first says how the run ends

    def flag(self, like: torch.Tensor) -> torch.Tensor:
        """1 where an end is asked for, else 0, as a tensor like the given one: processes that train together add theirs."""
        return torch.full_like(like, float(bool(self.signal)))

    def stop(self, state: str) -> None:
        """Raises Stopped after saying in one line that `state`, a file, is where the same command goes on."""
        number = self.signal or signal.SIGTERM  # another process was asked
        print(f"ended by {signal.Signals(number).name}; the same command goes on from {state}", file=sys.stderr, flush=True)
        raise Stopped(128 + number)
