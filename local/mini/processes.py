"""Runs every task in a fresh process, so that no task sees what another left in a library."""

import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from multiprocessing.connection import wait

from svq.errors import UserError

_PR_SET_PDEATHSIG = 1


def run_each(function, tasks, nj: int):
    """Calls function(*task) for each of the tasks, every call in a process of its own.

    At most nj run at a time. Yields once per finished task. The results are files that the
    function writes. When a task fails, the rest are stopped and UserError names the failed one. When
    the parent dies, by whatever signal, its children die with it.
    """
    context = multiprocessing.get_context("fork")
    waiting, running = list(reversed(tasks)), {}
    try:
        while waiting or running:
            while waiting and len(running) < nj:
                task = waiting.pop()
                process = context.Process(target=_child, args=(os.getpid(), function, task))
                process.start()
                running[process.sentinel] = (process, task)
            for sentinel in wait(list(running)):
                process, task = running.pop(sentinel)
                process.join()
                if process.exitcode != 0:
                    raise UserError(f"{task[0]} failed (status {process.exitcode}), see above")
                yield
    finally:
        for process, _ in running.values():
            process.kill()
            process.join()


def _child(parent: int, function, task) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    try:
        function(*task)
    except UserError as error:
        print(error, file=sys.stderr)
        status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        status = 0
    sys.stderr.flush()
    os._exit(status)  # flushes and cleans up nothing of the parent's
