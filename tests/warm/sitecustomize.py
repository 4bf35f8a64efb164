"""Hands a worker over to the process of server.py, which has torch already. Python runs this first, by PYTHONPATH.

What is started stays in its place: it waits for the worker, passes signals on to it and ends as it has ended.
"""

import os
import sys

_SOCKET = os.environ.get("SVQ_WARM")


def _hand_over(path: str, module: str, words: list[str]) -> None:
    """Has `python3 -m module words` run by the server at `path` and never returns; returns where nobody listens there."""
    import json
    import signal
    import socket

    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(path)
    except OSError:
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: server.sendall(bytes([number])))
    asked = {"module": module, "words": words, "folder": os.getcwd(), "environment": dict(os.environ), "umask": os.umask(0)}
    text = json.dumps(asked).encode()
    socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(text)
    status = server.recv(4)
    code = int.from_bytes(status, "big", signed=True) if len(status) == 4 else 1
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if _SOCKET and sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith("svq.bin."):
    _hand_over(_SOCKET, sys.orig_argv[2], sys.orig_argv[3:])
