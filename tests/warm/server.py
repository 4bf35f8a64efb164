"""Runs workers in forks of a process that has imported torch, which takes longer than what most workers of a test do.

usage: python3 tests/warm/server.py SOCKET; it ends when its standard input is closed

No module of svq is imported before the fork, so each worker runs the code that lies there when it starts. See
sitecustomize.py for the other side.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback

_OURS = os.path.dirname(os.path.abspath(__file__))
_FOREIGN = [path for path in sys.path if path not in (_OURS, "", *os.environ.get("PYTHONPATH", "").split(os.pathsep))]


def _import_libraries() -> None:
    import kaldiio  # noqa: F401
    import numpy  # noqa: F401
    import safetensors.torch  # noqa: F401
    import scipy.optimize  # noqa: F401
    import scipy.special  # noqa: F401
    import soundfile  # noqa: F401
    import torch.nn.utils.parametrize  # noqa: F401
    import torch.utils.data  # noqa: F401
    import tqdm  # noqa: F401
    import yaml  # noqa: F401


class Server:
    """Forks a worker for each connection. workers: process -> connection."""

    def __init__(self, path: str):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self.woken, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.workers: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        for source in (self.listener, self.woken, sys.stdin):
            self.selector.register(source, selectors.EVENT_READ)

    def serve(self) -> dict:
        """Serves for good; returns only in a fork, with what its worker is to be."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is sys.stdin:  # closed: whoever has started this is dead
                    sys.exit()
                if key.fileobj is self.listener:
                    asked = self._fork(self.listener.accept()[0])
                    if asked is not None:
                        return asked
                elif key.fileobj is self.woken:
                    self.woken.recv(4096)
                    self._report()
                else:
                    self._pass_on(key.fileobj)

    def _fork(self, connection: socket.socket) -> dict | None:
        head, files, _, _ = socket.recv_fds(connection, 8, 3)
        size, text = int.from_bytes(head, "big"), b""
        while len(text) < size:
            part = connection.recv(size - len(text))
            if not part:  # it was killed meanwhile
                connection.close()
                return None
            text += part
        process = os.fork()
        if process:
            self.workers[process] = connection
            self.selector.register(connection, selectors.EVENT_READ)
            for file in files:
                os.close(file)
            return None
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.selector.close()
        for ours in (self.listener, self.woken, self.waker, connection, *self.workers.values()):
            ours.close()
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        return json.loads(text)

    def _report(self) -> None:
        """Tells those whose workers have ended how they have."""
        for process, connection in list(self.workers.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                self._forget(process)
                try:
                    connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
                except OSError:
                    pass
                connection.close()

    def _pass_on(self, connection: socket.socket) -> None:
        """Gives a worker a signal; kills it, and what it has started, where the one that it works for is dead."""
        process = next((process for process, other in self.workers.items() if other is connection), None)
        if process is None:  # it has just ended
            return
        try:
            numbers = connection.recv(64)
        except OSError:
            numbers = b""
        if numbers:
            for number in numbers:
                os.kill(process, number)
            return
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        self._forget(process)
        connection.close()

    def _forget(self, process: int) -> None:
        self.selector.unregister(self.workers.pop(process))


def become(asked: dict) -> None:
    """Runs the worker as `python3 -m` would in a process of its own."""
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    os.umask(asked["umask"])
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [asked["folder"], *named, *_FOREIGN]
    sys.argv[:] = [asked["module"], *asked["words"]]
    code = 0
    try:
        runpy.run_module(asked["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # What Python does at its end, but for freeing memory, which would copy all that the fork shares.
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    server = Server(sys.argv[1])
    _import_libraries()
    gc.collect()
    gc.freeze()
    become(server.serve())
