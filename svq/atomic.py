"""Outputs that are there whole or not at all: write beside, sync, rename."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import stat
import tempfile

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LIBRARIES = re.compile(r"inline_container|iostream error|Error while serializing: I/O error|\d+ requested and \d+ written")


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary name in the folder of `path`, and renames that file to `path` on success.

    On an exception the temporary file is removed and `path` is left as it was. After a power cut or `kill -9`
    the old file is there, or none, but never half of the new one. The new file gets the old one's permissions.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    stem, suffix = os.path.splitext(os.path.basename(path))
    # The suffix stays last: writers such as soundfile and matplotlib choose the format by it.
    handle, temporary = tempfile.mkstemp(prefix=f".{stem}.", suffix=f".tmp{suffix}", dir=folder)
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, _mode_of(path))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        failure = _of_writing(error, path, temporary, folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if failure is not error:
            raise failure from error
        raise


def _mode_of(path: str) -> int:
    """Gives the permissions of file `path`, or those of a new file where there is none."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _of_writing(error: BaseException, path: str, temporary: str, folder: str) -> BaseException:
    """Turns an error of writing (a full disk, the temporary file, a library) into an OSError that names `path`.

    torch, safetensors and numpy say in words of their own that they could not write. Other errors come back unchanged.
    """
    if isinstance(error, OSError) and (error.errno in _FULL or (error.errno and error.filename == temporary)):
        return OSError(error.errno, os.strerror(error.errno), path)
    if not isinstance(error, Exception) or not _LIBRARIES.search(f"{error} {error.__context__}"):
        return error
    given = re.search(r"\(os error (\d+)\)", str(error))
    number = int(given[1]) if given else errno.EIO if os.statvfs(folder).f_bavail else errno.ENOSPC
    return OSError(number, os.strerror(number), path)


def remove_leftovers(path) -> None:
    """Removes the temporary files that killed writers of `path` left beside it; no writer may be at work on it now."""
    folder, name = os.path.split(os.fspath(path))
    stem, suffix = os.path.splitext(name)
    for leftover in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(stem)}.*.tmp{glob.escape(suffix)}")):
        os.unlink(leftover)


@contextlib.contextmanager
def locked(path):
    """Holds the lock of `path` while the block runs: nobody who reads, changes and rewrites it undoes another's change.

    Waits for the holder: a thread or a process, on this machine or another one that shares the file system. A lock
    ends with its process, however that ends. Its file, `.NAME.lock` beside `path`, is removed at the end.
    """
    import fcntl  # not every system has it

    folder, name = os.path.split(os.fspath(path))
    os.makedirs(folder or ".", exist_ok=True)
    lock = os.path.join(folder, f".{name}.lock")
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_still(handle, lock):
                break
        except OSError as error:
            os.close(handle)
            raise OSError(error.errno, os.strerror(error.errno), lock) from None
        os.close(handle)  # the last holder has removed this file, and another may have made a new one
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(lock)
        os.close(handle)


def _is_still(handle: int, path: str) -> bool:
    """Says whether `path` still names the open file `handle`."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def atomic_write(path, mode: str = "w"):
    """Yields an open file that becomes `path` when the block ends without an exception."""
    with atomic_path(path) as temporary:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file


def write_json(path, obj) -> None:
    """Writes `obj` to file `path` as readable JSON with sorted keys, atomically."""
    with atomic_write(path) as file:
        json.dump(obj, file, indent=1, sort_keys=True)
        file.write("\n")
