"""Torch imported once for all workers of a recipe: half of what a run at debug size computes is importing torch.

A worker is then a fork of a process that has imported the libraries (server.py), and none of svq. What starts it, its
arguments, environment, files, signals and status are those of a process of its own (sitecustomize.py). For runs whose
processes are themselves what is tested there is no such server: none is asked for.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


@functools.cache
def environment() -> dict[str, str]:
    """Variables that have workers forked by a server, which is started here and ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="svq")  # short: a socket's path has at most 107 bytes
    socket = os.path.join(folder.name, "workers")
    # path.sh sets what C libraries read when they are loaded.
    server = subprocess.Popen(["bash", "-c", '. "$0/path.sh"; exec python3 "$1/server.py" "$2"', HERE.parents[1], HERE, socket],
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    atexit.register(folder.cleanup)
    atexit.register(server.kill)
    return {"SVQ_WARM": socket, "PYTHONPATH": os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(HERE)])}
