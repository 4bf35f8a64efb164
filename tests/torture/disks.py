"""A disk of a size that can be changed: a tmpfs, where this user may mount one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LARGE = "6g"


class Disk:
    """A file system at `folder`; `.why_not` says why it could not be made, and then `folder` is an ordinary folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.why_not = _run("mount", "-t", "tmpfs", "-o", f"size={LARGE},mode=755", "tmpfs", folder)

    def leave_room(self, room: int) -> None:
        """Makes it so small that `room` bytes are left."""
        found = os.statvfs(self.folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        self._remount(f"size={used + room}")

    def grow(self) -> None:
        self._remount(f"size={LARGE},rw")

    def read_only(self) -> None:
        self._remount("ro")

    def _remount(self, options: str) -> None:
        why = _run("mount", "-o", f"remount,{options}", self.folder)
        assert not why, why

    def close(self) -> None:
        if not self.why_not:
            _run("umount", "--lazy", self.folder)


class ReadOnlyView:
    """`with ReadOnlyView(folder)`: nothing can be written in it; `.why_not` as of Disk."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> ReadOnlyView:
        self.why_not = _run("mount", "--bind", self.folder, self.folder) or _run("mount", "-o", "remount,bind,ro", self.folder)
        return self

    def __exit__(self, *_) -> None:
        _run("umount", self.folder)


def _run(*words) -> str:
    """What a command says that fails; empty where it does not."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"{words[0]} failed"
