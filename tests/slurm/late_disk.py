"""A network disk that shows late what another machine has written: two folders, a thread that copies between them."""

import os
import shutil
import threading
import time


class LateDisk:
    """Copies a file of either folder into the other one once it is ``delay`` seconds old, folders at once.

    Use it as a context.
    """

    def __init__(self, one, other, delay):
        self.folders, self.delay, self.over = (one, other), delay, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def _run(self):
        while not self.over.wait(0.1):
            for source, target in (self.folders, self.folders[::-1]):
                for folder, _, names in os.walk(source):
                    there = os.path.join(target, os.path.relpath(folder, source))
                    os.makedirs(there, exist_ok=True)
                    for name in names:
                        self._copy(os.path.join(folder, name), os.path.join(there, name))

    def _copy(self, path, copy):
        try:
            changed = os.stat(path).st_mtime
            if time.time() - changed < self.delay or (os.path.exists(copy) and os.stat(copy).st_mtime >= changed):
                return
            shutil.copy2(path, copy + "~")
            os.replace(copy + "~", copy)
        except FileNotFoundError:        # removed in the meantime
            pass
